"""Which D x D block of which matrix stands in which row of the tensor that is decomposed, and back.

Row = layer * blocks per layer + block. The blocks of a layer are those of its matrices one after the other: query, key,
value and output of the attention, transposed, so that a block B multiplies as x @ B; then the row chunks of the FFN's
input matrix as they are, so that they multiply as x @ B^T; then the column chunks of its output matrix, transposed.
The biases are cut in the same way, one row of width D per chunk (one for the FFN's output).

Source: behaviour of the original's `get_weights_from_encoder`. Knows no backbone: matrices come as (out, in) tensors.

Shapes: L layers, D width, F FFN width / D, n blocks of one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.errors import ModelError

Role = Literal["query", "key", "value", "output", "ffn_in", "ffn_out"]
ATTENTION: tuple[Role, ...] = ("query", "key", "value", "output")
FFN: tuple[Role, ...] = ("ffn_in", "ffn_out")
#: Matrices that read the same input and are multiplied together.
GROUPS: tuple[tuple[Role, ...], ...] = (("query", "key", "value"), ("output",), ("ffn_in",), ("ffn_out",))


@dataclass(frozen=True)
class StackOrder:
    """The order of blocks within a layer.

    Attributes:
        roles: the matrices that take part, in stacking order.
        width: D.
        chunks: F.
    """

    roles: tuple[Role, ...]
    width: int
    chunks: int

    @classmethod
    def of(cls, ops: str, width: int, ffn: int) -> StackOrder:
        """The order for `ops` on a model of these sizes.

        Raises:
            ModelError: the FFN's width is no multiple of D.
        """
        if "ffn" in ops and ffn % width:
            raise ModelError(
                f"The FFN is cut into blocks of the hidden size, {width}: its width {ffn} is no multiple of that."
            )
        roles = (ATTENTION if "san" in ops else ()) + (FFN if "ffn" in ops else ())
        return cls(roles, width, ffn // width)

    def count(self, role: Role) -> int:
        """Blocks of one matrix."""
        return self.chunks if role in FFN else 1

    def shape(self, role: Role) -> tuple[int, int]:
        """Of one matrix, (out, in)."""
        long = self.count(role) * self.width
        return (self.width, long) if role == "ffn_out" else (long, self.width)

    @property
    def blocks(self) -> int:
        """Blocks of one layer."""
        return sum(map(self.count, self.roles))

    @property
    def bias_rows(self) -> int:
        """Bias rows of one layer."""
        return sum(self.count(role) if role != "ffn_out" else 1 for role in self.roles)

    def rows(self, layer: int, role: Role) -> slice:
        """The rows of the stacked tensor that belong to one matrix."""
        before = self.roles[: self.roles.index(role)]
        first = layer * self.blocks + sum(map(self.count, before))
        return slice(first, first + self.count(role))


def cut(weight: Tensor, role: Role, width: int) -> Tensor:
    """A weight (out, in) as its blocks (n, D, D)."""
    if role == "ffn_in":
        return weight.reshape(-1, width, width)
    return weight.T.reshape(-1, width, width)


def joined(blocks: Tensor, role: Role) -> Tensor:
    """Inverse of `cut`: blocks (n, D, D) -> weight (out, in)."""
    flat = blocks.reshape(-1, blocks.shape[-1])
    return flat if role == "ffn_in" else flat.T


def stack(order: StackOrder, layers: Sequence[dict[Role, Tensor]]) -> Tensor:
    """The tensor to decompose, (L * blocks, D, D), of each layer's weights (out, in)."""
    return torch.cat([cut(layer[role], role, order.width) for layer in layers for role in order.roles])


def unstack(order: StackOrder, tensor: Tensor) -> list[dict[Role, Tensor]]:
    """Inverse of `stack`."""
    layers = range(tensor.shape[0] // order.blocks)
    return [{role: joined(tensor[order.rows(i, role)], role) for role in order.roles} for i in layers]


def stack_biases(order: StackOrder, layers: Sequence[dict[Role, Tensor]]) -> Tensor:
    """Each layer's biases as rows, (L, bias rows, D)."""
    rows = [torch.cat([layer[role].reshape(-1, order.width) for role in order.roles]) for layer in layers]
    return torch.stack(rows)


def unstack_biases(order: StackOrder, rows: Tensor) -> list[dict[Role, Tensor]]:
    """Inverse of `stack_biases`."""
    sizes = [order.count(role) if role != "ffn_out" else 1 for role in order.roles]
    return [
        {role: part.reshape(-1) for role, part in zip(order.roles, layer.split(sizes), strict=True)} for layer in rows
    ]
