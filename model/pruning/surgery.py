"""Reordering the heads and neurons of a model, and cutting off the last ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.backbone import Slot, spec_for
from model.errors import ModelError
from model.pruning.layers import SkippedAttention, ZeroLinear, linear_of
from model.pruning.places import AttentionPlace, FfnPlace, Places, linear, places_of, projections, width
from model.pruning.t5 import PrunedT5Attention, as_pruned
from model.pruning.widths import Widths, removal_ranks, widths_of_ranks

#: Name in the encoder's stack of the module that holds the order of removal; its keys in a checkpoint start with it.
ORDER = "pruning_order"


class PruningOrder(nn.Module):
    """For every place, the positions of its original heads (neurons) in the queue of removal: see `removal_ranks`.

    Buffers of whole numbers: no precision that the model is cast to changes them.
    """

    def __init__(self, heads: Sequence[Tensor], neurons: Sequence[Tensor]) -> None:
        super().__init__()
        for name, ranks in (("heads", heads), ("neurons", neurons)):
            for i, rank in enumerate(ranks):
                self.register_buffer(f"{name}_{i}", rank)
        self.num_heads, self.num_neurons = len(heads), len(neurons)

    @property
    def heads(self) -> list[Tensor]:
        """Per attention block, (H,)."""
        return [self.get_buffer(f"heads_{i}") for i in range(self.num_heads)]

    @property
    def neurons(self) -> list[Tensor]:
        """Per feed-forward network, (F,)."""
        return [self.get_buffer(f"neurons_{i}") for i in range(self.num_neurons)]


def attach_order(model: Any, heads: Sequence[Tensor], neurons: Sequence[Tensor]) -> None:
    """Keep the ranks in the model, so that they are saved with it."""
    encoder = spec_for(model).encoder(model)
    device = next(encoder.parameters()).device
    encoder.add_module(ORDER, PruningOrder([rank.to(device) for rank in heads], [rank.to(device) for rank in neurons]))


def target_widths(model: Any, places: Places, sparsity: float, round_to: int) -> Widths:
    """What each place keeps at `sparsity`, counted from the original sizes; never more than it has now.

    Raises:
        ModelError: the model has no order of removal, or the sparsity is outside [0, 1).
    """
    order = getattr(spec_for(model).encoder(model), ORDER, None)
    if not isinstance(order, PruningOrder):
        raise ModelError(
            f"{type(model).__name__} does not know which heads and neurons matter: sparsify it first, by importance."
        )
    # Ranked anew, which changes nothing but for an encoder that was taken from a pair.
    heads = widths_of_ranks(removal_ranks(order.heads), places.heads, sparsity, round_to)
    neurons = widths_of_ranks(removal_ranks(order.neurons), places.neurons, sparsity, round_to)
    return Widths(
        tuple(min(count, place.kept) for count, place in zip(heads, places.attentions, strict=True)),
        tuple(min(count, place.kept) for count, place in zip(neurons, places.ffns, strict=True)),
    )


@torch.no_grad()
def reorder(places: Places, heads: Sequence[Tensor], neurons: Sequence[Tensor]) -> None:
    """Put heads and neurons into the order of these indices, in place: the model computes what it did.

    Raises:
        ModelError: a projection is no linear layer.
    """
    for place, order in zip(places.attentions, heads, strict=True):
        if place.kept:
            rows = _rows(order, place.units.size)
            for slot in projections(place):
                _permute_rows(linear(slot), rows)
            _permute_columns(linear(place.slots.output), rows)
    for ffn, order in zip(places.ffns, neurons, strict=True):
        if ffn.kept:
            for slot in ffn.ffn_in:
                _permute_rows(linear(slot), order)
            _permute_columns(linear(ffn.ffn_out), order)


def name_heads(model: Any, places: Places, ids: Sequence[Sequence[int]]) -> Places:
    """Tell the attention blocks which of the original heads they hold, where that matters to them.

    Returns:
        The places, of which some blocks may be new modules.
    """
    if not spec_for(model).relative_bias:
        return places
    for place, heads in zip(places.attentions, ids, strict=True):
        place.slots.block.replace(as_pruned(place.slots.block.module, heads))
    return places_of(model)


@torch.no_grad()
def cut(places: Places, widths: Widths) -> None:
    """Keep the first heads and neurons of each place, in smaller linear layers; what keeps none is skipped.

    A skipped place adds nothing to its input: the bias of its output projection is gone too.
    """
    for place, count in zip(places.attentions, widths.heads, strict=True):
        if count < place.kept:
            _cut_attention(place, count)
    for ffn, count in zip(places.ffns, widths.neurons, strict=True):
        if count < ffn.kept:
            _cut_ffn(ffn, count)


def _cut_attention(place: AttentionPlace, count: int) -> None:
    slots, rows = place.slots, count * place.units.size
    block: Any = slots.block.module
    for slot in projections(place):
        _cut_rows(slot, rows)
    _cut_columns(slots.output, rows)
    if isinstance(block, PrunedT5Attention):
        block.cut_heads(count)
    elif not count:
        slots.block.replace(SkippedAttention(width(slots.query, "in_features"), getattr(block, "layer_idx", None)))
    else:
        set_heads(block, count, rows)


def set_heads(block: Any, count: int, rows: int) -> None:
    """Keep the numbers that an attention block has beside its weights true."""
    block.num_attention_heads, block.all_head_size = count, rows


def _cut_ffn(place: FfnPlace, count: int) -> None:
    for slot in place.ffn_in:
        _cut_rows(slot, count)
    _cut_columns(place.ffn_out, count)


def _cut_rows(slot: Slot, rows: int) -> None:
    dense = linear(slot)
    if not rows:
        slot.replace(ZeroLinear(dense.in_features, 0))
        return
    bias = None if dense.bias is None else _kept(dense.bias, dense.bias[:rows])
    slot.replace(linear_of(_kept(dense.weight, dense.weight[:rows]), bias, dense))


def _cut_columns(slot: Slot, columns: int) -> None:
    dense = linear(slot)
    if not columns:
        slot.replace(ZeroLinear(0, dense.out_features))
        return
    slot.replace(linear_of(_kept(dense.weight, dense.weight[:, :columns]), dense.bias, dense))


def _kept(whole: Tensor, part: Tensor) -> nn.Parameter:
    return nn.Parameter(part.clone(memory_format=torch.contiguous_format), requires_grad=whole.requires_grad)


def _rows(heads: Tensor, size: int) -> Tensor:
    """Row numbers of whole heads: (H,) -> (H · size,)."""
    return (heads[:, None] * size + torch.arange(size, device=heads.device)).flatten()


def _permute_rows(dense: nn.Linear, order: Tensor) -> None:
    order = order.to(dense.weight.device)
    dense.weight.copy_(dense.weight[order])
    if dense.bias is not None:
        dense.bias.copy_(dense.bias[order])


def _permute_columns(dense: nn.Linear, order: Tensor) -> None:
    dense.weight.copy_(dense.weight[:, order.to(dense.weight.device)])
