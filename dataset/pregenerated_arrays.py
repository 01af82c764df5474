"""Encoded pre-training instances as flat arrays, in memory or mapped from files that the next run finds again."""

import fcntl
import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dataset.errors import DataError

_FLUSH_TOKENS = 1 << 20
_VERSION = 1  # of the files: another layout needs another number


class Row(NamedTuple):
    """One encoded instance; ``second_at`` is where its second segment begins (its length if it has none)."""

    tokens: Sequence[int]
    second_at: int
    masked_positions: Sequence[int]
    masked_labels: Sequence[int]
    random_next: bool


class EpochArrays(NamedTuple):
    """All rows of an epoch, one behind the other; row n ends at ``token_ends[n]`` and ``masked_ends[n]``."""

    tokens: np.ndarray
    token_ends: np.ndarray
    second_at: np.ndarray
    masked_positions: np.ndarray
    masked_labels: np.ndarray
    masked_ends: np.ndarray
    random_next: np.ndarray


_TYPES = EpochArrays(*(np.dtype(name) for name in ("i4", "i8", "i4", "i4", "i4", "i8", "u1")))  # type: ignore[arg-type]


def build_in_memory(rows: Iterable[Row]) -> EpochArrays:
    """The arrays of ``rows``."""
    columns = _Columns()
    for row in rows:
        columns.add(row)
    return EpochArrays(*(np.frombuffer(column, kind) for column, kind in zip(columns.pending, _TYPES, strict=True)))


def open_cache(cache: Path, source: Path, settings: Any, rows: Callable[[], Iterable[Row]]) -> EpochArrays:
    """The arrays of ``rows()``, mapped from files below ``cache``, which are written if they are not there yet.

    Args:
        cache: a directory; processes that use the same one wait for each other.
        source: the file that the rows come from; its content is part of the files' key.
        settings: whatever else decides what the rows are, as JSON.

    Raises:
        DataError: the directory cannot be written.
    """
    target = cache / f"{source.stem}-{_key(source, settings)}"
    try:
        with _locked(cache):
            if not target.is_dir():
                _write(target, rows())
    except OSError as error:
        raise DataError(f"--reduce_memory: the cache {cache} cannot be written ({error.strerror})") from error
    return EpochArrays(
        *(_mapped(target / name, kind) for name, kind in zip(EpochArrays._fields, _TYPES, strict=True))  # type: ignore[arg-type]
    )


def _key(source: Path, settings: Any) -> str:
    with source.open("rb") as stream:
        content = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    described = json.dumps([_VERSION, content, settings], sort_keys=True, allow_nan=False)
    return hashlib.blake2b(described.encode(), digest_size=12).hexdigest()


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One process at a time; the lock ends with the process, however that ends."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(target: Path, rows: Iterable[Row]) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        columns = _Columns()
        for row in rows:
            columns.add(row)
            if len(columns.pending.tokens) >= _FLUSH_TOKENS:
                columns.flush(partial)
        columns.flush(partial)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _mapped(path: Path, kind: np.dtype) -> np.ndarray:
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, kind)
    return np.asarray(np.memmap(path, kind, "r"))


class _Columns:
    """Rows on their way into the arrays."""

    def __init__(self) -> None:
        self.pending: Any = EpochArrays(*(array(code) for code in "iqiiiqB"))  # type: ignore[arg-type]
        self._num_tokens = self._num_masked = 0

    def add(self, row: Row) -> None:
        """Append a row."""
        self._num_tokens += len(row.tokens)
        self._num_masked += len(row.masked_positions)
        self.pending.tokens.extend(row.tokens)
        self.pending.token_ends.append(self._num_tokens)
        self.pending.second_at.append(row.second_at)
        self.pending.masked_positions.extend(row.masked_positions)
        self.pending.masked_labels.extend(row.masked_labels)
        self.pending.masked_ends.append(self._num_masked)
        self.pending.random_next.append(row.random_next)

    def flush(self, folder: Path) -> None:
        """Append everything to the files in ``folder``."""
        for name, column in zip(EpochArrays._fields, self.pending, strict=True):
            with (folder / name).open("ab") as target:
                column.tofile(target)
            del column[:]
