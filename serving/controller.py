"""Which ratio to serve with: raised when answers are late, lowered when there is room again.

No clock, no thread and no model in here. Times are seconds of any clock that does not go back, and every method is
told the time. Work is counted in padded tokens.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

#: Share of the requests that the latency target is about.
QUANTILE = 0.95
#: A ratio is faster than another if its time is below this share of the other's: measured times differ by a little.
FASTER = 0.95


@dataclass(frozen=True)
class ControllerSettings:
    """When to go up and when to go down.

    Attributes:
        target_ms: 95 of 100 answers should take no longer.
        low_share: go down only while the 95th percentile is below this share of the target …
        low_load: … and the smaller ratio would be busy for less than this share of the time.
        window_s: latencies and arrivals of this long count.
        dwell_up_s, dwell_down_s: shortest time after a change before the next one up, or down.
        trial_s: a ratio that had to be left again this soon after going down to it has failed at that load …
        retry_share: … and is not tried again until the load is below this share of it, …
        forget_s: … or so much time has passed.
        min_samples: answers that it takes to speak of a percentile.
    """

    target_ms: float
    low_share: float = 0.6
    low_load: float = 0.7
    window_s: float = 5.0
    dwell_up_s: float = 0.5
    dwell_down_s: float = 5.0
    trial_s: float = 300.0
    retry_share: float = 0.8
    forget_s: float = 1800.0
    min_samples: int = 20

    def __post_init__(self) -> None:
        if not self.target_ms > 0:
            raise ValueError(f"the latency target must be above 0 ms, found {self.target_ms}")
        if not (0 < self.low_share < 1 and 0 < self.low_load < 1 and 0 < self.retry_share < 1):
            raise ValueError("low_share, low_load and retry_share are shares between 0 and 1")


class Window:
    """Number and sum of the values of the last `span_s` seconds."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._pairs: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def add(self, now: float, value: float) -> None:
        """Note a value."""
        self._pairs.append((now, value))
        self._sum += value

    def clear(self) -> None:
        """Forget everything."""
        self._pairs.clear()
        self._sum = 0.0

    def count(self, now: float) -> int:
        """How many values there are."""
        while self._pairs and self._pairs[0][0] <= now - self._span_s:
            self._sum -= self._pairs.popleft()[1]
        return len(self._pairs)

    def per_second(self, now: float) -> float:
        """Sum of the values over the span."""
        return self._sum / self._span_s if self.count(now) else 0.0

    def mean(self, now: float) -> float:
        """Mean of the values, of which there are some."""
        return self._sum / self.count(now)


def worthwhile(seconds_per_work: Mapping[int, float]) -> dict[int, float]:
    """The ratios that are clearly faster than every smaller one of them; going up to another would help nobody."""
    kept: dict[int, float] = {}
    for ratio, seconds in sorted(seconds_per_work.items()):
        if not kept or seconds < FASTER * min(kept.values()):
            kept[ratio] = seconds
    return kept


class RatioController:
    """Chooses among the ratios of `seconds_per_work`, beginning at the smallest.

    Up, one step, when the answers of this ratio are late, or when what waits would be late at its speed. Down, one
    step, when answers are early and the smaller ratio has room for the work that arrives. Between the two lies a band
    in which nothing changes. Where the smaller ratio has room by its measured speed but answers late nevertheless,
    going down fails: that load is remembered for half an hour, in which only a clearly smaller one is tried again, and
    after another failure an even smaller one. So a constant load leads to one ratio, and stays there.

    Args:
        settings: thresholds and times.
        seconds_per_work: ratio -> seconds for one token, measured at large batches. `ran` corrects all of them by one
            common factor, as a machine that is shared gets slower and faster.
    """

    def __init__(self, settings: ControllerSettings, seconds_per_work: Mapping[int, float]) -> None:
        if not seconds_per_work:
            raise ValueError("a controller needs at least one ratio")
        self.settings = settings
        self.ratios = tuple(sorted(seconds_per_work))
        self._costs = dict(seconds_per_work)
        self._speed = 1.0
        self._at = 0
        self._changed = -math.inf
        self._lowered = -math.inf
        self._late, self._slow = Window(settings.window_s), Window(settings.window_s)  # of 1 (yes) and 0 (no)
        self._arrivals = Window(settings.window_s)
        self._failing: tuple[int, float, float] | None = None  # ratio, since when, highest load so far
        self._retry_below: dict[int, tuple[float, float]] = {}  # ratio -> load, and when it failed there

    @property
    def ratio(self) -> int:
        """The ratio in use."""
        return self.ratios[self._at]

    def arrived(self, now: float, work: float) -> None:
        """Work came into the queue."""
        self._arrivals.add(now, work)

    def ran(self, ratio: int, work: float, seconds: float) -> None:
        """A large batch ran so long at `ratio`. Small ones say nothing about the speed under load."""
        if work > 0 and seconds > 0:
            self._speed += 0.1 * (seconds / (work * self._costs[ratio]) - self._speed)

    def answered(self, now: float, latency_ms: float) -> None:
        """A request was answered. One that came before the last change says nothing about this ratio."""
        if now - latency_ms / 1e3 >= self._changed:
            self._late.add(now, latency_ms > self.settings.target_ms)
            self._slow.add(now, latency_ms > self.settings.low_share * self.settings.target_ms)

    def seconds_for(self, work: float, ratio: int | None = None) -> float:
        """How long so much work takes at a ratio (default: the one in use)."""
        return work * self._costs[self.ratio if ratio is None else ratio] * self._speed

    def load(self, now: float, ratio: int) -> float:
        """Share of the time that a ratio would be busy with what arrives; above 1 it cannot keep up."""
        return self.seconds_for(self._arrivals.per_second(now), ratio)

    def is_late(self, now: float) -> bool:
        """Whether the 95th percentile of this ratio's answers is above the target; no while there are too few."""
        return self._exceeds(self._late, now)

    def is_slow(self, now: float) -> bool:
        """Whether it is above the share of the target below which a smaller ratio is thought of."""
        return self._exceeds(self._slow, now)

    def _exceeds(self, answers: Window, now: float) -> bool:
        # More than 5 % above a limit is the same as a 95th percentile above it, and needs no sorting.
        return answers.count(now) >= self.settings.min_samples and answers.mean(now) > 1 - QUANTILE

    def decide(self, now: float, waiting: float) -> int:
        """The ratio for the next batch.

        Args:
            waiting: work that is in the queue.
        """
        self._learn(now)
        since, settings = now - self._changed, self.settings
        late = self.is_late(now) or 1e3 * self.seconds_for(waiting) > settings.target_ms
        if late and since >= settings.dwell_up_s and self._at + 1 < len(self.ratios):
            if now - self._lowered < settings.trial_s:
                self._failing = (self.ratio, now, self._arrivals.per_second(now))
            self._lowered = -math.inf
            self._change(now, +1)
        elif not late and since >= settings.dwell_down_s and self._at > 0 and self._has_room(now, waiting):
            self._lowered = now
            self._change(now, -1)
        return self.ratio

    def _learn(self, now: float) -> None:
        """Bring up to date at which load a ratio failed: the highest within a window, as a step fills it slowly."""
        if now - self._lowered >= self.settings.trial_s:
            self._retry_below.pop(self.ratio, None)
        if self._failing is None:
            return
        ratio, since, highest = self._failing
        highest = max(highest, self._arrivals.per_second(now))
        self._failing = (ratio, since, highest)
        if now - since >= self.settings.window_s:
            known = self._retry_load(ratio, now)
            self._retry_below[ratio] = (self.settings.retry_share * min(highest, known), now)
            self._failing = None

    def _change(self, now: float, steps: int) -> None:
        self._at += steps
        self._changed = now
        self._late.clear()
        self._slow.clear()

    def _retry_load(self, ratio: int, now: float) -> float:
        """Work per second below which a ratio may be tried; infinite where it has not failed."""
        load, since = self._retry_below.get(ratio, (math.inf, -math.inf))
        return load if now - since < self.settings.forget_s else math.inf

    def _has_room(self, now: float, waiting: float) -> bool:
        """Whether the next smaller ratio would do."""
        lower, low_ms = self.ratios[self._at - 1], self.settings.low_share * self.settings.target_ms
        if self._failing is not None or self.is_slow(now):
            return False
        return (
            self._arrivals.per_second(now) < self._retry_load(lower, now)
            and self.load(now, lower) < self.settings.low_load
            and 1e3 * self.seconds_for(waiting, lower) < low_ms
        )
