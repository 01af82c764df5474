"""The load test's plan is the same for both servers, and its table counts every request once."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.arguments import parse_serve_load
from benchmarks.serve_load import bodies_of, schedule
from benchmarks.serve_report import percentile, summary, table
from tests.tiny import write_sst2
from utils.errors import UserError


def sample(latency_ms: float, status: int = 200, right: int = 2, ratio: int = 1, step: int = 0) -> dict[str, Any]:
    answered = status == 200
    values = {"rows": 2 * answered, "right": right * answered, "ratio": ratio * answered}
    return {"step": step, "due_s": 0.0, "latency_ms": latency_ms, "status": status, **values}


def test_arrivals_follow_the_steps_and_the_seed() -> None:
    """As many requests as each step's share asks for, in the order of time; another seed gives others."""
    plan = schedule([0.5, 2.0], 100.0, 20.0, seed=1)
    assert plan == schedule([0.5, 2.0], 100.0, 20.0, seed=1) != schedule([0.5, 2.0], 100.0, 20.0, seed=2)
    assert plan == sorted(plan) and all(step * 100 <= due < step * 100 + 100 for due, step in plan)
    numbers = Counter(step for _, step in plan)
    assert numbers[0] == pytest.approx(1000, rel=0.15) and numbers[1] == pytest.approx(4000, rel=0.1)


def test_requests_hold_every_row_with_its_label(tmp_path: Path) -> None:
    """Validation rows in an order of the seed, in whole requests."""
    write_sst2(tmp_path, train=1, valid=11)
    bodies = bodies_of(str(tmp_path), "sst2", 3, seed=1)
    assert [len(body.labels) for body in bodies] == [3, 3, 3]
    for body in bodies:  # in these rows odd numbers at the end mean positive
        numbers = [int(part.split(b'"')[0].split()[-1]) for part in body.content.split(b'"sentence": "')[1:]]
        assert body.labels == tuple("positive" if number % 2 else "negative" for number in numbers)


def test_the_table_counts_refusals_apart() -> None:
    """Percentiles, accuracy and ratio are those of the answered requests; what failed otherwise is told."""
    samples = [sample(10.0), sample(30.0, right=1, ratio=4), sample(1.0, status=429), sample(1.0, status=500)]
    found = summary(samples)
    assert (found["requests"], found["refused"], found["failed"]) == (4, 0.25, 1)
    assert (found["p50_ms"], found["p99_ms"], found["accuracy"], found["ratio"]) == (10.0, 30.0, 0.75, 2.5)
    assert math.isnan(summary(samples[2:])["accuracy"]) and math.isnan(percentile([], 0.5))
    assert [percentile([3, 1, 2, 4], share) for share in (0.25, 0.5, 0.95)] == [1, 2, 4]
    measured = {
        **{"steps": [0.5], "step_seconds": 4.0, "capacity_per_s": 9.0, "alone_ms": 3.0, "target_ms": 30.0},
        **{"rows_per_request": 2, "threads": 1, "torch": "2", "samples": {"fixed": samples, "dynamic": samples[:1]}},
    }
    lines = table(measured)
    assert "| 50% | fixed | 4 | 10 | 30 | 30 | 25.0% | 0.7500 | 2.50 |" in lines
    assert "| all | dynamic | 1 | 10 | 10 | 10 | 0.0% | 1.0000 | 1.00 |" in lines
    assert "1 requests failed otherwise" in lines[-1]


def test_bad_numbers_are_named() -> None:
    with pytest.raises(UserError, match="--steps must be above 0, found 0"):
        parse_serve_load(["--model", "m", "--plugins", "p", "--data", "d", "--steps", "0.5", "0"])
