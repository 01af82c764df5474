"""The rows of a training file, whose texts can be exchanged: of GLUE (TSV or saved datasets) and CoNLL's columns."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dataset.conll import read_conll, separator_of
from dataset.errors import DataError
from dataset.glue import find_glue, read_glue
from dataset.sources import read_lines
from dataset.tasks import TASKS, Task, get_task
from dataset.tokens import find_tagged
from dataset.tsv import TsvFile, open_tsv
from utils.augmentation.words import Sentence

#: The option with the folder of the data.
_FLAG = "--data_dir"
#: The place of the text in rows that are written in the form of CoLA's file.
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
        task = get_task(self.task)
        if task.kind == "token_classification":
            return _tagged_rows(self.path)
        if self.path.is_dir():
            return _saved_rows(self.path, task)
        return _tsv_rows(self.path, task)


def find_source(name: str, glue_dir: Path) -> Source:
    """The training file of a task in `glue_dir`, its parent folder or its own: the one that training reads.

    Raises:
        DataError: there is no such task or no such file, or its header lacks a text column.
    """
    try:
        task = get_task(name)
    except DataError as error:
        raise DataError(f"--task_name: {error}") from None
    if task.kind == "token_classification":
        return Source(find_tagged(task, glue_dir, "train", flag=_FLAG), task.name, "")
    if not task.hub_name:
        tagged = " or ".join(known.name for known in TASKS.values() if known.kind == "token_classification")
        raise DataError(f"--task_name {name}: rows of {task.name} cannot be augmented, expected a GLUE task, {tagged}")
    path = find_glue(task, glue_dir, "train", flag=_FLAG)
    if path.is_dir():
        return Source(path, task.name, "" if task.name == "cola" else "\t".join(_saved_header(task)))
    file = open_tsv(task, path, "train")
    _text_columns(file)
    return Source(path, task.name, "\t".join(file.header) if file.header_line else "")


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


def _text_columns(file: TsvFile) -> tuple[int, ...]:
    return tuple(file.column(name) for name in file.task.file_columns)


def _tsv_rows(path: Path, task: Task) -> Iterator[Row]:
    file = open_tsv(task, path, "train")
    at = _text_columns(file)
    for _, columns in file.rows():
        yield TsvRow(columns, at, tuple(Sentence.of_text(columns[k]) for k in at))


def _tagged_rows(path: Path) -> Iterator[Row]:
    separator = ""
    for sentence in read_conll(path):
        separator = separator or _separator(path)
        needed = separator_of(sentence.rows)
        yield TaggedRow(sentence.rows, (Sentence.of_tokens(sentence.tokens),), max(separator, needed, key="\t".count))


def _separator(path: Path) -> str:
    """A tab where the file has one between columns, else a space."""
    return "\t" if any("\t" in line.text.strip(" \t") for line in islice(read_lines(path), _LOOKED_AT)) else " "
