"""The rows of a training file, whose texts can be exchanged: of GLUE (TSV or saved datasets) and CoNLL's columns."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dataset.conll import read_conll
from dataset.errors import DataError
from dataset.glue import read_glue
from dataset.sources import candidate_folders, is_saved_dataset, listing, read_lines
from dataset.tasks import Task, get_task
from utils.augmentation.words import Sentence

#: Name of the task whose rows are tagged sentences; its folder may be called as the data are.
CONLL = "conll"
_CONLL_NAMES = ("conll", "CoNLL", "conll2003", "CoNLL-2003")
_CONLL_FILES = ("train.tsv", "train.txt")
#: CoLA's training file has no header; its text is the fourth column.
_COLA_TEXT = 3
_LOOKED_AT = 100


class Row(ABC):
    """One training row."""

    sentences: tuple[Sentence, ...]

    @abstractmethod
    def written(self, words: Sequence[Sequence[str]]) -> str:
        """The row's text in the file, with other words in its sentences; ends with a newline."""


@dataclass(frozen=True)
class TsvRow(Row):
    """A line of a TSV file, whose columns `at` are text."""

    columns: tuple[str, ...]
    at: tuple[int, ...]
    sentences: tuple[Sentence, ...]

    def written(self, words: Sequence[Sequence[str]]) -> str:
        """The line with other texts; labels and all other columns stay."""
        columns = list(self.columns)
        for at, sentence, new in zip(self.at, self.sentences, words, strict=True):
            columns[at] = sentence.joined(new)
        return "\t".join(columns) + "\n"


@dataclass(frozen=True)
class TaggedRow(Row):
    """A sentence with a tag per token; its lines keep their further columns."""

    rows: tuple[tuple[str, ...], ...]
    sentences: tuple[Sentence, ...]
    separator: str

    def written(self, words: Sequence[Sequence[str]]) -> str:
        """A line per token, and a blank one."""
        lines = [self.separator.join((new, *row[1:])) for new, row in zip(words[0], self.rows, strict=True)]
        return "\n".join([*lines, "", ""])


class Source(NamedTuple):
    """A training file: where it is, and the text that stands before its first row.

    Attributes:
        path: of a saved datasets folder the folder itself.
    """

    path: Path
    task: str
    header: str

    @property
    def file(self) -> Path:
        """What changes with the rows: the training file, or what `save_to_disk` writes about them."""
        names = ("dataset_dict.json", "state.json") if self.path.is_dir() else ()
        return next((self.path / name for name in names if (self.path / name).is_file()), self.path)

    @property
    def target(self) -> Path:
        """Where the new rows go unless another file is named."""
        folder = self.path if self.path.is_dir() else self.path.parent
        return folder / "train_aug.tsv"

    def rows(self) -> Iterator[Row]:
        """All rows, one at a time.

        Raises:
            DataError: a row is broken; the message names file and line.
        """
        if self.task == CONLL:
            return _tagged_rows(self.path)
        if self.path.is_dir():
            return _saved_rows(self.path, get_task(self.task))
        return _tsv_rows(self.path, get_task(self.task), self.header)


def find_source(name: str, glue_dir: Path) -> Source:
    """The training file of a task in `glue_dir`, its parent folder or its own.

    Raises:
        DataError: there is no such task or no such file, or its header lacks a text column.
    """
    if name.lower().startswith(CONLL):
        return Source(_find(glue_dir, _CONLL_NAMES, _CONLL_FILES, CONLL), CONLL, "")
    try:
        task = get_task(name)
    except DataError as error:
        raise DataError(f"--task_name: {error}") from None
    if not task.hub_name:
        raise DataError(f"--task_name {name}: rows of {task.name} cannot be augmented, expected a GLUE task or {CONLL}")
    names = (task.name, task.hub_name, task.folder)
    saved = _saved_folder(glue_dir, names, task.split_file("train"))
    if saved is not None:
        return Source(saved, task.name, "" if task.name == "cola" else "\t".join(_saved_header(task)))
    path = _find(glue_dir, names, (task.split_file("train"),), task.name)
    header = "" if task.name == "cola" else _first_line(path)
    _text_columns(path, task, header)
    return Source(path, task.name, header)


def _saved_folder(root: Path, names: Sequence[str], file: str) -> Path | None:
    """The folder of the task that `save_to_disk` wrote, unless `file` lies in one of its places."""
    folders = candidate_folders(root, names)
    if any((folder / file).is_file() for folder in folders):
        return None
    return next((folder for folder in folders if is_saved_dataset(folder)), None)


def _saved_header(task: Task) -> list[str]:
    return [*task.file_columns, task.file_label_column]


def _saved_rows(folder: Path, task: Task) -> Iterator[TsvRow]:
    """The rows of a saved datasets folder as they would stand in a TSV file of the task."""
    for example in read_glue(task, folder, "train"):
        texts = [re.sub(r"[\t\r\n]", " ", text) for text in example.texts]  # they separate columns and rows
        label = str(example.label) if task.kind == "regression" else task.file_labels[int(example.label or 0)]
        is_cola = task.name == "cola"
        columns = ("", label, "", texts[0]) if is_cola else (*texts, label)
        at = (_COLA_TEXT,) if is_cola else tuple(range(len(texts)))
        yield TsvRow(columns, at, tuple(Sentence.of_text(columns[k]) for k in at))


def _find(root: Path, names: Sequence[str], files: Sequence[str], task: str) -> Path:
    folders = candidate_folders(root, names)
    found = [folder / file for folder in folders for file in files if (folder / file).is_file()]
    if not found:
        places = ", ".join(str(folder.relative_to(root)) for folder in folders if folder != root)
        raise DataError(
            f"--glue_dir {root}: neither {' or '.join(files)} nor a saved dataset of {task}, there or in its "
            f"subfolders {places}; "
            f"{root}: {listing(root)}"
        )
    return found[0]


def _first_line(path: Path) -> str:
    for line in read_lines(path):
        return line.text
    raise DataError(f"{path}: this file is empty")


def _text_columns(path: Path, task: Task, header: str) -> tuple[int, ...]:
    if task.name == "cola":
        return (_COLA_TEXT,)
    columns = header.split("\t")
    if missing := [name for name in task.file_columns if name not in columns]:
        raise DataError(f"{path}:1: no column {', '.join(map(repr, missing))}, the header is {', '.join(columns)}")
    return tuple(columns.index(name) for name in task.file_columns)


def _tsv_rows(path: Path, task: Task, header: str) -> Iterator[Row]:
    at = _text_columns(path, task, header)
    needed = max(at) + 1
    lines = (line for line in read_lines(path) if line.text)
    if header:
        next(lines, None)
    for line in lines:
        columns = tuple(line.text.split("\t"))
        if len(columns) >= needed:
            yield TsvRow(columns, at, tuple(Sentence.of_text(columns[k]) for k in at))
        elif not task.skip_short_rows:
            raise DataError(f"{path}:{line.number}: {len(columns)} columns, expected at least {needed} (tab separated)")


def _tagged_rows(path: Path) -> Iterator[Row]:
    separator = ""
    for sentence in read_conll(path):
        separator = separator or _separator(path)
        yield TaggedRow(sentence.rows, (Sentence.of_tokens(sentence.tokens),), separator)


def _separator(path: Path) -> str:
    """A tab where the file has one between columns, else a space."""
    return "\t" if any("\t" in line.text.strip() for line in islice(read_lines(path), _LOOKED_AT)) else " "
