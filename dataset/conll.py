"""Reads and writes sentences with one tag per token, in the column format of CoNLL (and of WNUT).

A line per token, columns separated by tabs or spaces (U+0020, no other blank), the token first and its tag last;
blank lines between sentences. Lines that begin with -DOCSTART- separate documents and are left out.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.errors import DataError, counted
from dataset.sources import read_lines

DOCUMENT_START = "-DOCSTART-"
_BLANKS = " \t\r"
_BYTE_ORDER_MARK = "\ufeff"
#: A number in a column that counts words; ranges and halves as CoNLL-U has them for words of several or no tokens.
_COUNT = re.compile(r"[0-9]{1,9}([-.][0-9]{1,9})?")


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
        DataError: a line has too few columns or another number of columns than the file's first, a column is empty,
            there is no sentence, or (once all are read) the first column counts the words of each sentence; the
            message names file and line.
    """
    source = Path(path)
    rows: list[tuple[str, ...]] = []
    width = first = found = 0
    numbering = _Numbering()
    for line in read_lines(source):
        columns = _columns(line.text)
        if not columns or columns[0] == DOCUMENT_START:
            if rows:
                numbering.see(rows)
                yield ConllSentence(tuple(rows), first)
            rows = []
            continue
        width = width or len(columns)
        if len(columns) != width or width < 1 + tagged:
            expected = str(width) if width > tagged else "a token and its tag, separated by a blank or a tab"
            raise DataError(
                f"{source}:{line.number}: {counted(len(columns), 'column')}, expected {expected}{_hint(columns)}"
            )
        if "" in columns:
            raise DataError(f"{source}:{line.number}: column {columns.index('') + 1} is empty, expected a word in each")
        first = first if rows else line.number
        rows.append(columns)
        found += 1
    if rows:
        numbering.see(rows)
        yield ConllSentence(tuple(rows), first)
    if not found:
        raise DataError(f"{source}: this file has no sentences")
    if numbering.is_certain:
        raise DataError(
            f"{source}: the first column counts the words of each sentence (1, 2, 3 …), and the token itself is "
            "expected there: leave that column out, for example with cut -f 2- (of columns with blanks between them "
            "cut -d ' ' -f 2-)"
        )


def write_conll(path: str | Path, sentences: Iterable[Sequence[Sequence[str]]]) -> Path:
    """Write a line of columns per token and a blank line behind each sentence.

    Columns are separated by a space, as in CoNLL's own files, or by tabs if a column holds a space itself.
    """
    target, kept = Path(path), list(sentences)
    separator = separator_of(row for rows in kept for row in rows)
    # A reader takes the first mark for the file's own.
    mark = _BYTE_ORDER_MARK if kept and kept[0] and kept[0][0][0].startswith(_BYTE_ORDER_MARK) else ""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(mark)
        for rows in kept:
            stream.writelines(f"{separator.join(row)}\n" for row in rows)
            stream.write("\n")
    return target


def separator_of(rows: Iterable[Sequence[str]]) -> str:
    """What the columns of these rows can be separated by: a space, or a tab if one of them holds a space itself."""
    return "\t" if any(" " in column for row in rows for column in row) else " "


def _columns(text: str) -> tuple[str, ...]:
    text = text.rstrip(_BLANKS)
    if "\t" in text:  # then a token may hold spaces
        return tuple(part.strip(" ") for part in text.split("\t"))
    return tuple(part for part in text.split(" ") if part)


def _hint(columns: Sequence[str]) -> str:
    """What a line with a wrong number of columns may be."""
    if columns[0].startswith("#") and len(columns[0]) < 3:
        return "; if this is a comment, leave it out"
    if len(columns) == 1 and (found := next((mark for mark in ",;|" if mark in columns[0]), None)):
        return f"; is {found!r} the separator?"
    return ""


class _Numbering:
    """Whether the first column of a file counts the words of its sentences, or those of the file."""

    def __init__(self) -> None:
        self._holds, self._several, self._next = True, False, 0

    def see(self, rows: Sequence[Sequence[str]]) -> None:
        """The next sentence."""
        tokens = [row[0] for row in rows]
        if not self._holds or not all(map(_COUNT.fullmatch, tokens)):
            self._holds = False
            return
        numbers = [int(token) for token in tokens if token.isdecimal()]
        begin = numbers[0] if numbers else 0
        wanted = list(range(begin, begin + len(numbers)))
        self._holds = begin in {0, 1, self._next} and numbers == wanted
        self._several = self._several or len(numbers) > 1
        self._next = begin + len(numbers)

    @property
    def is_certain(self) -> bool:
        """After the last sentence."""
        return self._holds and self._several
