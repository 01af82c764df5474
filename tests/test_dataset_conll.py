"""Files of tagged words: columns, sentences, and broken lines."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.conll import read_conll, write_conll
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
        ("EU B-ORG\nrejects\n", r"train\.txt:2: 1 column, expected 2"),
        ("EU NNP B-ORG\n\nrejects O\n", r"train\.txt:3: 2 columns, expected 3"),
        ("EU\n", r"train\.txt:1: 1 column, expected a token and its tag, separated by a blank or a tab"),
        ("EU,B-ORG\nrejects,O\n", r"train\.txt:1: 1 column, .* is ',' the separator\?"),
        ("EU B-ORG\n\n# id = 7\nrejects O\n", r"train\.txt:3: 4 columns, expected 2; if this is a comment"),
        ("EU\tB-ORG\n\tO\n", r"train\.txt:2: column 1 is empty"),
        ("EU\tB-ORG\nrejects\t\n", r"train\.txt:2: 1 column, expected 2"),
        ("EU B-ORG\rrejects O\r", "its lines end in CR alone"),
        ("\n-DOCSTART- O\n", "no sentences"),
    ],
)
def test_broken_conll_lines_are_named(text: str, words: str, tmp_path: Path) -> None:
    """File and line."""
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        list(read_conll(tmp_path / "train.txt"))


@pytest.mark.parametrize("blank", ["\u00a0", "\u3000", "\u2009", "\x1f", "\x1c", "\x85", "\u2028", "\x0b", "\ufeff"])
@pytest.mark.parametrize("separator", [" ", "\t", "  ", " \t"])
def test_only_spaces_and_tabs_separate_columns(tmp_path: Path, blank: str, separator: str) -> None:
    """Any other blank is part of a token, and may be a whole one."""
    words = ("a", f"10{blank}000", blank, f"{blank}b", f"c{blank}")
    (tmp_path / "train.txt").write_text("".join(f"{word}{separator}O\n" for word in words), newline="")
    (sentence,) = read_conll(tmp_path / "train.txt")
    assert sentence.tokens == words and set(sentence.tags) == {"O"}


@pytest.mark.parametrize("end", ["\t", " ", "\t\t", " \t ", "\r", " \r", "\t\r"])
def test_blanks_at_the_end_of_a_line_do_not_count(tmp_path: Path, end: str) -> None:
    """With spaces or tabs between the columns, in some lines or in all, and in lines that separate sentences."""
    for text in (f"Anna\tO{end}\nleft\tO\n{end}\nBen\tO{end}", f"Anna O{end}\nleft O\n{end}\nBen O{end}\n"):
        (tmp_path / "train.txt").write_text(text, newline="")
        assert [s.rows for s in read_conll(tmp_path / "train.txt")] == [(("Anna", "O"), ("left", "O")), (("Ben", "O"),)]


@pytest.mark.parametrize(
    "text",
    [
        "1 Anna NNP O\n2 left VBD O\n\n1 Ben NNP O\n",
        "1\tAnna\tO\n2\tleft\tO\n\n1\tBen\tO\n2\t.\tO\n",
        "0 Anna O\n1 left O\n\n0 Ben O\n",
        "1 Anna O\n2 left O\n\n3 Ben O\n4 came O\n",
        "1-2 del O\n1 de O\n2 el O\n\n1 Ben O\n1.1 _ O\n",
        "1 O\n2 O\n",
    ],
)
def test_a_first_column_that_counts_words_is_refused(tmp_path: Path, text: str) -> None:
    """From 0 or 1 in each sentence, or through the file; the tokens would be numbers."""
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(DataError, match=r"train\.txt: the first column counts the words .* cut -f 2-"):
        list(read_conll(tmp_path / "train.txt"))


@pytest.mark.parametrize(
    "text", ["1 O\n\n1 O\n", "1 O\n2 O\n\n2 O\n1 O\n", "1 O\n3 O\n", "1 O\n2 O\n\nAnna O\n", "2 O\n3 O\n\nx O\n"]
)
def test_numbers_are_tokens_where_they_do_not_count_throughout(tmp_path: Path, text: str) -> None:
    """Sentences of numbers occur in any text."""
    (tmp_path / "train.txt").write_text(text)
    assert sum(len(s.rows) for s in read_conll(tmp_path / "train.txt")) == text.count("O")


_CHARACTERS = st.characters(exclude_characters=" \t\n", exclude_categories=["Cs"])
_WORDS = st.text(_CHARACTERS, min_size=1, max_size=4) | st.sampled_from(
    ["-DOCSTART-", "#", "\ufeffa", "\u00a0", "1", "2"]
)
_SENTENCES = st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.lists(st.lists(_WORDS, min_size=width, max_size=width), min_size=1, max_size=3), min_size=1, max_size=3
    )
)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(_SENTENCES, st.sampled_from([" ", "\t"]), st.sampled_from(["", "B-PER", "New York"]))
def test_what_was_read_is_written_so_that_it_is_read_again(
    sentences: list[list[list[str]]], separator: str, more: str
) -> None:
    """With a further column or without, whatever the tokens hold that a file can hold."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.txt")
        blocks = ["".join(separator.join(row) + "\n" for row in rows) for rows in sentences]
        path.write_bytes("\n".join(blocks).encode())
        try:
            found = [sentence.rows for sentence in read_conll(path, tagged=False)]
        except DataError:
            return  # no text at all, or one of numbers
        wanted = [tuple((*row, *([more] if more else [])) for row in rows) for rows in found]
        again = list(read_conll(write_conll(Path(folder, "b.txt"), wanted), tagged=False))
        assert [sentence.rows for sentence in again] == wanted


def test_real_tagged_data_are_read(shared: Path) -> None:
    """WNUT-17: every line that is not blank is a token of some sentence."""
    path = shared / "data" / "wnut17" / "train.txt"
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    assert sum(len(sentence.rows) for sentence in read_conll(path)) == len(lines)
