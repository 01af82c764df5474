"""The three states of a pruned model: sorted by importance, cut to a sparsity, cut further."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from model.compression import check_stacking, edits_of, find_edit, record_edit
from model.errors import ModelError
from model.pruning.config import PruningConfig
from model.pruning.importance import Importance
from model.pruning.nested import unwrap
from model.pruning.places import Places, Units, places_of
from model.pruning.skipping import let_skip
from model.pruning.surgery import attach_order, cut, name_heads, reorder, target_widths
from model.pruning.widths import checked_sparsity, removal_ranks

Model = TypeVar("Model", bound=PreTrainedModel)


def sparsify(model: PreTrainedModel, importance: Importance, round_to: int = 8) -> None:
    """Sort the heads and neurons of every place by importance, in place, and keep what decides over any sparsity.

    The model computes what it did. Sorting it again by another importance composes with the first order.

    Args:
        importance: of the model as it stands now; see `measure_importance`.
        round_to: rows of a matrix will go in multiples of this.

    Raises:
        ModelError: the importance is another model's or not finite, or the model carries edits that do not allow it.
    """
    present = pruning_of(model)
    if present is None:
        check_stacking([*(edit.kind for edit in edits_of(model)), PruningConfig.kind])
        present = PruningConfig()
    else:
        _check_last(model)
    if present.sparsity:
        raise ModelError(
            f"The model is cut to sparsity {present.sparsity:g} already: only a whole one can be sorted by importance."
        )
    places = places_of(model)
    _check_rows(importance.heads, places.heads, "heads")
    _check_rows(importance.neurons, places.neurons, "neurons")
    heads, neurons = ([row.sort(descending=True, stable=True).indices for row in rows] for rows in _rows(importance))
    before, widths = present.resolved(places)
    ids = tuple(tuple(old[i] for i in order.tolist()) for old, order in zip(before, heads, strict=True))
    reorder(places, heads, neurons)
    places = name_heads(model, places, ids)
    _attach(model, places, importance, heads, neurons)
    record_edit(model, PruningConfig(0.0, ids, widths.neurons, round_to))


def committed(model: Model, sparsity: float) -> Model:
    """A copy of `model` with the real, uneven shapes of `sparsity`; `model` stays as it is.

    Linear layers are smaller ones, sub-layers that lost everything are skipped. The sparsity counts from the original
    sizes, whatever went before.

    Raises:
        ModelError: the model was not sparsified, is sparser already, or carries edits on top of the pruning.
    """
    present, sparsity = pruning_of(model), checked_sparsity(sparsity)
    if present is None:
        raise ModelError(
            f"{type(model).__name__} does not know which heads and neurons matter: sparsify it first, by importance."
        )
    _check_last(model)
    if sparsity < present.sparsity:
        raise ModelError(f"A model of sparsity {present.sparsity:g} cannot grow back to {sparsity:g}.")
    twin = copy.deepcopy(model)
    twin.zero_grad(set_to_none=True)
    unwrap(twin)
    places = places_of(twin)
    heads, _ = present.resolved(places)
    widths = target_widths(twin, places, sparsity, present.round_to)
    cut(places, widths)
    let_skip(twin)
    kept = tuple(ids[:count] for ids, count in zip(heads, widths.heads, strict=True))
    record_edit(twin, dataclasses.replace(present, sparsity=sparsity, heads=kept, neurons=widths.neurons))
    return twin


def sparsity_of(model: Any) -> float:
    """The sparsity that `model` was cut to; 0.0 for a dense one and for one that was only sorted."""
    present = pruning_of(model)
    return present.sparsity if present else 0.0


def pruning_of(model: Any) -> PruningConfig | None:
    """The pruning that `model` carries, or None."""
    return find_edit(model, PruningConfig)


def _rows(importance: Importance) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    return importance.heads, importance.neurons


@torch.no_grad()
def _attach(
    model: Any, places: Places, importance: Importance, heads: Sequence[Tensor], neurons: Sequence[Tensor]
) -> None:
    rows = [
        [row.detach()[order] for row, order in zip(values, orders, strict=True)]
        for values, orders in zip(_rows(importance), (heads, neurons), strict=True)
    ]
    attach_order(model, removal_ranks(rows[0]), removal_ranks(rows[1]))


def _check_last(model: Any) -> None:
    kinds = [edit.kind for edit in edits_of(model)]
    if kinds[-1] != PruningConfig.kind:
        raise ModelError(f"Only a pruning that is the last edit can change: the model carries {' + '.join(kinds)}.")


def _check_rows(rows: Sequence[Tensor], units: Sequence[Units], what: str) -> None:
    found, wanted = [len(row) for row in rows], [unit.count for unit in units]
    if found != wanted:
        raise ModelError(f"The importance has rows of {found} {what}, and the model has {wanted}.")
    if not all(row.isfinite().all() for row in rows):
        raise ModelError(f"The importance of the {what} is not finite.")
