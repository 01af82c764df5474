"""Rows that wait, and which of them run together: one task, much the same length, and a bounded number of tokens.

No clock and no thread in here; times are seconds, given by the caller.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

#: Every so many turns is the oldest request's; the others are those of the request with the least work left.
_OLDEST_EVERY = 2
#: The same while clients give up: what waited longest is then what is given up next.
_OLDEST_EVERY_IN_OVERLOAD = 8
#: So long after a client gave up the newest of equal requests goes first.
OVERLOAD_S = 5.0

_Group = tuple[str, int]


def length_bucket(length: int) -> int:
    """The padded length of a row's group: the next 2^n or 3 * 2^n from 8 on, so that a third at most is padding."""
    bucket = 8
    while bucket < length:
        bucket = bucket * 3 // 2 if bucket & (bucket - 1) == 0 else bucket * 4 // 3
    return bucket


@dataclass(frozen=True, eq=False)
class Waiting:
    """A row in the queue.

    Attributes:
        task: its task's name.
        bucket: padded length of its group, in tokens; also its work.
        arrived: when its request came.
        request: what its request is known by.
        index: which of the request's rows it is.
    """

    task: str
    bucket: int
    arrived: float
    request: Hashable
    index: int = 0


@dataclass
class _Request:
    """A request's rows that wait, by group, and the work in them."""

    arrived: float
    number: int
    work: int = 0
    rows: dict[_Group, list[Waiting]] = field(default_factory=dict)


class LengthQueue:
    """A bounded queue that gives batches.

    The turns go to the oldest request and to the one with the least work left, one after the other. So a short
    request waits for a batch or two, however many long ones are there, and a long one cannot starve. Where
    several have as little left, it is the oldest; while clients give up, it is the newest, as the oldest will be gone
    before it is answered.

    Args:
        limit: most rows that wait, rows for which room is reserved included.
        max_batch: most rows of a batch.
        max_wait_s: a batch that is not full goes when its oldest row has waited so long.
        max_tokens: most padded tokens of a batch; a single row may have more.
        kept: room that only requests of an eighth as many rows may take, so that large ones cannot take all.
    """

    def __init__(self, limit: int, max_batch: int, max_wait_s: float, max_tokens: int = 1 << 30, kept: int = 0) -> None:
        self.limit, self.max_batch, self.max_wait_s, self.max_tokens = limit, max_batch, max_wait_s, max_tokens
        self.kept = kept
        self.reserved = 0
        self.work = 0
        self._requests: dict[Hashable, _Request] = {}  # in the order of their arrival, as are those of a group
        self._groups: dict[_Group, dict[Hashable, list[Waiting]]] = {}
        self._sizes: dict[_Group, int] = {}
        self._rows = self._turns = self._numbers = 0
        self._gave_up_at: float | None = None

    def __len__(self) -> int:
        return self._rows

    def rows_per_batch(self, bucket: int) -> int:
        """Most rows of a batch of this padded length."""
        return max(1, min(self.max_batch, self.max_tokens // bucket))

    def reserve(self, rows: int) -> bool:
        """Keep room for rows that will be put; False where there is none."""
        taken = self._rows + self.reserved
        is_small = rows <= max(1, self.kept // 8) or not taken  # one that is alone is no harm
        if taken + rows > self.limit - (0 if is_small else self.kept):
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
        request = self._requests.get(row.request)
        if request is None:
            self._numbers += 1
            request = self._requests[row.request] = _Request(row.arrived, self._numbers)
        request.work += row.bucket
        group = (row.task, row.bucket)
        rows = request.rows.setdefault(group, [])
        rows.append(row)
        self._groups.setdefault(group, {})[row.request] = rows
        self._sizes[group] = self._sizes.get(group, 0) + 1

    def due_at(self) -> float | None:
        """When the oldest row has waited long enough; None where nothing waits."""
        oldest = next(iter(self._requests.values()), None)
        return None if oldest is None else oldest.arrived + self.max_wait_s

    def take(self, now: float, flush: bool = False) -> list[Waiting]:
        """A batch, if one is due: one that is full, or whose oldest row has waited long enough.

        Args:
            flush: do not wait for more rows.
        """
        ready = {group for group in self._groups if flush or self._is_ready(group, now)}
        if not ready:
            return []
        overload = self._gave_up_at is not None and now < self._gave_up_at + OVERLOAD_S
        self._turns += 1
        if self._turns % (_OLDEST_EVERY_IN_OVERLOAD if overload else _OLDEST_EVERY) == 1:
            first = next(key for key, one in self._requests.items() if not ready.isdisjoint(one.rows))
        else:
            waiting = (key for key, one in self._requests.items() if not ready.isdisjoint(one.rows))
            first = min(waiting, key=lambda key: self._rank(key, overload))
        group = next(group for group in self._requests[first].rows if group in ready)
        return self._pop(group, first, overload)

    def discard(self, request: Hashable) -> int:
        """Take out the rows of a request, if there are any; how many there were."""
        found = self._requests.get(request)
        rows = [row for rows in found.rows.values() for row in rows] if found else []
        self._remove(rows)
        return len(rows)

    def give_up(self, request: Hashable, now: float) -> int:
        """As `discard`, for a request whose client did not wait any longer."""
        self._gave_up_at = now
        return self.discard(request)

    def arrived_before(self, moment: float) -> list[Hashable]:
        """The requests that came before it; they still wait."""
        found = []
        for key, request in self._requests.items():
            if request.arrived >= moment:
                break
            found.append(key)
        return found

    def clear(self) -> list[Waiting]:
        """Take out everything."""
        rows = [row for group in self._groups.values() for rows in group.values() for row in rows]
        self._remove(rows)
        return rows

    def _is_ready(self, group: _Group, now: float) -> bool:
        if self._sizes[group] >= self.rows_per_batch(group[1]):
            return True
        return now >= self._requests[next(iter(self._groups[group]))].arrived + self.max_wait_s

    def _rank(self, key: Hashable, overload: bool) -> tuple[int, int]:
        """Least work first; among equals the oldest or, in overload, the newest."""
        request = self._requests[key]
        return request.work, -request.number if overload else request.number

    def _pop(self, group: _Group, first: Hashable, overload: bool) -> list[Waiting]:
        """A batch of a group: rows of the request whose turn it is, and of the others in the order of their turns."""
        room, found = self.rows_per_batch(group[1]), list[Waiting]()
        for rows in self._in_turn(group, first, overload):
            found += rows[: room - len(found)]
            if len(found) == room:
                break
        self._remove(found)
        return found

    def _in_turn(self, group: _Group, first: Hashable, overload: bool) -> Iterator[list[Waiting]]:
        members = self._groups[group]
        yield members[first]
        if self._sizes[group] <= self.rows_per_batch(group[1]):  # all of them: the order does not matter
            others: Iterable[Hashable] = members
        else:
            others = sorted(members, key=lambda key: self._rank(key, overload))
        for key in others:
            if key != first:
                yield members[key]

    def _remove(self, rows: Iterable[Waiting]) -> None:
        for row in rows:
            group, request = (row.task, row.bucket), self._requests[row.request]
            mine = request.rows[group]
            mine.remove(row)  # it is among the first
            self._rows -= 1
            self.work -= row.bucket
            request.work -= row.bucket
            self._sizes[group] -= 1
            if not mine:
                del request.rows[group], self._groups[group][row.request]
                if not self._groups[group]:
                    del self._groups[group], self._sizes[group]
            if not request.rows:
                del self._requests[row.request]
