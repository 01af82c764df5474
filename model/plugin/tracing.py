"""Padding to a multiple of the ratio in a graph that is traced once and runs at any length.

A tracer knows lengths as symbols. Padding and slicing compare them (which is the longer one, is there anything to
add), and what the comparison says of the traced example would be built into the graph. Picking positions by their
numbers compares nothing, and of the number of groups, read from a tensor, the tracer knows only that it is positive.

Shapes: B batch, L length, P the length after padding, K ratio.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Inputs of an encoder with one number per position, and what padded positions get (None: the pad token).
_PER_POSITION = {"input_ids": None, "token_type_ids": 0}


class Padded(NamedTuple):
    """An encoder's inputs (B, P) with their mask, the mask alone (B, P), and L."""

    inputs: dict[str, Any]
    mask: Tensor
    length: int


def padded(inputs: dict[str, Any], ratio: int, pad_id: int, takes_positions: bool) -> Padded:
    """An encoder's inputs (B, L) at the next multiple of the ratio.

    Args:
        takes_positions: whether the encoder knows `position_ids`; the added ones are at position 0, for the table of
            positions may have no more than L.
    """
    ids: Tensor = inputs["input_ids"]
    length = ids.shape[1]
    groups: Any = torch.full((), (length + ratio - 1) // ratio, dtype=torch.long).item()
    torch._check(groups >= 1)
    positions = torch.arange(groups * ratio, device=ids.device)
    is_real, source = positions < length, positions.clamp(max=length - 1)
    mask = inputs.get("attention_mask")
    mask = (torch.ones_like(ids) if mask is None else mask).index_select(1, source) * is_real
    made = {**inputs, "attention_mask": mask}
    for name, fill in _PER_POSITION.items():
        if made.get(name) is not None:
            values = made[name].index_select(1, source)
            made[name] = torch.where(is_real, values, pad_id if fill is None else fill)
    if takes_positions:
        given = inputs.get("position_ids")
        made["position_ids"] = (positions.unsqueeze(0) if given is None else given.index_select(1, source)) * is_real
    return Padded(made, mask, length)


def cut(length: int, part: Tensor) -> Tensor:
    """The first L of the positions of hidden states (B, P, D) or attention probabilities (B, heads, P, P)."""
    if part.dim() < 3:  # one state per row
        return part
    kept = torch.arange(length, device=part.device)
    return part.index_select(1, kept) if part.dim() == 3 else part.index_select(2, kept).index_select(3, kept)
