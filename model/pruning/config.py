"""The pruning's settings, which are the edit's entry in `config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from model.compression import EditConfig, is_whole, register_edit
from model.errors import ModelError
from model.pruning.places import Places, places_of
from model.pruning.skipping import let_skip
from model.pruning.surgery import attach_order, cut, name_heads, reorder
from model.pruning.widths import Widths, checked_sparsity, removal_ranks


@register_edit
@dataclass(frozen=True)
class PruningConfig(EditConfig):
    """Which heads and neurons are left, and in which order they stand.

    `sparsify` and `committed` make it from importances. Applied by hand it keeps the heads that it names and the
    first neurons.

    Attributes:
        sparsity: the fraction of heads and neurons that went; of 0, they stand in another order at most.
        heads: per attention block the original numbers of its heads, the most important first; () for all of them.
        neurons: per feed-forward network how many neurons it has; () for all of them.
        round_to: rows of a matrix go in multiples of this.
    """

    kind: ClassVar[str] = "pruning"

    sparsity: float = 0.0
    heads: tuple[tuple[int, ...], ...] = ()
    neurons: tuple[int, ...] = ()
    round_to: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "sparsity", checked_sparsity(self.sparsity))
        if not is_whole(self.round_to) or self.round_to < 1:
            raise ModelError(f"round_to must be a whole number of at least 1, found {self.round_to!r}.")
        heads: Any = self.heads
        if not _is_list(heads) or not all(_are_counts(row) and len(set(row)) == len(row) for row in heads):
            raise ModelError(f"heads must be a list of distinct head numbers per attention block, found {heads!r}.")
        object.__setattr__(self, "heads", tuple(tuple(row) for row in heads))  # a list and the tuple are equal
        neurons: Any = self.neurons
        if not _are_counts(neurons):
            raise ModelError(f"neurons must be a list of one whole number per FFN, found {neurons!r}.")
        object.__setattr__(self, "neurons", tuple(neurons))
        if self.sparsity and not (self.heads and self.neurons):
            raise ModelError(
                f"A pruning to sparsity {self.sparsity:g} names the heads and neurons that are left: "
                "sparsify the model by importance and commit it, or name them."
            )

    def apply(self, model: PreTrainedModel) -> None:
        """Keep the named heads and the first neurons of each FFN."""
        places = places_of(model)
        heads, widths = self.resolved(places)
        orders = [
            [*ids, *sorted(set(range(unit.count)) - set(ids))] for ids, unit in zip(heads, places.heads, strict=True)
        ]
        every = [torch.arange(unit.count, device="cpu") for unit in places.neurons]
        reorder(places, [torch.tensor(order, device="cpu") for order in orders], every)
        places = name_heads(model, places, orders)
        ranks = [
            # Without importances the last ones go first, evenly over the layers.
            removal_ranks([-torch.arange(unit.count, device="cpu") / unit.count for unit in units])
            for units in (places.heads, places.neurons)
        ]
        attach_order(model, *ranks)
        cut(places, widths)
        let_skip(model)

    def resolved(self, places: Places) -> tuple[tuple[tuple[int, ...], ...], Widths]:
        """The heads of every attention block by their numbers, and the widths, () replaced by what it stands for.

        Raises:
            ModelError: they are not those of the model.
        """
        heads = self.heads or tuple(tuple(range(unit.count)) for unit in places.heads)
        neurons = self.neurons or tuple(unit.count for unit in places.neurons)
        for found, wanted, what in ((heads, places.heads, "attention"), (neurons, places.neurons, "FFN")):
            if len(found) < len(wanted):  # an encoder alone reads what belongs to it; its rows come first
                raise ModelError(f"The pruning is for {len(found)} {what} blocks, and the model has {len(wanted)}.")
        heads, neurons = heads[: len(places.heads)], neurons[: len(places.neurons)]
        for ids, unit in zip(heads, places.heads, strict=True):
            if ids and max(ids) >= unit.count:
                raise ModelError(f"The pruning names head {max(ids)}, and the model's blocks have {unit.count} heads.")
        for count, unit in zip(neurons, places.neurons, strict=True):
            if count > unit.count:
                raise ModelError(f"The pruning keeps {count} neurons, and the model's FFNs have {unit.count}.")
        return heads, Widths(tuple(len(ids) for ids in heads), neurons)

    def own_modules(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """None: what is left are the backbone's own weights."""
        return {}

    def parts(self) -> dict[str, EditConfig]:
        """Refused, for there is no delta: what was trained are the backbone's weights."""
        raise ModelError("A pruned model has no delta file: save it whole, with save_pretrained.")


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _are_counts(values: Any) -> bool:
    return _is_list(values) and all(is_whole(value) and value >= 0 for value in values)
