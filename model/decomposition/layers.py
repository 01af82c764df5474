"""What hangs where a dense projection hung, and the groups of projections that are multiplied together."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertIntermediate

from model.decomposition.bank import MatrixBank, State
from model.decomposition.plans import Inner, Shape, cheapest, multiply, weights
from model.decomposition.stacking import Role, joined
from model.packing import PackedWeight, Weight


class _Pending(threading.local):
    """One thread's results that wait for the group's other members, and what they were computed from."""

    x: Tensor | None = None
    marks: tuple[Any, ...] = ()
    state: State | None = None
    outputs: dict[int, Tensor]  # set together with x

    def __reduce__(self) -> tuple[type[_Pending], tuple[()]]:
        return _Pending, ()


class MatrixGroup:
    """Projections that read the same input; the factor they share is applied to it once.

    The first member that is called computes the results of all; the others get theirs if they are called, in the same
    thread, with the very same unchanged tensor and parameters.

    Attributes:
        members: the layers, in stacking order.
        roles: which matrices they are.
        shape: chunks in and out.
        fixed_plan: set by `optimize_for_inference`; used where formed weights are kept.
    """

    def __init__(self, bank: MatrixBank, roles: tuple[Role, ...], rows: slice, shape: Shape) -> None:
        self.bank = bank
        self.roles = roles
        self.rows = rows
        self.shape = shape
        self.members: list[DecomposedLinear] = []
        self.fixed_plan: str | None = None
        self._pending = _Pending()

    @property
    def transposed(self) -> bool:
        """Whether the stacked blocks multiply as x @ B^T."""
        return self.roles == ("ffn_in",)

    @property
    def inner(self) -> Inner:
        """Inner dimensions of the factors as they are used."""
        p, q, shared = self.bank.inner
        return Inner(q, p, shared) if self.transposed else Inner(p, q, shared)

    def project(self, x: Tensor, member: int) -> Tensor:
        """The result of one member."""
        if len(self.members) == 1:
            return self._product(x, self.members[0].bias)
        pending, marks, state = self._pending, _marks(x), self.bank.state()
        if pending.x is not x or pending.marks != marks or pending.state is None or not pending.state.same(state):
            pending.x = None
        if pending.x is None or member not in pending.outputs:
            biases: list[Tensor] = [layer.bias for layer in self.members if layer.bias is not None]
            assert len(biases) in (0, len(self.members))
            made = self._product(x, torch.cat(biases) if biases else None)
            parts = made.split([layer.out_features for layer in self.members], dim=-1)
            pending.x, pending.marks, pending.state = x, marks, state
            pending.outputs = dict(enumerate(parts))
        output = pending.outputs.pop(member)
        if not pending.outputs:
            pending.x = pending.state = None
        return output

    def activated(self, x: Tensor) -> Tensor | None:
        """The GELU of the only member's result, in one step; None where that is not to be had for less than two."""
        steps = None if self._is_trained() else self._kept(x)
        if steps is None or not isinstance(steps[-1], PackedWeight):
            return None
        return multiply(x, steps, self.members[0].bias, gelu=True)

    def _product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self._is_trained():
            plan = cheapest(self.shape, self.inner, x.numel() // x.shape[-1], cached=False)
            return multiply(x, weights(plan, self.bank.factors(self.rows, self.transposed), self.shape), bias)
        return multiply(x, self._kept(x), bias)

    def _is_trained(self) -> bool:
        return self.bank.training or (torch.is_grad_enabled() and any(p.requires_grad for p in self.bank.parameters()))

    def _kept(self, x: Tensor) -> tuple[Weight, ...]:
        if self.rows.start == 0:  # the first of an encoder's products
            self.bank.probe()
        tokens = x.numel() // x.shape[-1]
        return self.formed(self.fixed_plan or cheapest(self.shape, self.inner, tokens, cached=True))

    def formed(self, plan: str) -> tuple[Weight, ...]:
        """The weights of a plan, kept until a parameter changes."""
        return self.bank.cached(
            (self.rows.start, plan),
            lambda: weights(plan, self.bank.factors(self.rows, self.transposed), self.shape),
        )


class DecomposedLinear(nn.Module):
    """A projection (…, in) -> (…, out) whose matrix lies in a bank; only its bias is its own.

    Args:
        group: which multiplies it.
        rows: its blocks in the bank.
        features: (in, out).
        bias: (out,), or None.
    """

    def __init__(
        self, group: MatrixGroup, role: Role, rows: slice, features: tuple[int, int], bias: nn.Parameter | None
    ) -> None:
        super().__init__()
        # A plain attribute: the bank is registered once, in the model.
        self.group = group
        self.role = role
        self.rows = rows
        self.in_features, self.out_features = features
        self.bias = bias
        self._member = len(group.members)
        group.members.append(self)

    @property
    def weight(self) -> Tensor:
        """The matrix (out, in) that the factors stand for, formed anew each time."""
        return joined(self.group.bank.matrices(self.rows), self.role)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        return self.group.project(x, self._member)

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"{self.in_features}, {self.out_features}, rows={self.rows.start}:{self.rows.stop}"


class FusedIntermediate(BertIntermediate):
    """BERT's FFN input with its GELU, which in evaluation is a part of the product.

    A stock module becomes one by its class alone; its projection, called by itself, gives what it always did.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, F)."""
        parts = (self.dense, self.intermediate_act_fn)
        if isinstance(self.dense, DecomposedLinear) and not any(part._forward_hooks for part in parts):
            made = self.dense.group.activated(hidden_states)
            if made is not None:
                return made
        stock: Tensor = super().forward(hidden_states)
        return stock


def _marks(x: Tensor) -> tuple[Any, ...]:
    """What makes a result of x unusable for another call with x, besides changed parameters."""
    version = None if x.is_inference() else x._version
    return version, x.data_ptr(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()
