"""Unpacks archives of strangers: nothing lands outside of the folder, no links, and no more than a disk should hold."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from utils.errors import UserError
from utils.writing import atomic_directory

#: Text shrinks to a third or a fifth; a file made to fill the disk shrinks a thousandfold.
MOST_EXPANSION = 100
#: Small archives may grow more: a header and its padding are 10 KiB of zeros.
ALWAYS_BYTES = 16 << 20
MOST_BYTES = 256 << 30
MOST_MEMBERS = 100_000
#: What a reader may want at once. Contents are copied in pieces; only a member's name, or what describes it, is not.
_MOST_AT_ONCE = 1 << 20

#: How a compressed file begins -> what reads it.
_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


class _Refused(Exception):
    """What is in the archive must not be unpacked; the text says why."""


def unpack(archive: Path, folder: Path, *, say: Callable[[str], None] = print) -> Path:
    """Unpacks a tar archive (plain, gzip, bzip2 or xz) that holds one folder of that name, or only files, as `folder`.

    Raises:
        UserError: no archive, a damaged one, or the disk is full; or one that holds a link, a device, a path that leads
            out of the folder, more than 100,000 files, or more bytes than its size makes likely. Nothing is left of it.
    """
    with atomic_directory(folder, lambda path: False) as partial:
        _extract(archive, partial)
        if (partial / folder.name).is_dir():
            unpacked = partial.rename(partial.with_name("unpacked"))
            (unpacked / folder.name).rename(partial)
    say(f"unpacked {folder}")
    return folder


def _extract(archive: Path, folder: Path) -> None:
    try:
        most = min(MOST_BYTES, max(ALWAYS_BYTES, MOST_EXPANSION * archive.stat().st_size))
        with _open(archive) as stream, tarfile.open(fileobj=_Bounded(stream, most), mode="r:") as members:  # type: ignore[call-overload]
            for member in _plain(members, most):
                _write(members, member, folder)
    except _Refused as error:
        raise UserError(f"{archive}: refused, {error}") from error
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise  # the disk's fault, not the archive's
        raise UserError(
            f"{archive}: not a tar archive that can be read ({error}); delete it and fetch it again"
        ) from error


def _write(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """A file or folder with its content alone: no owner, no permissions, and never over another one."""
    target = folder.joinpath(*PurePosixPath(member.name).parts)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = members.extractfile(member)
    assert source is not None  # it is a file
    with source, target.open("xb") as sink:
        shutil.copyfileobj(source, sink)


def _open(archive: Path) -> IO[bytes]:
    """The archive without its compression."""
    with archive.open("rb") as stream:
        beginning = stream.read(max(map(len, _OPENERS)))
    opener = next((opener for mark, opener in _OPENERS.items() if beginning.startswith(mark)), None)
    return opener(archive) if opener else archive.open("rb")


def _plain(members: tarfile.TarFile, most: int) -> Iterator[tarfile.TarInfo]:
    """The members, each looked at before it is unpacked."""
    total = 0
    for number, member in enumerate(members, start=1):
        if not member.isfile() and not member.isdir():
            raise _Refused(f"{member.name!r} is neither a file nor a folder, but a link or a device")
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise _Refused(f"{member.name!r} leads out of the folder")
        if number > MOST_MEMBERS:
            raise _Refused(f"it holds more than {MOST_MEMBERS:,} files")
        total += member.size  # of a sparse file with its holes
        if member.size < 0 or total > most:
            raise _Refused(f"it holds more than {most:,} bytes, which is not what an archive of its size holds")
        yield member


class _Bounded:
    """A stream that gives up to a number of bytes, and not many at once: what a header promises is not believed."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream = stream
        self._most = 2 * most + ALWAYS_BYTES  # headers and padding come on top; they are a kilobyte per file

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        if not 0 <= size <= _MOST_AT_ONCE:
            raise _Refused("a header in it is larger than any name")
        self._check(self._stream.tell() + size)
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        """Goes to a position, counted from the beginning."""
        self._check(position)
        return self._stream.seek(position)

    def tell(self) -> int:
        """The position."""
        return self._stream.tell()

    def _check(self, position: int) -> None:
        if position > self._most:
            raise _Refused(f"it is longer than {self._most:,} bytes when it is unpacked")
