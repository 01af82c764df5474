"""How scales are written: the letter and the natural unit of every axis, and the fraction that a number stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Axis = Literal["sparsity", "rank", "layers", "ratio"]


@dataclass(frozen=True)
class Unit:
    """The natural unit of an axis.

    Attributes:
        axis: what is scaled.
        letter: behind a number: 90S.
        plural: what numbers are called.
        example: a scale with its article.
        smaller: what a smaller student has.
        label: of a plot's axis.
        is_percent: the number is a percentage that is gone; else it is a whole one.
        least: the smallest whole one of a student.
    """

    axis: Axis
    letter: str
    plural: str
    example: str
    smaller: str
    label: str
    is_percent: bool = True
    least: int = 1

    def gone(self, number: float, layers: int) -> float:
        """The fraction that is gone where `number` is what is written; of a model that had so many `layers`."""
        if self.is_percent:
            return number / 100
        return 1 - number / layers if self.axis == "layers" else 1 - 1 / number

    def number(self, gone: float, layers: int) -> float:
        """Inverse of `gone`."""
        if self.is_percent:
            return 100 * gone
        return float(round((1 - gone) * layers) if self.axis == "layers" else round(1 / (1 - gone)))


UNITS: Mapping[Axis, Unit] = MappingProxyType(
    {
        "sparsity": Unit("sparsity", "S", "sparsities", "a sparsity such as 90S", "a higher sparsity", "sparsity (%)"),
        "rank": Unit("rank", "R", "ranks", "removed ranks such as 60R", "fewer ranks", "ranks removed (%)"),
        "layers": Unit("layers", "L", "layers", "layers such as 4L", "fewer layers", "layers", False),
        "ratio": Unit("ratio", "K", "ratios", "a plugin ratio such as 4K", "a higher ratio", "plugin ratio", False, 2),
    }
)
LETTERS: Mapping[str, Unit] = MappingProxyType({unit.letter: unit for unit in UNITS.values()})
