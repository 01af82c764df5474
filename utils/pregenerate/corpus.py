"""Documents of text corpora of any size: only their places are kept, in arrays on disk.

A corpus is a text file, or a directory of them, each in one of three formats:

- plain: one sentence or paragraph per line, blank lines between documents;
- `<doc …>` … `</doc>` and one JSON object per line: what wikiextractor writes.

A document longer than 64 KiB counts as several, so that no text, however it is cut, needs much memory (the
document of a JSON line stays whole).
"""

from __future__ import annotations

import hashlib
import html
import json
import random
import re
import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dataset.errors import DataError
from dataset.sources import check_encoding, check_line_ends, listing
from dataset.text_cleanup import clean, is_valid, split_sentences

Format = Literal["plain", "wikiextractor", "json"]
LineFilter = Literal["drop", "keep", "off"]

_MOST_DOCUMENT_BYTES = 1 << 16
_MOST_LINE_BYTES = 1 << 26
_FLUSH_ENTRIES = 1 << 14
_COLUMNS = ("start", "end", "lines")
_NO_TEXT = (".bz2", ".gz", ".xz", ".zip", ".7z", ".py")
_LOOKED_AT = 1 << 16  # bytes of a file that tell its format
_DOC_TAG = re.compile(r'<doc id="[^"]*".*? title="(.*)">$')


@dataclass(frozen=True)
class TextRules:
    """What happens to a line of text.

    Attributes:
        line_filter: "drop" leaves out lines that are no prose and cleans the others; "keep" cleans prose and
            keeps the rest as it is (the original); "off" changes nothing.
        split_sentences: cuts lines into sentences.
    """

    line_filter: LineFilter = "drop"
    split_sentences: bool = False

    def keeps(self, line: str) -> bool:
        """Whether the line is used at all."""
        return self.line_filter != "drop" or is_valid(line)

    def segments(self, line: str) -> list[str]:
        """The line, cleaned, as one segment or as several."""
        if self.line_filter != "off" and is_valid(line):
            line = clean(line)
        return split_sentences(line) if self.split_sentences else [line]


class CorpusSize(NamedTuple):
    """What a corpus holds; `digest` names its text."""

    documents: int
    lines: int
    dropped_lines: int
    num_bytes: int
    digest: str


def find_text_files(path: Path) -> list[Path]:
    """`path` itself, or all files below it, by name; hidden ones are left out.

    So is, with a warning, what else the original's README puts beside a text: a compressed dump and a program.

    Raises:
        DataError: there are none.
    """
    if path.is_file():
        return [path]
    inside = (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else ()
    files = sorted(file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts))
    others = [file for file in files if file.suffix.lower() in _NO_TEXT]
    if others and len(others) < len(files):
        files = [file for file in files if file not in others]
        print(f"warning: left out as it is no text: {', '.join(map(str, others))}", file=sys.stderr)
    if not files:
        raise DataError(f"--train_corpus {path}: expected a text file or a directory of text files, {listing(path)}")
    return files


def file_format(path: Path) -> Format:
    """The format of a file, by its first line.

    Raises:
        DataError: the file is no text.
    """
    try:
        with path.open("rb") as stream:
            beginning = stream.read(_LOOKED_AT)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    check_encoding(path, beginning)
    if b"\n" not in beginning:
        check_line_ends(path, beginning)
    if b"\0" in beginning:
        raise DataError(f"{path}: this is no text file, it holds zero bytes")
    first = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()
    if first.startswith(b"<doc id="):
        return "wikiextractor"
    return "json" if first.startswith(b"{") and b'"text"' in first.split(b"\n")[0][:4096] else "plain"


def text_lines(raw: bytes, form: Format) -> Iterator[str]:
    """The non-empty lines of a document (or of a part of one), stripped.

    Raises:
        ValueError: these bytes are not UTF-8, or not what the format says.
    """
    if form == "json":
        record = json.loads(raw)
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise ValueError('expected a JSON object with a "text"')
        text = html.unescape(record["text"])
    else:
        text = raw.decode("utf-8")
    title = ""
    for line in map(str.strip, text.split("\n")):
        if form == "wikiextractor":
            if tag := _DOC_TAG.match(line):
                title = tag.group(1)
            if line.startswith(("<doc id=", "</doc>")) or line == title:
                continue
            line = html.unescape(line)
        if line := line.lstrip("\ufeff"):
            yield line


class _Places(NamedTuple):
    """The index, int64 arrays: where each document begins and ends in the joined files; lines before each, and all."""

    start: Any
    end: Any
    lines: Any


class Corpus:
    """A corpus with its index; made by `index_corpus`. Instances can be sent to other processes."""

    def __init__(self, files: Sequence[Path], index: Path, rules: TextRules, size: CorpusSize) -> None:
        self.files, self.size, self._rules, self._index = list(files), size, rules, index
        self._formats = [file_format(path) for path in self.files]
        self._file_ends = np.cumsum([path.stat().st_size for path in self.files]).tolist()
        self._places: _Places | None = None

    def __len__(self) -> int:
        return self.size.documents

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_places": None}  # each process maps the arrays itself

    def segments(self, document: int, from_line: int = 0) -> Iterator[str]:
        """Segments of a document from one of its used lines on, cleaned."""
        for number, line in enumerate(self._lines(document)):
            if number >= from_line:
                yield from self._rules.segments(line)

    def random_line(self, rng: random.Random, but_not: int) -> tuple[int, int]:
        """Document and number of a line, every line of all other documents being equally likely.

        That is a document drawn in proportion to its lines, and then a place in it. Needs two documents.
        """
        lines = self._index_arrays().lines
        own = lines[but_not + 1] - lines[but_not]
        line = rng.randrange(int(lines[-1]) - int(own))
        if line >= lines[but_not]:
            line += int(own)
        document = bisect_right(lines, line) - 1
        return document, line - int(lines[document])

    def parts(self, part_bytes: int) -> Iterator[tuple[int, int, int]]:
        """The documents as (first, behind the last, bytes), each part about `part_bytes` long."""
        places = self._index_arrays()
        first = 0
        while first < len(self):
            last = max(bisect_right(places.end, places.start[first] + part_bytes, first), first + 1)
            yield first, last, int(places.end[last - 1] - places.start[first])
            first = last

    def _lines(self, document: int) -> Iterator[str]:
        places = self._index_arrays()
        start, end = int(places.start[document]), int(places.end[document])
        file = bisect_right(self._file_ends, start)
        offset = start - (self._file_ends[file - 1] if file else 0)
        with self.files[file].open("rb") as stream:
            stream.seek(offset)
            raw = stream.read(end - start)
        return filter(self._rules.keeps, text_lines(raw, self._formats[file]))

    def _index_arrays(self) -> _Places:
        if self._places is None:
            # Without numpy's memmap class, whose elements are slow to read one by one.
            self._places = _Places(*(np.asarray(np.memmap(self._index / name, np.int64, "r")) for name in _COLUMNS))
        return self._places


def index_corpus(
    files: Sequence[Path], index: Path, rules: TextRules, advance: Callable[[int], object] = lambda count: None
) -> Corpus:
    """Read a corpus once and write the places of its documents into the directory `index`.

    Args:
        files: from `find_text_files`.
        index: an empty directory that lives as long as the corpus is used.
        rules: decides which lines count; documents without one are left out.
        advance: told the bytes read, for a progress bar.

    Raises:
        DataError: a file is not what it should be (the message has the line), or no usable line is there.
    """
    digest = hashlib.blake2b(digest_size=16)
    writer = _IndexWriter(index, rules)
    before = 0
    for path in files:
        form = file_format(path)
        for start, first_line, raw in _documents(path, form):
            digest.update(raw)
            advance(len(raw))
            try:
                writer.add(before + start, raw, form)
            except ValueError as error:
                raise DataError(_located(path, first_line, error)) from error
        before += path.stat().st_size
        digest.update(b"\0")  # a file's end is a document's end
    size = writer.close(before, digest.hexdigest())
    if not size.documents:
        raise DataError(
            f"--train_corpus: no usable line in {len(files)} file(s), {size.dropped_lines} lines are no English prose"
            f"{'; --line_filter off takes them all' if size.dropped_lines else ''}"
        )
    return Corpus(files, index, rules, size)


def _located(path: Path, first_line: int, error: ValueError) -> str:
    """The message of what is wrong in a document that begins at line `first_line`."""
    if isinstance(error, UnicodeDecodeError):
        line = first_line + error.object[: error.start].count(b"\n")
        return f"{path}:{line}: this line is not UTF-8 ({error.reason})"
    return f"{path}:{first_line}: this line is no article of wikiextractor ({error})"


def _documents(path: Path, form: Format) -> Iterator[tuple[int, int, bytes]]:
    """Offset, first line number and bytes of each piece of a file; together they are the file."""
    offset, first_line, held, length = 0, 1, [], 0
    with path.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(_MOST_LINE_BYTES), b""), start=1):
            if len(line) == _MOST_LINE_BYTES:
                raise DataError(f"{path}:{number}: this line has more than {_MOST_LINE_BYTES >> 20} MiB")
            held.append(line)
            length += len(line)
            if length >= _MOST_DOCUMENT_BYTES or _ends_document(line, form):
                yield offset, first_line, b"".join(held)
                offset, first_line, held, length = offset + length, number + 1, [], 0
    if held:
        yield offset, first_line, b"".join(held)


def _ends_document(line: bytes, form: Format) -> bool:
    if form == "plain":
        return not line.strip()
    return form == "json" or line.startswith(b"</doc>")


class _IndexWriter:
    """Appends documents to the index's three files, a few thousand at a time."""

    def __init__(self, index: Path, rules: TextRules) -> None:
        self._rules = rules
        self._paths = [index / name for name in _COLUMNS]
        self._pending = [array("q") for _ in _COLUMNS]
        self._pending[2].append(0)
        self._documents = self._lines = self._dropped = 0

    def add(self, start: int, raw: bytes, form: Format) -> None:
        """One document; left out if none of its lines is used."""
        if form == "json" and not raw.strip():
            return
        used = [self._rules.keeps(line) for line in text_lines(raw, form)]
        self._dropped += len(used) - sum(used)
        if not any(used):
            return
        self._documents += 1
        self._lines += sum(used)
        for column, value in zip(self._pending, (start, start + len(raw), self._lines), strict=True):
            column.append(value)
        if len(self._pending[0]) >= _FLUSH_ENTRIES:
            self._flush()

    def close(self, num_bytes: int, digest: str) -> CorpusSize:
        """Write the rest."""
        self._flush()
        return CorpusSize(self._documents, self._lines, self._dropped, num_bytes, digest)

    def _flush(self) -> None:
        for path, column in zip(self._paths, self._pending, strict=True):
            with path.open("ab") as target:
                column.tofile(target)
            del column[:]
