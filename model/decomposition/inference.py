"""Fixing the execution plans of a decomposed model for one batch shape, by measuring them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from model.decomposition.layers import MatrixGroup
from model.decomposition.plans import costs, multiply
from model.decomposition.surgery import matrix_bank, matrix_groups
from model.errors import ModelError

_WARMUP, _REPEATS = 2, 7


@dataclass(frozen=True)
class ChosenPlan:
    """What was decided for one kind of matrices, and the milliseconds of every plan in one layer."""

    roles: tuple[str, ...]
    plan: str
    milliseconds: dict[str, float]


@torch.no_grad()
def optimize_for_inference(model: PreTrainedModel, batch: int, length: int) -> list[ChosenPlan]:
    """Measure every plan on (batch, length) positions and use the fastest from now on, in evaluation mode.

    Training goes on to count multiply-accumulates. The choice is not saved with the model.

    Raises:
        ModelError: the model is not decomposed, is in training mode, or the shape is not positive.
    """
    bank = matrix_bank(model)
    if bank.training:
        raise ModelError("optimize_for_inference wants a model in evaluation mode: call model.eval() first.")
    if batch < 1 or length < 1:
        raise ModelError(f"The batch shape must be positive, found {batch} x {length}.")
    groups, chosen = matrix_groups(model), []
    for kind in dict.fromkeys(group.roles for group in groups):
        alike = [group for group in groups if group.roles == kind]
        times = _measured(alike[0], batch * length)
        plan = min(times, key=lambda name: times[name])
        for group in alike:
            group.fixed_plan = plan
        chosen.append(ChosenPlan(kind, plan, times))
    bank.forget()
    return chosen


def _measured(group: MatrixGroup, tokens: int) -> dict[str, float]:
    """The fastest of a few runs of every plan, in turns."""
    parameter = next(group.bank.parameters())
    x = torch.randn(tokens, group.shape.inputs * group.shape.width).to(parameter)
    bias = torch.zeros(group.shape.outputs * group.shape.width).to(parameter)
    runs: dict[str, Callable[[], Tensor]] = {
        plan: partial(multiply, x, group.formed(plan), bias) for plan in costs(group.shape, group.inner)
    }
    times: dict[str, list[float]] = {plan: [] for plan in runs}
    for _ in range(_WARMUP + _REPEATS):
        for plan, function in runs.items():
            _synchronize(x.device)
            start = time.perf_counter()
            function()
            _synchronize(x.device)
            times[plan].append((time.perf_counter() - start) * 1e3)
    return {plan: min(values[_WARMUP:]) for plan, values in times.items()}


def _synchronize(device: Any) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
