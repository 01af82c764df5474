"""A line at least every 20 seconds where no terminal shows a bar: what is being done, and how far it is.

Code that takes long says what it does with `doing`, or goes over its items with `tracked`. While the program is silent,
a thread that `run_as_script` starts tells it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from utils.streams import LenientStream

T = TypeVar("T")

#: Longest silence, in seconds.
SILENCE_S = 20.0
#: What is being done, the innermost last: text, where it is, when it began.
_doing: list[tuple[str, Callable[[], str], float]] = []


@contextmanager
def doing(what: str, where: Callable[[], str] = str) -> Iterator[None]:
    """Have it said, while the block runs, that `what` is done.

    Args:
        where: gives how far it is, such as `3 of 8 batches`.
    """
    entry = (what, where, time.monotonic())
    _doing.append(entry)
    try:
        yield
    finally:
        _doing.remove(entry)


def tracked(items: Iterable[T], what: str, total: int | None = None, silent: bool = False) -> Iterator[T]:
    """The items, with a bar on a terminal and a line now and then otherwise.

    Args:
        total: how many there are, if that is known.
        silent: neither; for all processes but the first.
    """
    from tqdm import tqdm

    done = 0
    bar = tqdm(items, what, total, leave=False, disable=True if silent else None)  # None: silent off a terminal
    with doing(what, lambda: f"{done}{f' of {total}' if total else ''} batches"):
        for item in bar:
            yield item
            done += 1


def line(now: float) -> tuple[str, bool]:
    """What is to be said, and whether somebody has declared it."""
    if not _doing:
        return "still at work", False
    what, where, began = _doing[-1]
    seconds = int(now - began)
    parts = (where(), f"{seconds // 60}:{seconds % 60:02d} so far")
    return f"{what}: {', '.join(part for part in parts if part)}", True


class Heart:
    """Speaks up when the program has been silent for long.

    Args:
        heard: when something was said last, on a clock in seconds.
        every_s: longest silence.
    """

    def __init__(self, heard: Callable[[], float], every_s: float = SILENCE_S) -> None:
        self._heard, self._every_s = heard, every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Say nothing any more."""
        self._ended.set()

    def _watch(self) -> None:
        said, wait = time.monotonic(), self._every_s
        while not self._ended.wait(max(wait, 0.01)):
            now = time.monotonic()
            silence = now - max(self._heard(), said)
            if silence >= self._every_s:
                self._speak(now)
                said = now
                silence = 0.0
            wait = self._every_s - silence

    def _speak(self, now: float) -> None:
        try:
            text, is_declared = line(now)
            print(text, file=sys.stdout if is_declared else sys.stderr, flush=True)
        except (ValueError, RuntimeError, IndexError):  # what it is asked about changes, or the program ends
            pass


def listen() -> Heart | None:
    """Start to speak up in this program; None where a terminal shows bars, or the streams are somebody else's."""
    out, err = sys.stdout, sys.stderr
    if not isinstance(out, LenientStream) or not isinstance(err, LenientStream) or err.isatty():
        return None
    heart = Heart(lambda: max(out.written_at, err.written_at))
    heart.start()
    return heart
