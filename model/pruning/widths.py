"""How many heads and neurons each place keeps at a sparsity: sorting and rounding, without a model.

Source: MiniDisc (Zhang et al. 2022, arXiv:2205.14570), section 3, and its release's rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.errors import ModelError
from model.pruning.places import Places, Units

if TYPE_CHECKING:
    from model.pruning.importance import Importance


@dataclass(frozen=True)
class Widths:
    """Heads and neurons that each place keeps."""

    heads: tuple[int, ...]
    neurons: tuple[int, ...]


def checked_sparsity(sparsity: object) -> float:
    """The sparsity as a float.

    Raises:
        ModelError: it is no number in [0, 1).
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
        raise ModelError(f"A sparsity is the fraction that goes, at least 0 and below 1, found {sparsity!r}.")
    return float(sparsity)


def widths_at(importance: Importance, places: Places, sparsity: float, round_to: int = 8) -> Widths:
    """What each place keeps when the least important heads and neurons go.

    Args:
        importance: one row per place.
        places: where they are.
        sparsity: the fraction that goes, of the heads and of the neurons.
        round_to: rows of a matrix go in multiples of this.

    Raises:
        ModelError: the sparsity is outside [0, 1).
    """
    return Widths(
        widths_of_ranks(removal_ranks(importance.heads), places.heads, sparsity, round_to),
        widths_of_ranks(removal_ranks(importance.neurons), places.neurons, sparsity, round_to),
    )


def removal_ranks(rows: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The position of every head (or neuron) in the queue of removal: 0 goes first; of equals the earlier place's.

    One queue serves all places, those of a decoder too. Ranks are all that a sparsity needs to know of the
    importances, and whole numbers stay what they are when a model is cast to another precision.

    Args:
        rows: importances, one row per place.

    Returns:
        Of each row, int32.
    """
    queue = torch.cat([row.cpu() for row in rows]).argsort(stable=True)
    positions = torch.empty(len(queue), dtype=torch.int32)
    positions[queue] = torch.arange(len(queue), dtype=torch.int32)
    return tuple(found.clone() for found in positions.split([len(row) for row in rows]))


def widths_of_ranks(ranks: Sequence[Tensor], units: Sequence[Units], sparsity: float, round_to: int) -> tuple[int, ...]:
    """What each place keeps, from `removal_ranks`.

    Of all N heads (or neurons) the first round(sparsity N) go, Python's rounding (half to even).

    Raises:
        ModelError: the sparsity is outside [0, 1).
    """
    threshold = round(checked_sparsity(sparsity) * sum(unit.count for unit in units))
    gone = (int((rank < threshold).sum()) for rank in ranks)
    return tuple(kept_units(unit, count, round_to) for unit, count in zip(units, gone, strict=True))


def kept_units(units: Units, count: int, round_to: int) -> int:
    """How many heads or neurons are kept when `count` should go: matrix rows go in multiples of `round_to`.

    Rounding is to the nearest, half to even. Where it would cut through a head, exactly `count` heads go. A place
    left with fewer than `round_to` rows loses these too. More removed never means more kept.
    """
    if count == units.count:
        return 0
    gone = round_to * round(count * units.size / round_to)
    if gone % units.size:
        gone = count * units.size
    rows = max(units.count * units.size - gone, 0)
    return 0 if gone and rows < round_to else math.floor(rows / units.size)
