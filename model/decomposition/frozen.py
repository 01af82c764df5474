"""Decomposed projections with the weights of one execution plan formed for good: what an exported file computes with.

A `DecomposedLinear` looks at its bank in every forward, to notice when formed weights are out of date. A tracer cannot
follow that, and a file has no use for it: here the formed weights are the parameters, and the bank is gone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from model.backbone import spec_for
from model.decomposition.bank import MatrixBank
from model.decomposition.layers import DecomposedLinear, MatrixGroup
from model.decomposition.plans import cheapest, multiply, weights
from model.decomposition.surgery import BANK, matrix_groups, role_slots

#: Any number: where the weights are formed already, the cheapest plan is the same for all.
_TOKENS = 1
#: Parameters by the memory that they were copied from, so that factors that matrices share are one parameter; with
#: the tensor itself, whose memory nothing else may get meanwhile.
_Made = dict[Any, tuple[Tensor, nn.Parameter]]


class FrozenGroup(nn.Module):
    """Projections that read the same input: the matrices that are applied to it one after the other, and the bias."""

    def __init__(self, steps: list[nn.Parameter], bias: nn.Parameter | None, sizes: list[int]) -> None:
        super().__init__()
        self.steps = nn.ParameterList(steps)
        self.bias = bias
        self.sizes = sizes
        self._x: Tensor | None = None
        self._parts: dict[int, Tensor] = {}

    def project(self, x: Tensor, member: int) -> Tensor:
        """The result of one member; those of the others are kept until they are called with the same tensor."""
        if self._x is not x or member not in self._parts:
            made = multiply(x, tuple(self.steps), self.bias)
            self._x, self._parts = x, dict(enumerate(made.split(self.sizes, dim=-1)))
        part = self._parts.pop(member)
        if not self._parts:
            self._x = None
        return part


class FrozenLinear(nn.Module):
    """One member of a group: a projection (…, in) -> (…, out). The first member owns the group's parameters."""

    def __init__(self, group: FrozenGroup, member: int) -> None:
        super().__init__()
        self._groups = [group]  # in a list, where it is not registered
        self._member = member
        if member == 0:
            self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        return self._groups[0].project(x, self._member)


@torch.no_grad()
def freeze_plans(model: Any) -> dict[str, str]:
    """Replace the decomposed projections of `model` in place; it can then be evaluated, but no more trained or saved.

    Each group gets the plan that `optimize_for_inference` fixed, else the one with the fewest multiply-accumulates.

    Returns:
        The plan of each kind of matrices; empty for a model without decomposed ones.
    """
    encoder = spec_for(model).encoder(model)
    if not isinstance(getattr(encoder, BANK, None), MatrixBank):
        return {}
    made: _Made = {}
    plans: dict[str, str] = {}
    frozen = {}
    for group in matrix_groups(model):
        plan = group.fixed_plan or cheapest(group.shape, group.inner, _TOKENS, cached=True)
        plans["+".join(group.roles)] = plan
        frozen[group] = _frozen(group, plan, made)
    for layer in spec_for(model).encoder_layers(model):
        for slot in role_slots(layer).values():
            module = slot.module
            if isinstance(module, DecomposedLinear):
                slot.replace(FrozenLinear(frozen[module.group], module.group.members.index(module)).eval())
    delattr(encoder, BANK)
    return plans


def _frozen(group: MatrixGroup, plan: str, made: _Made) -> FrozenGroup:
    factors = group.bank.factors(group.rows, group.transposed)
    steps = [_parameter(weight, made) for weight in weights(plan, factors, group.shape)]
    biases: list[Tensor] = [member.bias for member in group.members if member.bias is not None]
    bias = _parameter(torch.cat(biases), made) if biases else None
    return FrozenGroup(steps, bias, [member.out_features for member in group.members])


def _parameter(weight: Tensor, made: _Made) -> nn.Parameter:
    place = (weight.data_ptr(), weight.shape, weight.stride())
    if place not in made:
        copy = weight.detach().clone(memory_format=torch.contiguous_format)
        made[place] = weight, nn.Parameter(copy, requires_grad=False)
    return made[place][1]
