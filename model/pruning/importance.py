"""How much each head and neuron matters: the gradient of the task's loss with respect to a mask on it.

    importance = Σ over batches of |∂ loss / ∂ mask| at mask = 1,    then each place's row divided by (‖row‖ + 1e-17)

A head's mask scales its context before the output projection, a neuron's what follows the activation. Source: Michel
et al. 2019 (arXiv:1905.10650), in the form of MiniDisc's release: the loss is a batch's mean, so that a small last
batch counts as much as a full one, and the model is in evaluation mode.

Shapes: B batch, L length, H heads of a place, F its neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import ModelError
from model.pruning.places import Places, places_of

Batch = dict[str, Tensor]

_TINY = 1e-17


@dataclass(frozen=True)
class Importance:
    """One row per place, in the order of `places_of`: heads (H,), neurons (F,)."""

    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]

    def normalized(self) -> Importance:
        """Each row divided by its L2 norm."""
        return Importance(*(tuple(_unit(row) for row in rows) for rows in (self.heads, self.neurons)))


def measure_importance(model: Any, batches: Iterable[Batch], loss: Callable[[Any, Batch], Tensor]) -> Importance:
    """The importance of every head and neuron of `model`, each place's row of length 1.

    Places that are pruned have rows of the heads and neurons that they still have, emptied ones empty rows.

    Args:
        batches: of the data that decide, on the model's device.
        loss: gives the loss of `model` on a batch, its mean.

    Raises:
        ModelError: there is no batch, or the loss has no finite gradient.
    """
    return mask_gradients(model, batches, loss).normalized()


def mask_gradients(model: Any, batches: Iterable[Batch], loss: Callable[[Any, Batch], Tensor]) -> Importance:
    """As `measure_importance`, before the rows are normalised."""
    places, training, any_batch = places_of(model), model.training, False
    model.eval()
    try:
        with torch.enable_grad(), _masked(places) as (heads, neurons):
            masks = [*heads, *neurons]
            sums = [torch.zeros_like(mask) for mask in masks]
            for batch in batches:
                any_batch = True
                found = torch.autograd.grad(loss(model, batch), masks, allow_unused=True)
                for total, gradient in zip(sums, found, strict=True):
                    if gradient is not None:  # a part of the model that the loss does not see has no importance
                        total += gradient.abs()
    finally:
        model.train(training)
    if not any_batch:
        raise ModelError("The importance of heads and neurons needs at least one batch, found none.")
    if not all(total.isfinite().all() for total in sums):
        raise ModelError("The importance of heads and neurons is not finite: the loss or its gradient overflows.")
    return Importance(tuple(sums[: len(heads)]), tuple(sums[len(heads) :]))


def _unit(row: Tensor) -> Tensor:
    return row / (row.norm() + _TINY)


@contextmanager
def _masked(places: Places) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Masks of ones in front of every output projection, for as long as the block lasts."""
    handles = []

    def hang(output: nn.Module, count: int, size: int) -> Tensor:
        weight = getattr(output, "weight", None)
        kind = weight if weight is not None else torch.empty(0)
        dtype = torch.promote_types(kind.dtype, torch.float32)
        mask = torch.ones(count, device=kind.device, dtype=dtype, requires_grad=True)

        def scale(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x = args[0]
            return ((x.unflatten(-1, (count, size)) * mask[:, None]).flatten(-2).to(x.dtype), *args[1:])

        if count:
            handles.append(output.register_forward_pre_hook(scale))
        return mask

    try:
        yield (
            [hang(place.slots.output.module, place.kept, place.units.size) for place in places.attentions],
            [hang(place.ffn_out.module, place.kept, 1) for place in places.ffns],
        )
    finally:
        for handle in handles:
            handle.remove()
