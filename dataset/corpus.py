"""Text corpora: files whose name says train or valid, one passage per line, read in constant memory."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dataset.errors import DataError
from dataset.sources import Line, listing, read_lines
from dataset.tasks import known_split

# The word must stand alone: "constrained.txt" is no training file, "wiki-train_03.txt" is one.
_WORDS = {"train": "train|training", "valid": "valid|validation|dev", "test": "test"}
_NOT_TEXT = frozenset({".json", ".jsonl", ".tsv", ".csv", ".md", ".gz", ".zip", ".bz2", ".xz", ".tar", ".parquet"})
_NOT_TEXT_EITHER = frozenset({".arrow", ".bin", ".npy", ".npz", ".pt", ".pkl", ".idx", ".model", ".log", ".py", ".sh"})


def find_corpus_files(data_path: str | Path, split: str) -> list[Path]:
    """The text files of one split, sorted by name.

    Args:
        data_path: a folder, whose files have the word train (training) or valid (validation, dev) in their
            names.
        split: train, valid or test.

    Raises:
        DataError: there are none; the message says what is there.
    """
    word = _WORDS[known_split(split)]
    root = Path(data_path)
    if not root.is_dir():
        raise DataError(f"--data_dir {root}: expected a folder with text files, {listing(root)}")
    pattern = re.compile(rf"(?<![a-z])(?:{word})(?![a-z])", re.IGNORECASE)
    found = sorted(path for path in root.iterdir() if pattern.search(path.name) and _is_text(path))
    if not found:
        raise DataError(f"--data_dir {root}: no text file with the word {split!r} in its name; {listing(root)}")
    return found


def _is_text(path: Path) -> bool:
    unfit = _NOT_TEXT | _NOT_TEXT_EITHER
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in unfit


def iter_lines(files: Sequence[Path], order: Sequence[int] | None = None) -> Iterator[Line]:
    """Usable lines of all files, one at a time.

    Lines with fewer than two words are left out: they can be a single token, of which nothing can be hidden
        while
    something is kept.

    Args:
        files: the files; ``Line.file`` is the position in this list.
        order: in which order to read them, by position (default: as listed).

    Raises:
        DataError: no file has a usable line, or one cannot be read.
    """
    usable = False
    for position in range(len(files)) if order is None else order:
        for line in read_lines(files[position], position):
            if len(line.text.split(maxsplit=1)) == 2:
                usable = True
                yield line
    if not usable:
        raise DataError(f"{', '.join(map(str, files))}: no line with two words or more")
