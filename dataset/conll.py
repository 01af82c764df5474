"""Reads and writes sentences with one tag per token, in the column format of CoNLL (and of WNUT).

A line per token, columns separated by tabs or spaces, the token first and its tag last; blank lines between
sentences. Lines that begin with -DOCSTART- separate documents and are left out.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.errors import DataError
from dataset.sources import read_lines

DOCUMENT_START = "-DOCSTART-"


@dataclass(frozen=True, slots=True)
class ConllSentence:
    """One sentence; ``rows`` holds every column of every token, ``line`` is the first token's line number."""

    rows: tuple[tuple[str, ...], ...]
    line: int

    @property
    def tokens(self) -> tuple[str, ...]:
        """The first column."""
        return tuple(row[0] for row in self.rows)

    @property
    def tags(self) -> tuple[str, ...]:
        """The last column."""
        return tuple(row[-1] for row in self.rows)


def read_conll(path: str | Path, tagged: bool = True) -> Iterator[ConllSentence]:
    """The sentences of a file, one at a time, in file order.

    Args:
        tagged: each token has to have a tag; without, a file may consist of tokens alone.

    Raises:
        DataError: a line has too few columns or another number of columns than the file's first, a column is empty, or
            there is no sentence; the message names file and line.
    """
    source = Path(path)
    rows: list[tuple[str, ...]] = []
    width = first = found = 0
    for line in read_lines(source):
        columns = _columns(line.text)
        if not columns or columns[0] == DOCUMENT_START:
            if rows:
                yield ConllSentence(tuple(rows), first)
            rows = []
            continue
        width = width or len(columns)
        if len(columns) != width or width < 1 + tagged:
            expected = width if width > tagged else "a token and its tag"
            raise DataError(f"{source}:{line.number}: {len(columns)} columns, expected {expected}")
        if "" in columns:
            raise DataError(f"{source}:{line.number}: column {columns.index('') + 1} is empty, expected a word in each")
        first = first if rows else line.number
        rows.append(columns)
        found += 1
    if rows:
        yield ConllSentence(tuple(rows), first)
    if not found:
        raise DataError(f"{source}: this file has no sentences")


def write_conll(path: str | Path, sentences: Iterable[Sequence[Sequence[str]]]) -> Path:
    """Write a line of columns per token and a blank line behind each sentence; appears only when it is complete.

    Columns are separated by a space, as in CoNLL's own files, or by tabs if a column holds a space itself.
    """
    target, kept = Path(path), list(sentences)
    spaced = any(" " in column for rows in kept for row in rows for column in row)
    separator = "\t" if spaced else " "
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with partial.open("w", encoding="utf-8", newline="\n") as stream:
        for rows in kept:
            stream.writelines(f"{separator.join(row)}\n" for row in rows)
            stream.write("\n")
    os.replace(partial, target)
    return target


def _columns(text: str) -> tuple[str, ...]:
    # Where tabs separate, a token may hold spaces.
    return tuple(part.strip() for part in text.split("\t")) if "\t" in text.strip() else tuple(text.split())
