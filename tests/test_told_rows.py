"""What is told of rows that are read without an error: cut ones, development sets that tell nothing, own indices."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from dataset import DataError, Feature, get_task
from dataset.remarks import warn_cut, warn_few_rows, warn_little_told
from model import PluginConfig, apply_edit
from tests.helpers_tokenizer import tiny_tokenizer
from tests.tiny_bert import TinyBert, run_task, tiny_word_pieces
from utils.engine import Runtime
from utils.tucker.data import AX, DataRequest, test_batches, test_sentences, training_batches, validation_sets
from utils.tucker.prediction import write_predictions
from utils.variator.data import DataRequest as T5Request
from utils.variator.data import build_data
from utils.warning_lines import show_warnings

test_batches.__test__ = test_sentences.__test__ = False  # type: ignore[attr-defined]
pytestmark = pytest.mark.usefixtures("one_thread")
LONG = "good film " * 40
_T5_SIZES = {"vocab_size": 300, "d_model": 8, "d_kv": 4, "num_heads": 2, "d_ff": 8, "num_layers": 1}


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    """One process on the CPU."""
    return Runtime("fp32", "bert", 0, cpu=True)


def request(folder: Path, name: str, length: int = 32) -> DataRequest:
    """The data of a run."""
    return DataRequest(get_task(name), str(folder), length, 4, 4)


def sst2(folder: Path, rows: list[str], name: str = "dev.tsv", header: str = "sentence\tlabel") -> Path:
    """A file of SST-2."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return folder


# --- cut rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cut", "rows", "message"),
    [
        (1, 8, "rte, train: 1 of 8 rows is longer than --max_seq_length 32 tokens and is cut"),
        (3, 1200, "rte, train: 3 of 1,200 rows are longer than --max_seq_length 32 tokens and are cut"),
        (0, 8, ""),
    ],
)
def test_cut_rows_are_counted_in_one_line(cut: int, rows: int, message: str, caplog: pytest.LogCaptureFixture) -> None:
    """None where nothing is cut."""
    warn_cut([Feature(i, [1], is_cut=i < cut) for i in range(rows)], "rte, train", "--max_seq_length", 32)
    assert [record.getMessage() for record in caplog.records] == ([message] if message else [])


def test_every_set_of_a_classifier_is_counted(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """Training, development and test rows, of sentences and of pairs; rows that just fit are not cut."""
    fits = " ".join(["good"] * 30)
    for name, index in (("train.tsv", ""), ("dev.tsv", ""), ("test.tsv", "")):
        sst2(tmp_path, [f"{text}\t{i % 2}{index}" for i, text in enumerate([fits, LONG, fits, LONG, LONG, "a"])], name)
    asked, pieces = request(tmp_path, "sst2"), tiny_word_pieces()
    training_batches(asked, pieces, runtime)
    validation_sets(asked, pieces, runtime)
    test_batches(asked, asked.task, pieces, runtime)
    expected = "sst2, {}: 3 of 6 rows are longer than --max_seq_length 32 tokens and are cut"
    assert caplog.messages == [expected.format(split) for split in ("train", "valid", "test")]


@pytest.mark.parametrize(("first", "second", "cut"), [(14, 15, 0), (15, 15, 1), (2, 28, 1), (29, 1, 1), (1, 28, 0)])
def test_pairs_are_cut_where_both_texts_together_are_too_long(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture, first: int, second: int, cut: int
) -> None:
    """29 tokens of text fit beside the three marks."""
    text = [" ".join(["good"] * number) for number in (first, second)]
    row = f"1\t1\t2\t{text[0]}\t{text[1]}"
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    sst2(tmp_path, [row], "train.tsv", header)
    training_batches(request(tmp_path, "mrpc"), tiny_word_pieces(), runtime)
    assert len(caplog.records) == cut


def test_cut_sentences_of_tagged_words_are_counted(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """In the words' pieces; a word without pieces counts for none."""
    for name in ("train", "test"):
        fits, cut = "good O\n" * 30 + "\u200b O\n", "good O\n" * 31
        (tmp_path / f"{name}.txt").write_text(f"{fits}\n{cut}\nfilm B-PER\n")
    training_batches(request(tmp_path, "conll"), tiny_word_pieces(), runtime)
    test_sentences(request(tmp_path, "conll"), tiny_word_pieces(), runtime)
    expected = "conll, {}: 1 of 3 rows is longer than --max_seq_length 32 tokens and is cut"
    assert caplog.messages == [expected.format(split) for split in ("train", "test")]


@pytest.mark.parametrize("ratios", [(), (2, 3, 4, 5, 6, 7, 8, 9, 10)])
def test_a_t5s_rows_are_counted_and_padded_to_the_longest_alone(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture, ratios: tuple[int, ...]
) -> None:
    """Whatever ratios the model has: what their groups need, it adds itself."""
    torch.manual_seed(0)
    t5 = T5ForConditionalGeneration(T5Config(**_T5_SIZES))
    if ratios:
        apply_edit(t5, PluginConfig(ratios))
    sst2(tmp_path, [f"{LONG}\t0", "good\t1", f"{LONG}\t1", "bad\t0", "a\t1"], "train.tsv")
    sst2(tmp_path, ["good\t1"] * 5 + ["a bad film\t1"])
    asked = T5Request("sst2", str(tmp_path), 64, 8, 0, "hf", train=True)
    data = build_data(asked, tiny_tokenizer(), t5.config, runtime)
    assert caplog.messages == [
        "sst2, train: 2 of 5 rows are longer than --max_seq_length 64 tokens and are cut",
        f"--data_dir {tmp_path}: the development set of sst2 tells nothing: all 6 rows have the label positive, and "
        "a constant answer is perfect",
    ]
    assert data.train is not None and next(iter(data.train.batches(0)))["input_ids"].shape == (5, 64)
    longest = max(len(feature.input_ids) for feature in data.features)
    assert next(iter(data.valid.batches(0)))["input_ids"].shape == (6, longest)


# --- development sets that tell nothing -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("sst2", [1] * 8, "tells nothing: all 8 rows have the label positive"),
        ("mnli", [2] * 300, "tells nothing: all 300 rows have the label contradiction"),
        ("stsb", [2.5] * 8, "tells nothing: all 8 rows have the score 2.5"),
        ("sst2", [0, 1], "tells little: it has 2 rows"),
        ("sst2", [1], "tells little: it has 1 row"),
        ("sst2", [0, 0, 1, 0, 0], ""),
        ("stsb", [0.0, 1.0, 2.0, 2.0, 2.0], ""),
    ],
)
def test_a_development_set_that_tells_nothing_is_told(
    name: str, labels: list[Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One class or score only, or next to no rows: one line with the reason."""
    warn_little_told(get_task(name), labels, "--data-dir x")
    assert len(caplog.records) == bool(message) and message in caplog.text


def test_few_questions_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """Of tasks without classes only the number of rows is looked at."""
    warn_few_rows(get_task("squad"), 4, "--data-path x")
    warn_few_rows(get_task("squad"), 5, "--data-path x")
    assert caplog.messages == ["--data-path x: the development set of squad tells little: it has 4 rows"]


def test_runs_say_it_of_both_sets_of_mnli(tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    """Where the second one alone has one class, that one is named."""
    header = "sentence1\tsentence2\tgold_label"
    sst2(tmp_path, [f"a\tb\t{('neutral', 'entailment')[i % 2]}" for i in range(6)], "dev_matched.tsv", header)
    sst2(tmp_path, ["a\tb\tneutral"] * 6, "dev_mismatched.tsv", header)
    validation_sets(request(tmp_path, "mnli"), tiny_word_pieces(), runtime)
    (message,) = caplog.messages
    assert "of mnlimm tells nothing: all 6 rows have the label neutral" in message


# --- what test rows are called --------------------------------------------------------------------


class Longest(torch.nn.Module):
    """A classifier for which a text is positive if it has more than one word."""

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        """Logits of every row."""
        positive = (attention_mask.sum(1) > 3).float()
        return SimpleNamespace(logits=torch.stack([1 - positive, positive], 1))


@pytest.mark.parametrize(
    ("ids", "said"), [((3, 1, 0, 2), "own index"), ((0, 1, 2, 3), "rows)"), (("x7", "x5", "a", "b"), "own index")]
)
def test_predictions_carry_the_index_of_the_test_file(
    tmp_path: Path, runtime: Runtime, ids: tuple[Any, ...], said: str
) -> None:
    """In the order of the file, each with the prediction of its own text."""
    texts = ("film", "good film", "a", "a good film")
    sst2(tmp_path, [f"{i}\t{text}" for i, text in zip(ids, texts, strict=True)], "test.tsv", "index\tsentence")
    (made, _) = write_predictions(
        runtime, Longest(), request(tmp_path, "sst2"), tiny_word_pieces(), tmp_path / "predictions"
    )
    rows = (tmp_path / "predictions" / "SST-2.tsv").read_text().splitlines()
    assert rows == ["index\tprediction", *(f"{i}\t{int(' ' in text)}" for i, text in zip(ids, texts, strict=True))]
    assert said in made


def test_a_broken_diagnostic_set_is_told_and_a_missing_one_too(tmp_path: Path, runtime: Runtime) -> None:
    """It is optional; but what is there and cannot be read is named with its line, beside MNLI's folder too."""
    asked, pieces = request(tmp_path / "MNLI", "mnli"), tiny_word_pieces()
    (tmp_path / "MNLI").mkdir()
    with pytest.raises(DataError, match=r"neither diagnostic\.tsv nor AX\.tsv"):
        test_batches(asked, AX, pieces, runtime)
    sst2(tmp_path / "diagnostic", ["0\ta\tb", "1\ta\tb\tc"], "AX.tsv", "index\tsentence1\tsentence2")
    with pytest.raises(DataError, match=r"AX\.tsv:3: 4 columns, the header has 3"):
        test_batches(asked, AX, pieces, runtime)
    sst2(tmp_path / "diagnostic", ["5\ta\tb", "1\ta\tb"], "diagnostic.tsv", "index\tsentence1\tsentence2")
    assert test_batches(asked, AX, pieces, runtime)[1] == ["5", "1"]


# --- how warnings are shown -----------------------------------------------------------------------


def test_warnings_are_one_line_each_and_come_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages of a run read the same rows again; other processes than the main one are silent."""
    for is_main, expected in ((True, "warning: a 1\\nb\nwarning: c\n"), (False, "")):
        for name in ("dataset", "metric", "model", "serving", "utils"):
            monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        show_warnings(is_main)
        logger = logging.getLogger("dataset.tsv")
        for _ in range(3):
            logger.warning("a %d\nb", 1)
            logger.info("not worth a word")
        logger.warning("c")
        assert capsys.readouterr().err == expected


def test_a_faulty_training_file_is_told_before_a_faulty_development_file(tmp_path: Path) -> None:
    """It is the first one that a user would look at."""
    tiny = TinyBert(tmp_path / "tiny")
    for name in ("train.tsv", "dev.tsv"):
        sst2(tiny.glue / "SST-2", ["a\tb\t1"], name)
    with pytest.raises(DataError, match=r"train\.tsv:2: 3 columns, the header has 2"):
        run_task(tiny.task(tmp_path / "run", "--mode", "finetune", "--teacher_model", tiny.model))
