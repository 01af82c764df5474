"""SHA-256 of every file of a folder, in a list that is written last: it tells damage, and what the toolkit has written.

What lies in the folder and is not in its list, somebody else has put there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

CHECKSUMS_FILE = "checksums.json"
_KEY = "sha256"
#: hashlib lets other threads run, so that large files are read side by side, and while the disk takes others.
_THREADS = 4


@contextmanager
def recording(folder: Path) -> Iterator[None]:
    """List the files that a folder holds at the beginning of the block, at its end; they are hashed meanwhile."""
    there = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    names = [name for name in there if name != CHECKSUMS_FILE]
    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = pool.map(lambda name: _hash(folder / name), names)
        yield
        values = _values(dict(zip(names, hashes, strict=True)))
    (folder / CHECKSUMS_FILE).write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def renewed(folder: Path, name: str) -> dict[str, dict[str, str]] | None:
    """What the list is to hold, now that a file was written anew; None where the folder has no list."""
    known = listed(folder)
    return None if known is None else _values({**known, name: _hash(folder / name)})


def listed(folder: Path) -> dict[str, str] | None:
    """The list of a folder, by path relative to it; None where there is none, or one that cannot be read."""
    try:
        values = json.loads((folder / CHECKSUMS_FILE).read_text(encoding="utf-8"))[_KEY]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(values, dict) or not all(isinstance(v, str) and _is_below(k) for k, v in values.items()):
        return None
    return values


def damage_in(folder: Path, counts: Callable[[str], bool] = lambda name: True) -> str | None:
    """What is not as it was written, as a sentence without its full stop; None if nothing is, or nothing is listed.

    Args:
        counts: whether a file is looked at, by its path.
    """
    if not (folder / CHECKSUMS_FILE).is_file():
        return None
    if (known := listed(folder)) is None:
        return f"{folder / CHECKSUMS_FILE} is damaged"
    try:
        return _first_damaged(folder, {name: known[name] for name in known if counts(name)})
    except OSError as error:
        return f"{error.filename or folder} cannot be read ({error.strerror})"


def _first_damaged(folder: Path, known: dict[str, str]) -> str | None:
    if lost := next((name for name in known if not (folder / name).is_file()), None):
        return f"{folder / lost} is missing, which {CHECKSUMS_FILE} lists"
    names = sorted(known, key=lambda name: (folder / name).stat().st_size)
    with ThreadPoolExecutor(_THREADS) as pool:
        for name, found in zip(names, pool.map(lambda name: _hash(folder / name), names), strict=True):
            if found != known[name]:
                return f"{folder / name} is damaged: its content is not what {CHECKSUMS_FILE} lists"
    return None


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_below(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _values(found: dict[str, str]) -> dict[str, dict[str, str]]:
    return {_KEY: dict(sorted(found.items()))}
