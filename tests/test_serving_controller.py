"""The ratio follows the load, within its thresholds and times, and stays where it is while the load does."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace
from typing import Any

import pytest

from serving.batching import LengthQueue, Waiting, length_bucket
from serving.controller import ControllerSettings, RatioController, Window, worthwhile

SETTINGS = ControllerSettings(target_ms=100.0, min_samples=4)
#: Seconds for one unit of work: 100, 200 and 400 units a second.
COSTS = {1: 0.01, 2: 0.005, 4: 0.0025}


def controller(**changes: Any) -> RatioController:
    return RatioController(replace(SETTINGS, **changes), COSTS)


def answer(one: RatioController, times: int, latency_ms: float, begin: float) -> None:
    for i in range(times):
        one.answered(begin + 0.01 * i, latency_ms)


def test_late_answers_raise_the_ratio_one_step_after_the_dwell_time() -> None:
    """A 95th percentile above the target means one step up; the next only after `dwell_up_s`, by new answers."""
    one = controller()
    answer(one, 3, 500.0, begin=1.0)
    assert one.decide(1.1, waiting=0) == 1  # three are too few to speak of a percentile
    answer(one, 1, 500.0, begin=1.1)
    assert one.decide(1.2, waiting=0) == 2
    answer(one, 9, 120.0, begin=1.25)  # these came before the change, and say nothing about the new ratio
    assert not one.is_late(1.4) and one.decide(1.9, waiting=0) == 2
    answer(one, 9, 120.0, begin=1.4)
    assert one.decide(1.69, waiting=0) == 2
    assert one.decide(1.7, waiting=0) == 4
    answer(one, 9, 500.0, begin=3.0)
    assert one.decide(4.0, waiting=0) == 4  # there is no larger one


def test_a_queue_that_would_be_late_raises_the_ratio_before_any_answer_is() -> None:
    """What waits, at this ratio's speed, is compared with the target; exactly the target is not late."""
    assert controller().decide(0.0, waiting=10) == 1
    assert controller().decide(0.0, waiting=10.1) == 2


def test_the_ratio_falls_only_with_early_answers_room_and_time() -> None:
    """Each of the conditions alone keeps the ratio up."""
    for latency_ms, arriving, waiting, now, expected in (
        (50.0, 60.0, 5, 5.0, 1),  # early answers, 60 % load at ratio 1, 50 ms of work there, 5 s after the change
        (61.0, 60.0, 5, 5.0, 2),  # between the thresholds: 60 and 100 ms
        (50.0, 71.0, 5, 5.0, 2),  # more than 70 % load at ratio 1
        (50.0, 60.0, 7, 5.0, 2),  # what waits would take 70 ms at ratio 1
        (50.0, 60.0, 5, 4.9, 2),  # too soon
    ):
        one = controller()
        assert one.decide(0.0, waiting=11) == 2
        for i in range(100):
            one.arrived(now - 1 + i / 100, arriving * SETTINGS.window_s / 100)
        answer(one, 9, latency_ms, begin=now - 1)
        assert one.load(now, 1) == pytest.approx(arriving / 100)
        assert one.decide(now, waiting) == expected, (latency_ms, arriving, waiting, now)


def test_without_requests_the_ratio_returns_to_1() -> None:
    """Nobody is asking: step by step down."""
    one = controller()
    assert [one.decide(t, 50) for t in (0.0, 0.5, 1.0)] == [2, 4, 4]
    assert [one.decide(t, 0) for t in (5.4, 5.5, 10.4, 10.5, 99.0)] == [4, 2, 2, 1, 1]


def test_the_speed_follows_the_machine() -> None:
    """Full batches that take twice as long make the queue look twice as long, at every ratio."""
    one = controller()
    for _ in range(100):
        one.ran(2, work=10, seconds=0.1)
    assert one.seconds_for(10, 2) == pytest.approx(0.1, rel=1e-3)
    assert one.seconds_for(10, 4) == pytest.approx(0.05, rel=1e-3)


def test_only_ratios_that_are_faster_than_all_smaller_ones_are_chosen_among() -> None:
    """On a pruned model plugins may cost more than they save; a twentieth is within what measurements differ by."""
    assert worthwhile({4: 0.0025, 1: 0.01, 2: 0.005}) == COSTS
    assert worthwhile({1: 1.0, 2: 1.2, 4: 0.97}) == {1: 1.0}
    assert worthwhile({1: 1.0, 2: 1.2, 4: 0.9, 8: 0.89, 16: 0.5}) == {1: 1.0, 4: 0.9, 16: 0.5}


def test_one_ratio_is_a_fixed_ratio() -> None:
    """Whatever happens."""
    one = RatioController(SETTINGS, {4: 1.0})
    answer(one, 50, 1e6, begin=0.0)
    assert [one.decide(t, waiting) for t, waiting in ((1.0, 1e6), (50.0, 0))] == [4, 4]


def feed(one: RatioController, begin: float, end: float, per_second: float) -> None:
    for i in range(round((end - begin) * 10)):
        one.arrived(begin + i / 10, per_second / 10)


def test_a_ratio_that_failed_is_tried_at_a_smaller_load_or_after_half_an_hour() -> None:
    """The load that counts is the highest of the window after the failure, as a step fills the window slowly."""
    for per_second, end, expected in ((45, 20.0, 2), (35, 20.0, 1), (45, 1811.0, 2), (45, 1811.5, 1)):
        one = controller()
        assert one.decide(0.0, waiting=11) == 2
        feed(one, 0.0, 5.5, 10)
        assert one.decide(5.5, waiting=0) == 1  # going down …
        feed(one, 5.5, 6.0, 50)
        assert one.decide(6.0, waiting=11) == 2  # … fails as the load steps to 50
        feed(one, 6.0, 11.5, 50)
        assert one.decide(11.5, waiting=0) == 2
        feed(one, end - 6, end, per_second)
        assert one.decide(end, waiting=0) == expected, (per_second, end)


def test_windows_forget() -> None:
    """What is older than the span is gone, from number, sum and mean."""
    window = Window(2.0)
    for now in (0.0, 1.0, 1.5):
        window.add(now, now + 1)
    assert window.per_second(1.6) == pytest.approx(2.75) and window.mean(1.6) == pytest.approx(5.5 / 3)
    assert window.count(3.0) == 1 and window.per_second(3.0) == pytest.approx(1.25)
    assert window.count(9.0) == 0 and window.per_second(9.0) == 0.0


def test_the_95th_percentile_is_the_limit() -> None:
    """One late answer of 20 is within it, two are not."""
    for late, expected in ((1, 1), (2, 2)):
        one = controller()
        answer(one, 20 - late, 10.0, begin=0.0)
        answer(one, late, 101.0, begin=0.3)
        assert one.decide(0.5, waiting=0) == expected


# --- a server of one worker, simulated ----------------------------------------------------------------------------


class Simulated:
    """One worker at ratios of `COSTS`; requests of one unit of work come in at random, eight fit into a batch.

    Args:
        slow: seconds that a batch takes beyond its work at ratio 1, which the controller's speeds do not know of.
    """

    def __init__(self, one: RatioController, seed: int, slow: float = 0.0) -> None:
        self.one, self.slow, self.rng = one, slow, random.Random(seed)
        self.now, self.waiting = 0.0, deque[float]()

    def run(self, seconds: float, rate: float) -> list[tuple[float, int]]:
        """(time, ratio) of every change while requests come at `rate` a second."""
        found, end, arrival = [], self.now + seconds, self.now + self.rng.expovariate(rate)
        while self.now < end:
            while arrival <= self.now:
                self.waiting.append(arrival)
                self.one.arrived(arrival, 1)
                arrival += self.rng.expovariate(rate)
            before, ratio = self.one.ratio, self.one.decide(self.now, len(self.waiting))
            if ratio != before:
                found.append((self.now, ratio))
            self._step(ratio, arrival)
        return found

    def _step(self, ratio: int, next_arrival: float) -> None:
        if not self.waiting:
            self.now = min(next_arrival, self.now + 0.25)
            return
        batch = [self.waiting.popleft() for _ in range(min(8, len(self.waiting)))]
        self.now += len(batch) * COSTS[ratio] + (self.slow if ratio == 1 else 0.0)
        for arrived in batch:
            self.one.answered(self.now, (self.now - arrived) * 1e3)


@pytest.mark.parametrize(
    ("rate", "settled", "most"), [(20, {1}, 0), (65, {1, 2}, 5), (95, {2}, 5), (150, {2, 4}, 5), (330, {4}, 3)]
)
def test_a_constant_load_comes_to_rest(rate: float, settled: set[int], most: int) -> None:
    """Random arrivals at one rate for five minutes: a few changes at first, where the rate is near a ratio's limit."""
    for seed in range(2):
        one = controller(min_samples=20)
        found = Simulated(one, seed).run(300.0, rate)
        assert len(found) <= most, found  # a controller that flaps has dozens
        assert one.ratio in settled


def test_a_ratio_that_fails_at_a_load_is_not_tried_at_it_again() -> None:
    """Ratio 1 has room by its measured speed but answers late: going down fails, and becomes rare."""
    for seed in range(2):
        found = Simulated(controller(min_samples=20), seed, slow=0.1).run(300.0, 20)
        assert 2 < len(found) < 12, found  # without a memory there is one every five seconds


def test_steps_of_load_are_followed_up_and_down() -> None:
    """20, 150 and 20 % of what ratio 1 can do: up within two seconds, back within 30."""
    server = Simulated(controller(min_samples=20), seed=0)
    assert server.run(30.0, 20) == []
    up = server.run(30.0, 150)
    assert up and up[0][0] < 32 and server.one.ratio > 1
    down = server.run(30.0, 20)
    assert server.one.ratio == 1 and [ratio for _, ratio in down] == sorted((r for _, r in down), reverse=True)


# --- batches ---------------------------------------------------------------------------------------------------


def row(length: int, arrived: float, task: str = "a", request: str | None = None) -> Waiting:
    """A row of a request of its own, or of one that has a name."""
    return Waiting(task, length_bucket(length), arrived, request or (length, arrived))


def queue(*rows: Waiting, limit: int = 100, max_batch: int = 3) -> LengthQueue:
    made = LengthQueue(limit, max_batch, max_wait_s=1.0)
    for one in rows:
        assert made.reserve(1)
        made.put(one)
    return made


def test_buckets_waste_a_third_at_most() -> None:
    """Every length from 8 on fits its bucket, which is at most 1.5 times as long; buckets grow with length."""
    for length in range(8, 600):
        assert length <= length_bucket(length) < 1.5 * length
    assert [length_bucket(n) for n in (1, 8, 9, 13, 17, 25, 33, 512)] == [8, 8, 12, 16, 24, 32, 48, 512]


def test_a_batch_is_of_one_task_and_one_length() -> None:
    """The oldest row decides, once it has waited; rows of its group follow in order, no more than a batch has."""
    rows = [row(10, 0.0), row(40, 0.1), row(11, 0.2), row(12, 0.3, "b"), row(9, 0.4), row(10, 0.5)]
    made = queue(*rows)
    assert made.take(0.9) == [rows[0], rows[2], rows[4]]  # full, so it need not wait
    assert made.take(0.9) == [] and made.due_at() == pytest.approx(1.1)
    assert made.take(1.1) == [rows[1]]
    assert [made.take(1.1, flush=True) for _ in range(3)] == [[rows[3]], [rows[5]], []]
    assert (len(made), made.work, made.due_at()) == (0, 0, None)


def test_room_is_bounded_and_reserved_room_counts() -> None:
    """Rows that wait and rows that are promised together stay within the limit."""
    made = queue(row(8, 0.0), row(20, 0.0), limit=4)
    assert made.work == 8 + 24
    assert made.reserve(2) and not made.reserve(1)
    made.release(1)
    assert made.reserve(1) and not made.reserve(1)
    assert len(made.clear()) == 2 and len(made) == 0 and made.work == 0
