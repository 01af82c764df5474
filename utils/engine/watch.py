"""Processes that watch each other, so that none waits for ever for one that is dead or hangs.

Each process has a thread that writes, every second or so, a sign of life and the number of places that the main
thread has passed (`tick`: every micro-batch, and wherever processes meet). All pass the same places in the same
order. So who stands still while another stands behind it waits for that one, and who is behind is to blame: its
number is named. A process that died shows at once, as the connection breaks; then the signs of life say whose.
The signs lie in a store of their own, which the first process keeps.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

import torch.distributed as dist

from utils.errors import LOST_PROCESS_CODE

#: Longest wait for another process, unless `--rank_timeout` says otherwise.
DEFAULT_TIMEOUT_S = 1800.0
#: Signs of life that fail to come before a process is taken for dead when a connection broke.
_MISSED = 4
#: The collective operations themselves give up later than the watch does, which knows whom to name.
_MARGIN_S = 30.0
#: The first process, which keeps the store, ends a little after the others.
_KEEPER_S = 2.0
#: What the libraries call a connection that broke or went silent.
_WORDS = ("gloo", "Connection closed", "Connection reset", "Timed out waiting", "Broken pipe", "NCCL", "Socket Timeout")

_present: RankWatch | None = None


def group_timeout(timeout_s: float) -> timedelta:
    """For the process group: longer than the watch waits."""
    return timedelta(seconds=timeout_s + _MARGIN_S)


def watch_ranks(
    rank: int, world_size: int, timeout_s: float, gather: Callable[[list[int]], list[int]]
) -> RankWatch | None:
    """The watch of this process, made at the first call (by all processes); None if it is the only one.

    Args:
        timeout_s: longest wait for another process.
        gather: gives all processes' values to each.
    """
    global _present
    if world_size == 1:
        return None
    if _present is None:
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        store = dist.TCPStore(host, 0, world_size, True, wait_for_workers=False) if rank == 0 else None
        port = gather([store.port if store else 0])[0]
        if store is None:
            store = dist.TCPStore(host, port, world_size, False, timeout=timedelta(seconds=timeout_s))
        _present = RankWatch(store, rank, world_size, timeout_s)
        gather([0])  # nobody looks for a key before it is there
        _present.start()
    return _present


def say_goodbye(wait: bool) -> None:
    """This process ends by itself: the others need not look for it. The first one waits a little for theirs."""
    if _present is not None:
        _present.stop(wait)


def end_if_lost(error: RuntimeError) -> None:
    """If `error` says that another process is gone, name it and end this one; otherwise return."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not several or not (isinstance(error, dist.DistError) or any(word in str(error) for word in _WORDS)):
        return
    if _present is None:
        reason = str(error).strip().splitlines()[0]
        end(f"not all {os.environ['WORLD_SIZE']} processes of this run came together ({reason})")
    _present.explain()


def end(message: str) -> NoReturn:
    """End this process at once: what the libraries do at a regular end would wait for the others."""
    sys.stdout.flush()
    print(f"error: {message}.", file=sys.stderr, flush=True)
    os._exit(LOST_PROCESS_CODE)


class RankWatch:
    """See the top of this file.

    Args:
        store: keeps a text for each rank.
        timeout_s: longest wait for another process.
    """

    def __init__(self, store: Any, rank: int, world_size: int, timeout_s: float) -> None:
        self.rank, self.world_size, self.timeout_s = rank, world_size, timeout_s
        self.interval_s = min(max(1.0, world_size / 50), timeout_s / 10)
        self._store, self._ticks, self._beats, self._farewell = store, 0, 0, ""
        self._others = [r for r in range(world_size) if r != rank]
        now = time.monotonic()
        self._ticked = now
        self._signs: dict[int, tuple[str, float]] = dict.fromkeys(self._others, ("", now))
        self._places: dict[int, tuple[int, float]] = dict.fromkeys(self._others, (0, now))
        self._keeper_lost: float | None = None
        self._end, self._judging = threading.Event(), threading.Lock()
        self._write()

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._run, name="rank-watch", daemon=True).start()

    def tick(self) -> None:
        """The main thread passes a place that all processes pass."""
        self._ticks += 1
        self._ticked = time.monotonic()

    def stop(self, wait: bool) -> None:
        """See `say_goodbye`."""
        self._end.set()
        self._farewell = "bye"
        try:
            self._write()
            until = time.monotonic() + 5 * _KEEPER_S
            while wait and self.rank == 0 and time.monotonic() < until:
                if all(text.endswith("bye") for text in self._read()):
                    break
                time.sleep(0.05)
        except RuntimeError:  # the keeper of the store has ended before
            pass

    def explain(self) -> NoReturn:
        """A connection broke or timed out: find out whose, tell it and end."""
        broke = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            # A launcher ends the others by SIGTERM as soon as one has died, and waits for them longer than this takes.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._judging.acquire()  # from now on the thread only looks
        time.sleep(_MISSED * self.interval_s)
        silent = [r for r, (_, seen) in self._signs.items() if seen <= broke + self.interval_s]
        if self._keeper_lost is not None and (self._keeper_lost <= broke + self.interval_s or not silent):
            silent = [0]
        behind = [r for r, (place, _) in self._places.items() if place < self._ticks]
        if self.rank == 0:
            time.sleep(_KEEPER_S)
        if silent:
            end(f"{self._named(silent)} has died, so {self._self()} ends too: {_ADVICE}")
        end(f"the connection to {self._named(behind or self._others)} broke or timed out: {_ADVICE}")

    def _run(self) -> None:
        while not self._end.wait(self.interval_s):
            try:
                self._write()
                texts = self._read()
            except RuntimeError:
                self._keeper_lost = self._keeper_lost or time.monotonic()
                texts = []
            self._note(texts)
            if not self._end.is_set() and self._judging.acquire(blocking=False):
                self._judge()
                self._judging.release()

    def _write(self) -> None:
        self._beats += 1
        self._store.set(str(self.rank), f"{self._beats} {self._ticks} {self._farewell}")

    def _read(self) -> list[str]:
        """What the others wrote last."""
        return [text.decode() for text in self._store.multi_get([str(r) for r in self._others])]

    def _note(self, texts: list[str]) -> None:
        now = time.monotonic()
        for rank, text in zip(self._others, texts, strict=False):
            if text != self._signs[rank][0] or text.endswith("bye"):
                self._signs[rank] = text, now
            place = int(text.split()[1])
            if place != self._places[rank][0]:
                self._places[rank] = place, now

    def _judge(self) -> None:
        """End this process if its main thread has waited too long for another one."""
        now = time.monotonic()
        if self._keeper_lost is not None and now - max(self._keeper_lost, self._ticked) > min(self.timeout_s, 60.0):
            end(f"rank 0 has died, so {self._self()} ends too: {_ADVICE}")
        if now - self._ticked <= self.timeout_s:
            return
        silent = [r for r, (_, seen) in self._signs.items() if now - seen > self.timeout_s]
        behind = [r for r, (n, since) in self._places.items() if n < self._ticks and now - since > self.timeout_s]
        if lost := sorted({*silent, *behind}):
            dumb = all(now - self._signs[r][1] > _MISSED * self.interval_s for r in lost)
            what = "gives no sign of life" if dumb else "hangs"
            waited = f"{self._self()} has waited for it for {self.timeout_s:g} s (--rank_timeout)"
            end(f"{self._named(lost)} {what}, {waited}: {_ADVICE}")

    def _self(self) -> str:
        return f"rank {self.rank}"

    def _named(self, ranks: list[int]) -> str:
        return f"rank {' and rank '.join(map(str, ranks))} of {self.world_size}"


_ADVICE = "begin again with --resume auto"
