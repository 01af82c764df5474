"""Writing so that a kill, a full disk or a lost machine never leaves half a file under a real name."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from utils.engine.run_files import MODEL_FILES, matches
from utils.errors import UserError, writing

_PARTIAL = ".partial"
_OLD = ".old"


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """A directory to fill, which becomes `target` when the block ends and vanishes when it fails.

    An existing `target` is replaced, but for what no run writes, which is carried over; `recover_directory` mends a
    kill between the two renames.

    Raises:
        UserError: the disk is full or not writable; what stood at `target` before stands there still.
    """
    partial = target.with_name(f".{target.name}{_PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        _carry_over(target, partial)
        _sync_tree(partial)
        old = target.with_name(f".{target.name}{_OLD}")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        partial.rename(target)
        _sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        recover_directory(target)
        if is_write_failure(error):
            raise UserError(
                f"Could not write {target}: {write_failure_reason(error)}. What was saved there before is untouched."
            ) from error
        raise


def _carry_over(old: Path, new: Path) -> None:
    """Copy what somebody has put into a folder that is about to be replaced."""
    for path in sorted(old.iterdir()) if old.is_dir() else ():
        copy = new / path.name
        if matches(path.name, MODEL_FILES) or os.path.lexists(copy):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, copy, symlinks=True)
        else:
            shutil.copy2(path, copy, follow_symlinks=False)


def is_write_failure(error: BaseException) -> bool:
    """Whether an exception means that the disk is full or not writable (Rust libraries wrap such errors)."""
    wrapped = type(error).__name__ == "SafetensorError" or "No space left on device" in str(error)
    return isinstance(error, OSError) or wrapped


def write_failure_reason(error: BaseException) -> str:
    """The operating system's words for the failure."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def recover_directory(target: Path) -> None:
    """If a kill fell between the two renames, put the old directory back."""
    old = target.with_name(f".{target.name}{_OLD}")
    if old.exists() and not target.exists():
        old.rename(target)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader accepts: what is not a finite number becomes null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value


def write_json(path: Path, value: Any) -> None:
    """Write JSON (see `to_json`) under a temporary name and rename it; its folder is made if it is not there.

    Raises:
        UserError: the disk is full or not writable; what stood there before stands there still.
    """
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(to_json(value, indent=2) + "\n", encoding="utf-8")
            _sync(partial)
            os.replace(partial, path)
            _sync(path.parent)
    except UserError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _sync_tree(directory: Path) -> None:
    for path in (*directory.rglob("*"), directory):
        _sync(path)


def _sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk before what comes next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems have no such thing for directories
            raise
    finally:
        os.close(descriptor)
