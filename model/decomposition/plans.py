"""How a group of factorised matrices is multiplied: which products are formed beforehand, and what each choice costs.

A group is a block matrix that maps `inputs` chunks of width D to `outputs` chunks of width D: query, key and value
together have 1 and 3, an FFN's input matrix 1 and F, its output matrix F and 1. Every block is first @ core @ last with
first (D, p) and last (q, D). Where all blocks share first and last, they are applied once per chunk:

    three   x @ first, @ all cores side by side, @ last
    left    x @ first, @ [core @ last, …]            first is shared by all outputs
    right   x @ [first @ core, …], @ last            last is shared by all inputs
    dense   x @ [first @ core @ last, …]

Blocks with factors of their own, first (D, r) @ last (r, D), have the plans `pairs` and `dense`.

Shapes: n = inputs * outputs blocks, T positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.packing import PackedWeight, Weight


@dataclass(frozen=True)
class Shape:
    """A group's chunks and their width D."""

    inputs: int
    outputs: int
    width: int

    @property
    def blocks(self) -> int:
        """n."""
        return self.inputs * self.outputs


class SharedFactors(NamedTuple):
    """first (D, p), cores (n, p, q), last (q, D)."""

    first: Tensor
    cores: Tensor
    last: Tensor


class PairFactors(NamedTuple):
    """first (n, D, r), last (n, r, D)."""

    first: Tensor
    last: Tensor


Factors = SharedFactors | PairFactors


class Inner(NamedTuple):
    """The inner dimensions of a group's factors: p and q where outer factors are shared, else r twice."""

    p: int
    q: int
    shared: bool


class Cost(NamedTuple):
    """Multiply-accumulates of one plan: for each position, and for forming its weights."""

    per_token: int
    build: int


def costs(shape: Shape, inner: Inner) -> dict[str, Cost]:
    """What every plan costs."""
    n, d, (p, q, shared) = shape.blocks, shape.width, inner
    if not shared:
        return {"pairs": Cost(2 * n * d * p, 0), "dense": Cost(n * d * d, n * d * p * d)}
    first, cores, last = shape.inputs * d * p, n * p * q, shape.outputs * q * d
    return {
        "three": Cost(first + cores + last, 0),
        "left": Cost(first + n * p * d, n * p * q * d),
        "right": Cost(n * d * q + last, n * d * p * q),
        "dense": Cost(n * d * d, n * d * p * q + n * d * q * d),
    }


def cheapest(shape: Shape, inner: Inner, tokens: int, cached: bool) -> str:
    """The plan with the fewest multiply-accumulates for `tokens` positions.

    Args:
        cached: whether the formed weights are at hand already, so that forming them costs nothing.
    """
    priced = costs(shape, inner)
    return min(priced, key=lambda plan: tokens * priced[plan].per_token + (0 if cached else priced[plan].build))


def weights(plan: str, factors: Factors, shape: Shape) -> tuple[Tensor, ...]:
    """The matrices that `multiply` applies one after the other."""
    if isinstance(factors, PairFactors):
        if plan == "dense":
            return (_arranged(factors.first @ factors.last, shape),)
        return _pairs(factors, shape)
    first, cores, last = factors
    if plan == "three":
        return first, _arranged(cores, shape), last
    if plan == "left":
        return first, _arranged(cores @ last, shape)
    if plan == "right":
        return _arranged(first @ cores, shape), last
    assert plan == "dense", plan
    return (_arranged(first @ cores @ last, shape),)


def multiply(x: Tensor, steps: tuple[Weight, ...], bias: Tensor | None, gelu: bool = False) -> Tensor:
    """x (…, inputs * D) -> (…, outputs * D), plus the bias; with `gelu`, the GELU of that.

    Before each step the chunks are laid out so that they have the step's number of rows, a reshape without a copy.
    """
    lead, y = x.shape[:-1], x
    for weight in steps[:-1]:
        y = _step(y, weight)
    last = steps[-1]
    if bias is not None and len(last.shape) == 2 and last.shape[1] == bias.shape[0]:
        if gelu and isinstance(last, PackedWeight):
            return last.product(y.reshape(-1, last.shape[0]), bias, gelu=True).view(*lead, -1)
        y = _step(y, last, bias).view(*lead, -1)
    else:
        y = _step(y, last).reshape(*lead, -1)
        y = y if bias is None else y + bias
    return F.gelu(y) if gelu else y


def _step(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    if isinstance(weight, PackedWeight):
        return weight.product(x.reshape(-1, weight.shape[0]), bias)
    if weight.dim() == 2:
        x = x.reshape(-1, weight.shape[0])
        return x @ weight if bias is None else torch.addmm(bias, x, weight)
    assert bias is None
    chunks = x.reshape(-1, *weight.shape[:2]).transpose(0, 1)
    return torch.bmm(chunks, weight).transpose(0, 1)


def _arranged(blocks: Tensor, shape: Shape) -> Tensor:
    """Blocks (n, a, b) as one matrix (inputs * a, outputs * b)."""
    n, a, b = blocks.shape
    if n == 1:
        return blocks[0]
    grid = blocks.reshape(shape.inputs, shape.outputs, a, b)
    return grid.transpose(1, 2).reshape(shape.inputs * a, shape.outputs * b)


def _pairs(factors: PairFactors, shape: Shape) -> tuple[Tensor, ...]:
    first, last = factors
    if shape.blocks == 1:
        return first[0], last[0]
    if shape.inputs == 1:
        return _arranged(first, shape), last
    return first, _arranged(last, shape)
