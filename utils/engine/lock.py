"""One run in a directory at a time.

The operating system holds the lock for the process and drops it when that ends, however it ends. A record lock
(`fcntl.lockf`) is used rather than `flock`, since the latter goes on in the worker processes of a run that was
killed, and would shut out the run that resumes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from utils.engine.run_files import LOCK_FILE
from utils.errors import UserError

#: File systems without locks answer so: there, two runs cannot be told apart.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
#: Locks of this process by path. Opening and closing such a file once more would drop its lock.
_held: dict[Path, int] = {}


def lock_directory(directory: Path) -> None:
    """Claim a directory for this process until it ends (or `release_all`); again by the same process does nothing.

    Raises:
        UserError: another process has it, or the directory is not writable.
    """
    path = directory.resolve() / LOCK_FILE
    if _is_held(path):
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"Could not write --output_dir {directory}: {error.strerror}.") from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            os.close(descriptor)
            return
        owner = os.read(descriptor, 200).decode(errors="replace").strip()
        os.close(descriptor)
        raise UserError(
            f"--output_dir {directory} is in use by another run ({owner or 'which just began'}): wait for its end, "
            "stop it, or name another directory."
        ) from None
    _held[path] = descriptor


def note_owner(directory: Path) -> None:
    """Write into the lock's file who has it, for the message that another run gets."""
    descriptor = _held.get(directory.resolve() / LOCK_FILE)
    if descriptor is not None:
        with suppress(OSError):  # a full disk is told by what needs the space
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def release_all() -> None:
    """Give back every lock of this process, as its end does: for a process that makes several runs."""
    while _held:
        os.close(_held.popitem()[1])


def _is_held(path: Path) -> bool:
    """Whether this process has the lock, and its file is still the one that others see."""
    if path not in _held:
        return False
    if path.exists() and os.path.samestat(os.fstat(_held[path]), path.stat()):
        return True
    os.close(_held.pop(path))
    return False
