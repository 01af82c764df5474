"""Which plugins a model uses, switched in O(1): one object that all its wrapped FFNs read.

A choice is a task's name and a ratio. `select` sets it for every thread; `override` only for the calling thread
and only inside its block, so a server's threads can run different ratios of one model at the same time. What
belongs to the batch in flight (its mask, its length before padding) is per thread for the same reason.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

from torch import Tensor


class Choice(NamedTuple):
    """A set of plugins. Ratio 1 means none; the task's name is "" unless several tasks share the backbone."""

    ratio: int = 1
    task: str = ""

    @property
    def key(self) -> str:
        """Name in the bank."""
        return f"{self.task}-{self.ratio}" if self.task else str(self.ratio)


class _Batch(threading.local):
    """What one thread has in flight."""

    choice: Choice | None = None
    mask: Tensor | None = None
    length: int | None = None


class _AsNow:
    """A block, to be entered any number of times, inside which a thread has in flight what this one has now."""

    def __init__(self, batch: _Batch, choice: Choice) -> None:
        self._batch, self._now = batch, (choice, batch.mask)
        self._before: list[tuple[Choice | None, Tensor | None]] = []

    def __enter__(self) -> None:
        self._before.append((self._batch.choice, self._batch.mask))
        self._batch.choice, self._batch.mask = self._now

    def __exit__(self, *error: object) -> None:
        self._batch.choice, self._batch.mask = self._before.pop()


class PluginState:
    """Shared by all plugin layers of one model.

    Attributes:
        available: keys of the bank.
    """

    def __init__(self, available: set[str]) -> None:
        self.available = available
        self._default = Choice()
        self._batch = _Batch()

    @property
    def choice(self) -> Choice:
        """The plugins that this thread uses now."""
        return self._batch.choice or self._default

    @property
    def mask(self) -> Tensor | None:
        """(B, L) 1 for real positions of the batch in flight, None where nothing is padded."""
        return self._batch.mask

    def select(self, choice: Choice) -> None:
        """Use `choice` in every thread that has no override."""
        self._default = choice

    @contextmanager
    def override(self, choice: Choice) -> Iterator[None]:
        """Use `choice` in this thread, inside the block."""
        before, self._batch.choice = self._batch.choice, choice
        try:
            yield
        finally:
            self._batch.choice = before

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """What a layer that runs twice needs around its runs (torch's `context_fn`): the second is like the first."""
        return nullcontext(), _AsNow(self._batch, self.choice)

    def begin(self, mask: Tensor | None, length: int | None) -> None:
        """A forward of the encoder starts: its mask, and its length if padding was added."""
        self._batch.mask, self._batch.length = mask, length

    def end(self) -> int | None:
        """It ended; gives the length to cut to, None if nothing was added."""
        length, self._batch.mask, self._batch.length = self._batch.length, None, None
        return length

    def __deepcopy__(self, memo: dict[int, Any]) -> PluginState:
        copy = PluginState(set(self.available))
        copy._default = self._default
        memo[id(self)] = copy
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return {"available": self.available, "_default": self._default}

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)
        self._batch = _Batch()
