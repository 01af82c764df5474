"""Rows that wait, and which of them run together: one task, much the same length, oldest first.

No clock and no thread in here; times are seconds, given by the caller.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any


def length_bucket(length: int) -> int:
    """The padded length of a row's group: the next 2^n or 3 * 2^n from 8 on, so that a third at most is padding."""
    bucket = 8
    while bucket < length:
        bucket = bucket * 3 // 2 if bucket & (bucket - 1) == 0 else bucket * 4 // 3
    return bucket


@dataclass(frozen=True)
class Waiting:
    """A row in the queue.

    Attributes:
        task: its task's name.
        bucket: padded length of its group, in tokens; also its work.
        arrived: when its request came.
        payload: whatever the caller wants back.
    """

    task: str
    bucket: int
    arrived: float
    payload: Any


class LengthQueue:
    """A bounded queue that gives batches.

    Args:
        limit: most rows that wait, rows for which room is reserved included.
        max_batch: most rows of a batch.
        max_wait_s: a batch that is not full goes when its oldest row has waited so long.
    """

    def __init__(self, limit: int, max_batch: int, max_wait_s: float) -> None:
        self.limit, self.max_batch, self.max_wait_s = limit, max_batch, max_wait_s
        self.reserved = 0
        self.work = 0
        self._groups: dict[tuple[str, int], deque[Waiting]] = {}
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def reserve(self, rows: int) -> bool:
        """Keep room for rows that will be put; False where there is none."""
        if self._rows + self.reserved + rows > self.limit:
            return False
        self.reserved += rows
        return True

    def release(self, rows: int) -> None:
        """Give reserved room back."""
        self.reserved -= rows

    def put(self, row: Waiting) -> None:
        """Add a row for which room was reserved."""
        assert self.reserved > 0
        self.reserved -= 1
        self._rows += 1
        self.work += row.bucket
        self._groups.setdefault((row.task, row.bucket), deque()).append(row)

    def due_at(self) -> float | None:
        """When the oldest row has waited long enough; None where nothing waits."""
        heads = [group[0].arrived for group in self._groups.values()]
        return min(heads) + self.max_wait_s if heads else None

    def take(self, now: float, flush: bool = False) -> list[Waiting]:
        """A batch, if one is due: that of the oldest row when it has waited long enough, else a full one.

        Args:
            flush: do not wait for more rows.
        """
        if not self._groups:
            return []
        oldest = min(self._groups, key=lambda key: self._groups[key][0].arrived)
        due = flush or now >= self._groups[oldest][0].arrived + self.max_wait_s
        full = (key for key, group in self._groups.items() if len(group) >= self.max_batch)
        chosen = oldest if due else next(full, None)
        return [] if chosen is None else self._pop(chosen)

    def clear(self) -> list[Waiting]:
        """Take out everything."""
        rows = [row for group in self._groups.values() for row in group]
        self._groups.clear()
        self._rows = self.work = 0
        return rows

    def _pop(self, key: tuple[str, int]) -> list[Waiting]:
        group = self._groups[key]
        rows = [group.popleft() for _ in range(min(self.max_batch, len(group)))]
        if not group:
            del self._groups[key]
        self._rows -= len(rows)
        self.work -= key[1] * len(rows)
        return rows
