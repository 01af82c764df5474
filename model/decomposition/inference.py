"""Fixing how a BERT encoder's matrices are multiplied for one batch shape, by measuring.

Decomposed matrices have several execution plans (see `plans`). Dense projections, whole or pruned, have two: stock
modules, or weights that are kept packed (see `model.packed_layers`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.backbone import BERT, describe_stacks, spec_for
from model.decomposition.bank import MatrixBank
from model.decomposition.layers import MatrixGroup
from model.decomposition.plans import costs, multiply
from model.decomposition.stacking import GROUPS, Role
from model.decomposition.surgery import BANK, matrix_groups, role_slots
from model.errors import ModelError
from model.feed_forward import BertFeedForward
from model.packed_layers import PackedLinear, pack, unpack
from model.packing import usable_for

_WARMUP, _REPEATS = 2, 15

#: Runs to be timed, by the plan's name.
Runs = dict[str, Callable[[], Tensor]]


@dataclass(frozen=True)
class ChosenPlan:
    """What was decided for one kind of matrices.

    Attributes:
        roles: which matrices.
        plan: the fastest.
        milliseconds: of every plan; in one layer where the matrices are decomposed, else in all layers together.
    """

    roles: tuple[str, ...]
    plan: str
    milliseconds: dict[str, float]


@torch.no_grad()
def optimize_for_inference(model: PreTrainedModel, batch: int, length: int) -> list[ChosenPlan]:
    """Measure every plan on (batch, length) positions and use the fastest from now on, in evaluation mode.

    Training, gradients, other precisions and devices are not touched: a decomposed model goes on to count
    multiply-accumulates then, a dense or pruned one runs its stock modules. The choice is neither saved nor copied with
    the model. Packed weights are a second copy of the projections in memory.

    Raises:
        ModelError: the model is no BERT, has no plain projection, is in training mode, or the shape is not positive.
    """
    spec = spec_for(model)
    if spec.family != BERT.family:
        raise ModelError(f"optimize_for_inference knows encoders of family {BERT.family!r}, found {spec.family!r}.")
    encoder = spec.encoder(model)
    if encoder.training:
        raise ModelError("optimize_for_inference wants a model in evaluation mode: call model.eval() first.")
    if batch < 1 or length < 1:
        raise ModelError(f"The batch shape must be positive, found {batch} x {length}.")
    bank = getattr(encoder, BANK, None)
    if isinstance(bank, MatrixBank):
        return _fix_plans(model, bank, batch * length)
    return _pack_projections(model, batch * length)


def _fix_plans(model: PreTrainedModel, bank: MatrixBank, tokens: int) -> list[ChosenPlan]:
    """For the matrices of a decomposed model."""
    groups, chosen = matrix_groups(model), []
    for kind in dict.fromkeys(group.roles for group in groups):
        alike = [group for group in groups if group.roles == kind]
        times = _fastest(_plans_of(alike[0], tokens), next(bank.parameters()).device)
        plan = min(times, key=lambda name: times[name])
        for group in alike:
            group.fixed_plan = plan
        chosen.append(ChosenPlan(kind, plan, times))
    bank.forget()
    return chosen


def _pack_projections(model: PreTrainedModel, tokens: int) -> list[ChosenPlan]:
    """For plain linear layers; those of a pruned model have several shapes, each of which is measured once."""
    known: dict[Any, dict[str, float]] = {}
    chosen = []
    for roles in GROUPS:
        modules = _plain_modules(model, roles)
        for module in modules:
            unpack(module)
        times: dict[str, float] = {}
        for module in modules:
            key = type(module), _linear_in(module).weight.shape
            if key not in known:
                known[key] = _fastest(_both_ways(module, tokens), _linear_in(module).weight.device)
            times = {plan: times.get(plan, 0.0) + spent for plan, spent in known[key].items()}
        if not modules:  # nothing of this kind is left in any layer
            continue
        plan = min(times, key=lambda name: times[name])
        for module in modules if plan == "packed" else ():
            pack(module)
        chosen.append(ChosenPlan(roles, plan, times))
    if not chosen:
        raise ModelError(f"No plain linear projection to pack was found: {describe_stacks(model)}.")
    return chosen


def _plain_modules(model: PreTrainedModel, roles: tuple[Role, ...]) -> list[nn.Module]:
    """The linear layers that are these matrices, or, where more than a product is computed, the modules around them."""
    found = []
    for layer in spec_for(model).encoder_layers(model):
        slots = role_slots(layer)
        for role in roles:
            linear = slots[role].module
            if type(linear) in (nn.Linear, PackedLinear):
                alone = role in ("query", "key", "value") or isinstance(slots[role].parent, BertFeedForward)
                found.append(linear if alone else slots[role].parent)
    return found


def _linear_in(module: nn.Module) -> nn.Linear:
    linear = getattr(module, "dense", module)
    assert isinstance(linear, nn.Linear)
    return linear


def _both_ways(module: nn.Module, tokens: int) -> Runs:
    """A module as it is, and packed, where packed weights can be used."""
    linear = _linear_in(module)
    given = [torch.randn(tokens, linear.in_features).to(linear.weight)]
    if hasattr(module, "LayerNorm"):
        given.append(torch.randn(tokens, linear.out_features).to(linear.weight))
    runs: Runs = {"plain": partial(module, *given)}
    if usable_for(linear.weight):
        pack(packed := copy.deepcopy(module))
        runs["packed"] = partial(packed, *given)
    return runs


def _plans_of(group: MatrixGroup, tokens: int) -> Runs:
    parameter = next(group.bank.parameters())
    x = torch.randn(tokens, group.shape.inputs * group.shape.width).to(parameter)
    bias = torch.zeros(group.shape.outputs * group.shape.width).to(parameter)
    return {plan: partial(multiply, x, group.formed(plan), bias) for plan in costs(group.shape, group.inner)}


def _fastest(runs: Runs, device: torch.device) -> dict[str, float]:
    """Milliseconds of the fastest of a few runs of each, in turns."""
    times: dict[str, list[float]] = {plan: [] for plan in runs}
    for _ in range(_WARMUP + _REPEATS):
        for plan, function in runs.items():
            _synchronize(device)
            start = time.perf_counter()
            function()
            _synchronize(device)
            times[plan].append((time.perf_counter() - start) * 1e3)
    return {plan: min(values[_WARMUP:]) for plan, values in times.items()}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
