"""What the tests of pre-generation share: a text of numbered words, its tokenizer, and the tool."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_wordpiece import NumberedText, write_tokenizer
from utils.pregenerate import generate
from utils.pregenerate_training_data import main

Run = Callable[..., Path]
#: A line of a pregenerated file.
INSTANCE: dict[str, Any] = {
    "tokens": ["[CLS]", "a", "[MASK]", "[SEP]", "b", "[SEP]"],
    "segment_ids": [0, 0, 0, 0, 1, 1],
    "is_random_next": False,
    "masked_lm_positions": [2],
    "masked_lm_labels": ["a"],
}


@pytest.fixture(scope="module")
def text() -> NumberedText:
    """Thirty documents of one to nine lines of one to twelve words."""
    rng = random.Random(0)
    return NumberedText([[rng.randint(1, 12) for _ in range(rng.randint(1, 9))] for _ in range(30)])


@pytest.fixture(scope="module")
def bert(text: NumberedText, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the tokenizer of `text`."""
    return write_tokenizer(tmp_path_factory.mktemp("bert") / "bert", text.vocabulary)


@pytest.fixture
def run(text: NumberedText, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the tool on `text`: `run(name, flags…)` gives the output directory `name`."""
    corpus = text.write(tmp_path / "corpus.txt")
    monkeypatch.setattr(generate, "_PART_BYTES", 200)

    def tool(name: str, *more: object) -> Path:
        fixed = f"--train_corpus {corpus} --bert_model {bert} --output_dir {tmp_path / name} --line_filter off"
        sizes = "--max_seq_len 24 --epochs_to_generate 2 --num_workers 1"
        main([*fixed.split(), *sizes.split(), *map(str, more)])
        return tmp_path / name

    return tool
