"""Sparsity as an axis of scales for the schedules of `model.schedule`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from transformers import PreTrainedModel

from model.errors import ModelError
from model.pruning.commit import committed, sparsity_of
from model.pruning.nested import NestedWidths
from model.pruning.widths import checked_sparsity


class SparsityAxis:
    """The nested widths of a sparsified model at a grid of sparsities.

    Args:
        model: sparsified; gets nested widths until `close`.
        grid: rising, at least the sparsity that the model was cut to.

    Raises:
        ModelError: the grid does not rise, or the model was not sparsified.
    """

    name = "sparsity"

    def __init__(self, model: PreTrainedModel, grid: Sequence[float]) -> None:
        self.grid = tuple(checked_sparsity(scale) for scale in grid)
        if not self.grid or any(low >= high for low, high in pairwise(self.grid)):
            raise ModelError(f"A grid of sparsities rises, found {list(self.grid)}.")
        if self.grid[0] < sparsity_of(model):
            raise ModelError(f"A model of sparsity {sparsity_of(model):g} has no widths at {self.grid[0]:g}.")
        self.model, self.widths = model, NestedWidths(model)

    def select(self, scale: float) -> None:
        """Make the model compute at the sparsity `scale`; nothing is copied."""
        self.widths.select(scale)

    def commit(self, scale: float) -> PreTrainedModel:
        """A new model of the real size of `scale`; the present one goes on as it is."""
        return committed(self.model, scale)

    def close(self) -> None:
        """Give the plain model back."""
        self.widths.close()
