"""What tells that data are still the same, on another day and another machine: contents, not times of change."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dataset.errors import DataError

#: A longer file is not read as a whole: its length and this many pieces, evenly spaced from its beginning to its end.
_PIECES, _PIECE_BYTES = 64, 1 << 20


def of_rows(rows: Sequence[Any]) -> dict[str, str]:
    """Of encoded rows: every token and label counts."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return {"rows": f"{len(rows)} rows, sha256 {digest.hexdigest()[:16]}"}


def of_files(files: Iterable[Path]) -> dict[str, str]:
    """Of files, by name.

    Raises:
        DataError: one cannot be read.
    """
    return {path.name: _of_file(path) for path in files}


def _of_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            if size <= _PIECES * _PIECE_BYTES:
                digest.update(stream.read())
            else:
                for piece in range(_PIECES):
                    stream.seek((size - _PIECE_BYTES) * piece // (_PIECES - 1))
                    digest.update(stream.read(_PIECE_BYTES))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return f"{size} bytes, sha256 {digest.hexdigest()[:16]}"
