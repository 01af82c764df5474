"""What a schedule knows of a compression: a grid of scales that share weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from transformers import PreTrainedModel

from model.errors import ModelError
from notation import SCALE_TOLERANCE


class ScaleAxis(Protocol):
    """Nested sub-models of one model, from the least to the most compressed.

    A scale is the fraction of something that is gone, from 0 (the whole model) to below 1: of heads and neurons, or
    of layers, ranks, positions. Anything that offers the four members below can be scheduled.
    """

    @property
    def name(self) -> str:
        """What is scaled, such as `sparsity`."""

    @property
    def grid(self) -> tuple[float, ...]:
        """The scales that can be selected, rising."""

    def select(self, scale: float) -> None:
        """Make the model compute as its sub-model of `scale`; weights are shared, nothing is copied."""

    def commit(self, scale: float) -> PreTrainedModel:
        """A new model of the real size of `scale`; the present one stays as it is."""


def find_scale(scales: Iterable[float], wanted: float, what: str) -> float:
    """The one of `scales` that is `wanted`, compared as numbers.

    Args:
        what: names the wanted scale in the error.

    Raises:
        ModelError: there is none.
    """
    known = sorted(scales)
    for scale in known:
        if abs(scale - wanted) < SCALE_TOLERANCE:
            return scale
    raise ModelError(f"The {what} {wanted:g} is none of the scales {', '.join(f'{scale:g}' for scale in known)}.")
