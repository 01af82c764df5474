"""What it means that two runs of the same rows in other processes are equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import result_of, rows_of, tensors_under


def assert_close(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Two rows of metrics.jsonl are of the same step, and their numbers are equal up to the order of summation."""
    key = (wanted["split"], wanted["step"])
    assert (found["split"], found["step"]) == key and found.keys() == wanted.keys()
    numbers = {name: value for name, value in wanted.items() if name not in ("split", "step")}
    assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-5), key


def assert_equal_runs(two: Path, one: Path) -> None:
    """Metrics of validation and counts exactly; losses, gradient norms and weights up to the order of summation."""
    for found, wanted in zip(rows_of(two), rows_of(one), strict=True):
        assert_close(found, wanted)
        if found["split"] == "valid":
            exact = [key for key in wanted if key.startswith(("accuracy", "exact_match", "f1"))]
            assert (exact or "negative_loss" in wanted) and [found[key] for key in exact] == [
                wanted[key] for key in exact
            ]
    result, expected_result = result_of(two), result_of(one)
    for key in ("steps", "tokens", "best_step"):
        assert result[key] == expected_result[key], key
    is_loss = expected_result["metric"] == "negative_loss"
    assert result["best_value"] == pytest.approx(expected_result["best_value"], rel=1e-4 if is_loss else 0)
    torch.testing.assert_close(_weights(two), _weights(one), rtol=1e-4, atol=2e-5)


def _weights(run: Path) -> dict[str, Tensor]:
    """All but the biases of keys: their gradient is 0 but for rounding, which Adam makes as large as any other."""
    return {name: value for name, value in tensors_under(run / "best").items() if not name.endswith("key.bias")}
