"""Where a model's heads and neurons are: its attention blocks and feed-forward networks, in the order of their rows.

Rows are in this order everywhere: the attention blocks of the encoder's layers, of the decoder's (self, then cross);
the feed-forward networks of the encoder's layers, then of the decoder's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from model.backbone import AttentionSlots, BackboneSizes, LayerSlots, Slot, describe_stacks, spec_for
from model.errors import ModelError

#: Where an attention block or a feed-forward network stands. The heads of all groups compete with each other.
Group = Literal["encoder", "decoder", "cross"]


@dataclass(frozen=True)
class Units:
    """What a place held before anything was pruned: `count` heads or neurons, `size` matrix rows each."""

    group: Group
    count: int
    size: int


@dataclass(frozen=True)
class AttentionPlace:
    """An attention block with its original number of heads."""

    slots: AttentionSlots
    units: Units

    @property
    def kept(self) -> int:
        """The number of heads that it has now."""
        return width(self.slots.query, "out_features") // self.units.size


@dataclass(frozen=True)
class FfnPlace:
    """A feed-forward network with its original number of neurons."""

    ffn_in: tuple[Slot, ...]
    ffn_out: Slot
    units: Units

    @property
    def kept(self) -> int:
        """The number of neurons that it has now."""
        return width(self.ffn_out, "in_features")


@dataclass(frozen=True)
class Places:
    """All places of a model."""

    attentions: tuple[AttentionPlace, ...]
    ffns: tuple[FfnPlace, ...]

    @property
    def heads(self) -> tuple[Units, ...]:
        """The original heads of each attention block."""
        return tuple(place.units for place in self.attentions)

    @property
    def neurons(self) -> tuple[Units, ...]:
        """The original neurons of each feed-forward network."""
        return tuple(place.units for place in self.ffns)


def places_of(model: Any) -> Places:
    """The places of `model`, pruned or not; sizes before pruning are read from its config.

    Raises:
        ModelError: there is none, or a projection is no linear layer (any more).
    """
    spec = spec_for(model)
    sizes = spec.sizes(model.config)
    encoder, decoder = spec.encoder_layers(model), spec.decoder_layers(model)
    if not encoder + decoder:
        raise ModelError(f"No attention or feed-forward network to prune was found: {describe_stacks(model)}.")
    crosses = [layer.cross_attention for layer in decoder if layer.cross_attention is not None]
    attentions = (
        *_attentions([layer.attention for layer in encoder], "encoder", sizes),
        *_attentions([layer.attention for layer in decoder], "decoder", sizes),
        *_attentions(crosses, "cross", sizes),
    )
    return Places(attentions, (*_ffns(encoder, "encoder", sizes), *_ffns(decoder, "decoder", sizes)))


def projections(place: AttentionPlace) -> tuple[Slot, Slot, Slot]:
    """The slots of an attention block whose rows belong to heads."""
    return place.slots.query, place.slots.key, place.slots.value


def linear(slot: Slot) -> nn.Linear:
    """The linear layer in `slot`, whose weights can be reordered and cut.

    Raises:
        ModelError: something else hangs there.
    """
    module = slot.module
    if not isinstance(module, nn.Linear):
        raise ModelError(f"Only plain linear projections can be pruned: {slot.name} is a {type(module).__name__}.")
    return module


def width(slot: Slot, side: Literal["in_features", "out_features"]) -> int:
    """One of the two sizes of the projection in `slot`.

    Raises:
        ModelError: what hangs there is no projection.
    """
    found = getattr(slot.module, side, None)
    if not isinstance(found, int):
        kind = type(slot.module).__name__
        raise ModelError(f"Only plain linear projections can be pruned: {slot.name} is a {kind}.")
    return found


def _attentions(blocks: Sequence[AttentionSlots], group: Group, sizes: BackboneSizes) -> list[AttentionPlace]:
    units = Units(group, sizes.heads, sizes.inner // sizes.heads)
    return [AttentionPlace(block, units) for block in blocks]


def _ffns(layers: Sequence[LayerSlots], group: Group, sizes: BackboneSizes) -> list[FfnPlace]:
    return [FfnPlace(layer.ffn_in, layer.ffn_out, Units(group, sizes.ffn, 1)) for layer in layers]
