"""The rows of GLUE's TSV files: as many columns as the header has, and what else a file may be is named.

Quotes are text, as GLUE does not quote.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataset.errors import DataError, counted, shown
from dataset.sources import Line, read_lines
from dataset.tasks import Split, Task

logger = logging.getLogger(__name__)

# CoLA's training and development files have no header.
_COLA_HEADER = ("source", "label", "mark", "sentence")
#: What other files have where tabs are expected.
_OTHER_SEPARATORS = {",": "commas", ";": "semicolons", "|": "bars", " ": "spaces"}
_EXAMPLES_KEPT = 3


@dataclass(frozen=True)
class TsvFile:
    """An opened file.

    Attributes:
        header: the names of its columns.
        header_line: where they stand; 0 where the file has none.
    """

    task: Task
    path: Path
    header: tuple[str, ...]
    header_line: int

    def column(self, name: str) -> int:
        """The place of a column.

        Raises:
            DataError: there is none, or two, with that name; the message says what the file seems to be.
        """
        if self.header.count(name) == 1:
            return self.header.index(name)
        where = f"{self.path}:{self.header_line}"
        if name in self.header:
            raise DataError(f"{where}: the header names the column {name!r} {self.header.count(name)} times")
        raise DataError(f"{where}: {_unlike(name, self.header)}")

    def rows(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """The columns of every row with its line number; incomplete ones of published files are left out and counted.

        Raises:
            DataError: a row has another number of columns than the header, or there is no row.
        """
        found = 0
        left_out: list[int] = []
        for line in _lines(self.path):
            if line.number <= self.header_line:
                continue
            row = tuple(line.text.split("\t"))
            found += 1
            if len(row) < len(self.header) and self.task.skip_short_rows:
                left_out.append(line.number)
                continue
            if len(row) != len(self.header):
                raise DataError(f"{self.path}:{line.number}: {self._miscounted(row)}")
            yield line.number, row
        if left_out:
            first = ", ".join(map(str, left_out[:_EXAMPLES_KEPT]))
            logger.warning("%s: %s left out (line %s)", self.path, counted(len(left_out), "incomplete row"), first)
        if found == len(left_out):
            kind = "no rows" if self.header_line == 0 or not found else "no complete row"
            raise DataError(f"{self.path}: this file has a header and {kind}")

    def _miscounted(self, row: tuple[str, ...]) -> str:
        whose = "the header has" if self.header_line else f"{self.task.name}'s rows have"
        more = len(row) > len(self.header)
        cause = "is there a tab inside a text? Tabs separate columns" if more else "is a tab missing?"
        if len(row) == 1:
            cause = "tabs separate columns, and there is none here"
        return f"{counted(len(row), 'column')}, {whose} {len(self.header)}: {cause}"


def open_tsv(task: Task, path: Path, split: Split) -> TsvFile:
    """The file with its header.

    Raises:
        DataError: it is empty, or nothing that can be read.
    """
    first = next(_lines(path), None)
    if first is None:
        raise DataError(f"{path}: this file is empty")
    header = tuple(first.text.split("\t"))
    if "\r" in first.text:
        raise DataError(f"{path}:{first.number}: the header holds a CR inside: are line ends mixed? Convert them to LF")
    if task.name == "cola" and split != "test" and not {"sentence", "label"} <= set(header):
        return TsvFile(task, path, _COLA_HEADER, 0)
    return TsvFile(task, path, header, first.number)


def _lines(path: Path) -> Iterator[Line]:
    return (line for line in read_lines(path) if line.text.strip(" "))


def _unlike(name: str, header: tuple[str, ...]) -> str:
    """Why a header may lack a column."""
    text = "\t".join(header)
    if len(header) == 1:
        for separator, called in _OTHER_SEPARATORS.items():
            if separator in text and name in (part.strip().strip("\"'") for part in text.split(separator)):
                return f"the columns are separated by {called}, and tabs are expected; the header is {shown(text)}"
    if any(cell.strip() != name and cell.strip().strip("\"'") == name for cell in header):
        return (
            f"the header is in quotes, as a CSV writer puts them, and plain names are expected: {shown(text)}; write "
            "the file without quotes (csv.QUOTE_NONE)"
        )
    return f"no column {name!r}, the header is {shown(', '.join(header))}"
