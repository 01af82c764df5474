"""Files of tagged words: columns, sentences, and broken lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset.conll import read_conll
from dataset.errors import DataError


def test_conll_columns_are_read(tmp_path: Path) -> None:
    """Tabs or spaces, blank lines with spaces in them, no blank line at the end."""
    path = tmp_path / "train.txt"
    path.write_text("-DOCSTART- -X- O\n\nEU NNP B-ORG\r\nrejects VBZ O\n \t\n\nPeter NNP B-PER", encoding="utf-8")
    sentences = list(read_conll(path))
    assert [(s.tokens, s.tags, s.line) for s in sentences] == [
        (("EU", "rejects"), ("B-ORG", "O"), 3),
        (("Peter",), ("B-PER",), 7),
    ]
    path.write_text("New York\tB-LOC\n!\tO\n", encoding="utf-8")
    assert [s.tokens for s in read_conll(path)] == [("New York", "!")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("EU B-ORG\nrejects\n", r"train\.txt:2: 1 columns, expected 2"),
        ("EU NNP B-ORG\n\nrejects O\n", r"train\.txt:3: 2 columns, expected 3"),
        ("EU\n", r"train\.txt:1: 1 columns, expected a token and its tag"),
        ("\n-DOCSTART- O\n", "no sentences"),
    ],
)
def test_broken_conll_lines_are_named(text: str, words: str, tmp_path: Path) -> None:
    """File and line."""
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        list(read_conll(tmp_path / "train.txt"))


def test_real_tagged_data_are_read(shared: Path) -> None:
    """WNUT-17: every line that is not blank is a token of some sentence."""
    path = shared / "data" / "wnut17" / "train.txt"
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    assert sum(len(sentence.rows) for sentence in read_conll(path)) == len(lines)
