"""Rank as an axis of scales for the schedules of `model.schedule`: the leading components of a matrix bank."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

from transformers import PreTrainedModel

from model.compression import find_edit, record_edit
from model.decomposition.config import DecompositionConfig
from model.decomposition.surgery import forget_errors, matrix_bank
from model.errors import ModelError

Model = TypeVar("Model", bound=PreTrainedModel)

#: 0.7 of 10 is 7 components, though (1 - 0.3) * 10 is a little more in floating point.
_ROUNDING = 1e-9


class RankAxis:
    """The leading components of a decomposed model's bank, at a grid of scales.

    At scale s the bank is that of the first ceil((1 - s) r) components for each of its ranks r: `rank_layer`,
    `rank_condim` and `rank_dim` (as far as the protocol has them), at least 1. They are the important ones if the
    components are sorted (`sort_components`), or were trained as nested ones.

    Args:
        model: decomposed, without `is_expand`; computes at the scale selected last until `close`.
        grid: rising, from 0 to below 1.
        whole: the ranks of scale 0, by name; left out, those of the model. At the grid's least scale they may not be
            above the model's.

    Raises:
        ModelError: the grid does not rise or leaves [0, 1), or the model is not decomposed or too small for it.
    """

    name = "rank"

    def __init__(self, model: PreTrainedModel, grid: Sequence[float], whole: Mapping[str, int] | None = None) -> None:
        self.grid = tuple(grid)
        rises = all(low < high for low, high in pairwise(self.grid))
        if not self.grid or not rises or not (self.grid[0] >= 0 and self.grid[-1] < 1):
            raise ModelError(f"A grid of rank scales rises from 0 to below 1, found {list(self.grid)}.")
        self.model, self.bank = model, matrix_bank(model)
        self.whole = dict(self.bank.ranks if whole is None else whole)
        self.select(self.grid[0])

    def select(self, scale: float) -> None:
        """Make the bank compute with the leading components of `scale`; nothing is copied.

        Raises:
            ModelError: the model has fewer.
        """
        self.bank.narrow(ranks_at(self.whole, scale))

    def commit(self, scale: float) -> PreTrainedModel:
        """A new model whose bank has the ranks of `scale` alone; the present one goes on as it is."""
        return at_ranks(self.model, ranks_at(self.whole, scale))

    def close(self) -> None:
        """Give all components back."""
        self.bank.narrow(None)


def ranks_at(whole: Mapping[str, int], scale: float) -> dict[str, int]:
    """The ranks of a scale: ceil((1 - scale) r), at least 1, of each of the `whole` ones."""
    return {name: max(1, math.ceil((1 - scale) * rank - _ROUNDING)) for name, rank in whole.items()}


def at_ranks(model: Model, ranks: Mapping[str, int]) -> Model:
    """A copy of a decomposed `model` with the leading components alone, and the ranks recorded in its config.

    Raises:
        ModelError: it is not decomposed, or a rank is above what it has.
    """
    edit = find_edit(model, DecompositionConfig)
    if edit is None:
        raise ModelError(f"{type(model).__name__} has no ranks: decompose it first.")
    twin = copy.deepcopy(model)
    twin.zero_grad(set_to_none=True)
    matrix_bank(twin).shrink(ranks)
    forget_errors(twin)
    record_edit(twin, replace(edit, **ranks))  # type: ignore[arg-type]
    return twin
