"""Training all widths of a model at once: every sparsity is a view of the same, sorted parameters."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from torch import nn

from model.compression import find_edit
from model.errors import ModelError
from model.pruning.config import PruningConfig
from model.pruning.layers import NestedAttention, NestedLinear
from model.pruning.places import AttentionPlace, Places, linear, places_of, projections
from model.pruning.skipping import let_skip
from model.pruning.surgery import set_heads, target_widths
from model.pruning.t5 import PrunedT5Attention
from model.pruning.widths import Widths, checked_sparsity


class NestedWidths:
    """Lets a sparsified model compute at any sparsity, without copies, until it is closed.

        with NestedWidths(model) as widths:
            widths.select(0.9)
            model(**batch)         # what `committed(model, 0.9)` computes

    In between, the model's projections are `NestedLinear`s; the parameters are the same objects as before, and so
    are their names but for blocks of attention, which stand behind a `base_layer`.

    Args:
        model: sparsified, cut or whole; carries no edit on top of that.

    Raises:
        ModelError: it was not sparsified, or has nested widths already.
    """

    def __init__(self, model: Any) -> None:
        self.model, self._edit = model, _edit(model)
        if any(isinstance(module, NestedLinear) for module in model.modules()):
            raise ModelError(f"{type(model).__name__} has nested widths already: close those first.")
        self._places = _wrap(model)
        self._whole = Widths(
            tuple(place.kept for place in self._places.attentions), tuple(place.kept for place in self._places.ffns)
        )
        self._widths: dict[float, Widths] = {}
        #: The sparsity in use.
        self.sparsity = self._edit.sparsity
        self.select(self._edit.sparsity)

    def select(self, sparsity: float) -> None:
        """Compute at `sparsity` from now on, counted from the original sizes.

        Raises:
            ModelError: it is below what the model was cut to, or outside [0, 1).
        """
        sparsity = checked_sparsity(sparsity)
        if sparsity < self._edit.sparsity:
            raise ModelError(f"A model of sparsity {self._edit.sparsity:g} has no widths at {sparsity:g}.")
        if sparsity not in self._widths:
            self._use(self._whole)  # a place never gets more than it has in use
            self._widths[sparsity] = target_widths(self.model, self._places, sparsity, self._edit.round_to)
        self._use(self._widths[sparsity])
        self.sparsity = sparsity

    def close(self) -> None:
        """Give the plain model back, of the size it had, with the same parameters."""
        self._use(self._whole)
        unwrap(self.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _use(self, widths: Widths) -> None:
        for place, count in zip(self._places.attentions, widths.heads, strict=True):
            _use_heads(place, count)
        for ffn, count in zip(self._places.ffns, widths.neurons, strict=True):
            for slot in ffn.ffn_in:
                _narrow(slot.module, rows=count)
            _narrow(ffn.ffn_out.module, columns=count)


def unwrap(model: nn.Module) -> None:
    """Replace what `NestedWidths` hung into `model` by the plain, whole modules."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, NestedAttention):
                setattr(parent, name, module.base_layer)
            elif isinstance(module, NestedLinear):
                setattr(parent, name, module.plain())
    let_skip(model)


def _edit(model: Any) -> PruningConfig:
    edit = find_edit(model, PruningConfig)
    if edit is None:
        raise ModelError(f"{type(model).__name__} has no nested widths: sparsify it first, by importance.")
    return edit


def _wrap(model: Any) -> Places:
    places = places_of(model)
    for place in places.attentions:
        if place.kept:
            for slot in (*projections(place), place.slots.output):
                slot.replace(NestedLinear(linear(slot)))
            if not isinstance(place.slots.block.module, PrunedT5Attention):
                place.slots.block.replace(NestedAttention(place.slots.block.module))
    for ffn in places.ffns:
        if ffn.kept:
            for slot in (*ffn.ffn_in, ffn.ffn_out):
                slot.replace(NestedLinear(linear(slot)))
    let_skip(model)
    return places_of(model)


def _use_heads(place: AttentionPlace, count: int) -> None:
    rows, block = count * place.units.size, place.slots.block.module
    for slot in projections(place):
        _narrow(slot.module, rows=rows)
    _narrow(place.slots.output.module, columns=rows)
    if isinstance(block, PrunedT5Attention):
        block.set_heads(count)
    elif isinstance(block, NestedAttention):
        block.num_attention_heads = count
        set_heads(block.base_layer, count, rows)


def _narrow(module: nn.Module, rows: int | None = None, columns: int | None = None) -> None:
    if isinstance(module, NestedLinear):
        module.rows = module.rows if rows is None else rows
        module.columns = module.columns if columns is None else columns
