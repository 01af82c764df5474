"""Standard input, output and error as shells hand them over: closed, cut off behind `| head -1`, or in plain ASCII."""

from __future__ import annotations

import errno
import io
import os
import sys
import time

_NAMES = ("stdin", "stdout", "stderr")
#: The reader has gone, or the terminal: nobody is left to be told.
_NOBODY_LISTENS = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET)


class LenientStream(io.TextIOWrapper):
    """A text stream on a descriptor that never raises.

    A character that the encoding lacks is written as its escape. When nobody reads any more, or the disk is full, the
    descriptor is turned to the null device and the program goes on.

    Attributes:
        failure: the operating system's words where something was lost that somebody wanted to read.
        written_at: when something was written last, on the monotonic clock.
    """

    def __init__(self, descriptor: int, encoding: str, line_buffering: bool) -> None:
        raw = io.FileIO(descriptor, "wb", closefd=False)
        super().__init__(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=line_buffering)
        self._descriptor = descriptor
        self.failure: str | None = None
        self.written_at = time.monotonic()

    def write(self, text: str) -> int:
        """See the base class."""
        self.written_at = time.monotonic()
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """See the base class."""
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if error.errno not in _NOBODY_LISTENS and self.failure is None:
            self.failure = error.strerror or str(error)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._descriptor)
        os.close(null)


def fill_closed() -> None:
    """Open the null device where standard input, output or error is closed.

    Otherwise the next file that is opened gets that number, and a library that complains would write into it.
    """
    for descriptor, name in enumerate(_NAMES):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)  # the lowest free number
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            stream = open(descriptor, "r" if descriptor == 0 else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def protect() -> None:
    """Give this program output and error streams that never raise; streams that somebody has replaced stay."""
    fill_closed()
    for descriptor, name in enumerate(_NAMES[1:], start=1):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or isinstance(stream, LenientStream):
            continue
        try:
            stream.flush()
            if stream.fileno() != descriptor:
                continue
        except (OSError, ValueError):
            continue
        lenient = LenientStream(descriptor, stream.encoding, line_buffering=True)  # a log is read while it grows
        setattr(sys, name, lenient)
        setattr(sys, f"__{name}__", lenient)


def lost_output() -> str | None:
    """Why standard output could not be written, where somebody wanted to read it; None if it could."""
    return sys.stdout.failure if isinstance(sys.stdout, LenientStream) else None
