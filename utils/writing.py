"""The one way to write a file or a folder: what has a name is whole, whatever happens while it is written.

Everything is written into a new folder beside its target, flushed, and renamed. What fails leaves the target as it was
and nothing beside it, and is told in one sentence; what a killed process left is removed by the next writer.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, cast

from utils import lock
from utils.checksums import CHECKSUMS_FILE, recording, renewed
from utils.engine.run_files import LOCK_FILE, MODEL_FILES, is_written
from utils.errors import writing

_OLD = ".old"
#: Bytes of a target's name that its temporary folder's name holds; a file system takes 255.
_MOST_NAME = 200


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes `target` when the block ends. Folders above it are made.

    A library may write further files beside it (as ONNX does with weights of gigabytes): they come along, and of an
    old `target` nothing is seen meanwhile.

    Raises:
        WriteError: the disk is full or not writable; what stood there before stands there still.
    """
    real = _real(target)
    with writing(target), _workplace(real) as folder:
        file = folder / real.name
        yield file
        made = [path for path in folder.iterdir() if path.name not in (LOCK_FILE, file.name)]
        for path in (*made, file):
            _set_mode(path, folder)
            _sync(path)
        if made:
            real.unlink(missing_ok=True)
        for path in (*made, file):
            os.replace(path, real.with_name(path.name))
        _sync(real.parent)


@contextmanager
def patient_stream(file: Path) -> Iterator[IO[bytes]]:
    """A stream into a file of an atomic block, for libraries that do not survive a failed write.

    Raises:
        OSError: of the first write that failed, at the end of the block.
    """
    with file.open("wb") as stream:
        patient = _Patient(stream)
        yield cast(IO[bytes], patient)
        if patient.failure is not None:
            raise patient.failure


def publish(partial: Path, target: Path) -> None:
    """Give a file its name that has grown under another one, as what can be gone on with does.

    Raises:
        OSError: the disk is full or not writable.
    """
    _sync(partial)
    os.replace(partial, target)
    _sync(target.parent)


class _Patient(io.RawIOBase):
    """Passes bytes on until that fails, then takes them without a word; torch ends the process at a failed write.

    Attributes:
        failure: the first error.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, as some do when they are done."""
        return self._stream.seek(offset, whence)

    def write(self, data: Any) -> int:
        """Take all of it."""
        if self.failure is None:
            try:
                self._stream.write(data)
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


def write_text(target: Path, text: str, errors: str = "strict") -> None:
    """Write a text file as UTF-8.

    Args:
        errors: what becomes of halves of characters, as in `str.encode`.

    Raises:
        WriteError: see `atomic_file`.
    """
    data = text.encode("utf-8", errors)
    with atomic_file(target) as file:
        file.write_bytes(data)


def write_json(target: Path, value: Any) -> None:
    """Write JSON; see `to_json`.

    Raises:
        WriteError: see `atomic_file`.
    """
    write_text(target, to_json(value, indent=2) + "\n")


def write_json_into(folder: Path, name: str, value: Any) -> None:
    """Write JSON into a folder that `atomic_directory` has made, and have its list of checksums know it.

    Raises:
        WriteError: see `atomic_file`.
    """
    write_json(folder / name, value)
    if (checksums := renewed(folder, name)) is not None:
        write_json(folder / CHECKSUMS_FILE, checksums)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader accepts: what is not a finite number becomes null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def atomic_directory(target: Path, is_own: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends.

    An existing `target` is replaced, but for what is not its writer's own, which is carried over; `recover_directory`
    mends a kill between the two renames.

    Args:
        is_own: whether a path, relative to `target`, is one of those that this writer makes and may replace. Left out,
            the folder is that of a model or a checkpoint: it gets a list of checksums, and replaces what the list of
            the old one names.

    Raises:
        WriteError: the disk is full or not writable; what stood at `target` before stands there still.
    """
    real = _real(target)
    with writing(target), _workplace(real) as folder:
        new = folder / real.name
        new.mkdir()
        yield new
        for path in new.rglob("*"):
            _set_mode(path, folder)
        with nullcontext() if is_own else recording(new):
            _carry_over(real, new, is_own or (lambda path: _is_of_model(path, real)))
            _sync_tree(new)
        _sync_tree(new, CHECKSUMS_FILE)
        old = real.with_name(f".{real.name}{_OLD}")
        shutil.rmtree(old, ignore_errors=True)
        try:
            if real.exists():
                os.rename(real, old)
            os.rename(new, real)
            _sync(real.parent)
        finally:
            recover_directory(real)
        shutil.rmtree(old, ignore_errors=True)


def _is_of_model(path: Path, root: Path) -> bool:
    """Whether the toolkit has written a path of an older model; one without a list has no folders within."""
    return is_written(root / path, root, MODEL_FILES if len(path.parts) == 1 else ())


def recover_directory(target: Path) -> None:
    """If a kill fell between the two renames, put the old directory back."""
    old = target.with_name(f".{target.name}{_OLD}")
    if old.exists() and not target.exists():
        os.rename(old, target)


def _carry_over(old: Path, new: Path, is_own: Callable[[Path], bool]) -> None:
    """Copy what somebody has put into a folder that is about to be replaced."""
    for path in sorted(old.rglob("*")) if old.is_dir() else ():
        copy = new / path.relative_to(old)
        if is_own(path.relative_to(old)) or os.path.lexists(copy):
            continue
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                copy.mkdir(parents=True)
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy, follow_symlinks=False)


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that is this process's own, and is removed when the block ends, however it ends."""
    folder: Path | None = None
    with lock.folders_above(target):
        _remove_left(target)
        while folder is None:
            folder = _claimed(target.with_name(f".{_short(target.name)}.{secrets.token_hex(4)}.partial"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.release(folder / LOCK_FILE)


def _claimed(folder: Path) -> Path | None:
    """Make a folder and lock it; None where somebody else was faster."""
    folder.mkdir()
    try:
        lock.take(folder / LOCK_FILE)
    except (lock.InUse, FileNotFoundError):  # taken for one that a killed process left
        return None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _remove_left(target: Path) -> None:
    """Remove what writers of `target` have left that live no more."""
    half_written = re.compile(rf"\.{re.escape(_short(target.name))}\.[0-9a-f]{{8}}\.partial")
    try:
        there = [*target.parent.iterdir()]
    except PermissionError:  # a folder may be written and not be read
        return
    for path in there:
        if not half_written.fullmatch(path.name) or lock.is_held(path / LOCK_FILE):
            continue
        with suppress(lock.InUse, OSError):
            if lock.take(path / LOCK_FILE):
                shutil.rmtree(path, ignore_errors=True)
            lock.release(path / LOCK_FILE)


def _short(name: str) -> str:
    """A name, or as much of its beginning as leaves room for more."""
    while len(os.fsencode(name)) > _MOST_NAME:
        name = name[:-1]
    return name


def _real(target: Path) -> Path:
    """The place that is written: a link stays, and what it leads to is replaced."""
    return Path(os.path.realpath(target))


def _set_mode(path: Path, folder: Path) -> None:
    """Give a file the mode that the umask gives to new ones: some libraries make theirs private."""
    if path.is_symlink() or not path.is_file():
        return
    mode = folder.stat().st_mode & 0o666
    if path.stat().st_mode & 0o777 != mode:
        with suppress(OSError):  # some file systems have no modes
            path.chmod(mode)


def _sync_tree(directory: Path, pattern: str = "*") -> None:
    for path in (*directory.rglob(pattern), directory):
        _sync(path)


def _sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk before what comes next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems have no such thing for directories.
        if not path.is_dir() or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
    finally:
        os.close(descriptor)
