"""One process at a time: in the folder of a run, and for whatever else two calls must not write at once.

The operating system holds the lock for the process and drops it when that ends, however it ends. A record lock
(`fcntl.lockf`) is used rather than `flock`, since the latter goes on in the worker processes of a run that was
killed, and would shut out the run that resumes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from utils.engine.run_files import LOCK_FILE
from utils.errors import UserError, writing
from utils.heartbeat import doing

#: File systems without locks answer so: there, two processes cannot be told apart.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
#: Locks of this process by path. Opening and closing such a file once more would drop its lock.
_held: dict[Path, int] = {}


class InUse(Exception):
    """Another process has the lock; the text says which, as far as it has noted it."""


def lock_directory(directory: Path) -> None:
    """Claim a run's folder for this process until it ends (or `release_all`); again by the same process does nothing.

    Raises:
        UserError: another process has it, or the directory is not writable.
    """
    path = directory.resolve() / LOCK_FILE
    if is_held(path):
        return
    try:
        with writing(f"--output_dir {directory}"):
            take(path)
    except InUse as owner:
        raise UserError(
            f"--output_dir {directory} is in use by another run ({owner}): wait for its end, stop it, or name another "
            "directory."
        ) from None


@contextmanager
def locked(target: Path, waiting: Callable[[str], object] | None = None) -> Iterator[None]:
    """No other call writes `target`, a file or a folder, while the block runs. The lock's file lies beside it.

    Args:
        waiting: takes a line that says whom this call waits for; without it, the second call is refused.

    Raises:
        UserError: another process is writing it, or its folder is not writable.
    """
    place = Path(os.path.realpath(target))
    path = place.with_name(f".{place.name}.lock")
    if is_held(path):
        yield
        return
    told = None if waiting is None else lambda owner: waiting(f"waiting for {owner}, which is writing {target}")
    with ExitStack() as stack:
        try:
            with writing(target):
                stack.enter_context(folders_above(place))
                take(path, told)
        except InUse as owner:
            raise UserError(
                f"{target} is being written by another call ({owner}): wait for its end, or stop it."
            ) from None
        stack.callback(_give_back, path)
        _note_owner(path)
        yield


def _give_back(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
    release(path)


@contextmanager
def folders_above(path: Path) -> Iterator[None]:
    """Make the folders that a path lies in; where the block fails, those that were made and are empty go again."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise


def take(path: Path, waiting: Callable[[str], object] | None = None) -> bool:
    """Lock a file, made where it is missing, until `release`. A file system without locks lets everybody pass.

    Args:
        waiting: is told the owner, before this call waits for its end.

    Returns:
        Whether it is certain that nobody else has it.

    Raises:
        InUse: another process has it, and `waiting` is not given.
        OSError: it cannot be made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if (is_mine := _try(descriptor)) is False:
                owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "which just began"
                if waiting is None:
                    raise InUse(owner)
                waiting(owner)
                with doing(f"waiting for {owner}"):
                    fcntl.lockf(descriptor, fcntl.LOCK_EX)
                is_mine = True
        except BaseException:
            os.close(descriptor)
            raise
        if _is_file_at(path, descriptor):
            _held[path] = descriptor
            return bool(is_mine)
        os.close(descriptor)  # its owner has removed it meanwhile


def release(path: Path) -> None:
    """Give a lock back."""
    if (descriptor := _held.pop(path, None)) is not None:
        os.close(descriptor)


def note_owner(directory: Path) -> None:
    """Write into a run's lock file who has it, for the message that another run gets."""
    _note_owner(directory.resolve() / LOCK_FILE)


def _note_owner(path: Path) -> None:
    if (descriptor := _held.get(path)) is not None:
        with suppress(OSError):  # a full disk is told by what needs the space
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def release_all() -> None:
    """Give back every lock of this process, as its end does: for a process that makes several runs."""
    for path in [*_held]:
        release(path)


def _try(descriptor: int) -> bool | None:
    """Whether the lock could be had; None where the file system has none."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in _NO_LOCKS else False
    return True


def is_held(path: Path) -> bool:
    """Whether this process has the lock, and its file is still the one that others see."""
    if path not in _held:
        return False
    if _is_file_at(path, _held[path]):
        return True
    release(path)
    return False


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
