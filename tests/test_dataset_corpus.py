"""Finding and reading corpora."""

import tracemalloc
from itertools import islice

import pytest

from dataset import DataError, find_corpus_files, iter_lines


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.txt", "train"),
        ("wikitext2-train.txt", "train"),
        ("wiki_train_03", "train"),
        ("train1.txt", "train"),
        ("Valid.txt", "valid"),
        ("wiki.validation.tokens", "valid"),
        ("dev.txt", "valid"),
    ],
)
def test_split_is_recognised_as_a_word_of_the_name(tmp_path, name, split):
    """The word may be joined by anything but letters."""
    (tmp_path / name).touch()
    assert [path.name for path in find_corpus_files(tmp_path, split)] == [name]


@pytest.mark.parametrize("name", ["constrained.txt", "trainer.txt", "invalid.txt", "train.json", ".train.txt"])
def test_other_files_are_left_alone(tmp_path, name):
    """A part of a longer word does not count, nor do files that are not plain text; the message lists them."""
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"no text file with the word .* it holds {name}"):
        find_corpus_files(tmp_path, "valid" if "valid" in name else "train")


def test_missing_folder_is_reported(tmp_path):
    """A path that is a file or is not there."""
    with pytest.raises(DataError, match="expected a folder with text files, it does not exist"):
        find_corpus_files(tmp_path / "nowhere", "train")


def test_lines_without_two_words_are_skipped(tmp_path):
    """Empty lines and lone words cannot be corrupted; numbers count all lines."""
    path = tmp_path / "train.txt"
    path.write_bytes("\ufeffone two\n\n  \nword\nthree four \r\n".encode())
    assert list(iter_lines([path])) == [(0, 1, "one two"), (0, 5, "three four ")]


def test_useless_and_broken_files_are_reported(tmp_path):
    """No usable line, or a line that is not UTF-8."""
    path = tmp_path / "train.txt"
    path.write_text("word\n\n")
    with pytest.raises(DataError, match="no line with two words or more"):
        list(iter_lines([path]))
    path.write_bytes(b"one two\ncaf\xe9 two\n")
    with pytest.raises(DataError, match=r"train\.txt:2: this line is not UTF-8"):
        list(iter_lines([path]))


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Ten megabytes are read with less than one in memory."""
    path = tmp_path / "train.txt"
    path.write_text("some words of text\n" * 550_000)
    tracemalloc.start()
    count = sum(1 for _ in islice(iter_lines([path]), 100_000))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 100_000
    assert peak_bytes < 1_000_000
