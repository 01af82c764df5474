"""Scales as they are written on the command line, parsed once: `90S`, `4L`, `80,90S`, `6,4L`, `80,90S;70,90S`."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Literal, NamedTuple

from model.errors import ModelError

Axis = Literal["sparsity", "layers"]
_STEP = re.compile(r"([+-]?[\d.]+(?:e[+-]?\d+)?)\s*([SL]?)", re.IGNORECASE)


class Step(NamedTuple):
    """One student of a path.

    Attributes:
        axis: what is scaled.
        scale: the fraction that is pruned (`sparsity`), or the number of layers that are kept (`layers`).
    """

    axis: Axis
    scale: float | int

    @property
    def text(self) -> str:
        """As it is written: `90S`, `4L`."""
        return f"{100 * self.scale:g}S" if self.axis == "sparsity" else f"{self.scale}L"


def parse_step(text: str) -> Step:
    """`90S` is 90 % pruned, `4L` the first four layers.

    Raises:
        ModelError: it is neither.
    """
    return _step(text, "")


def parse_path(text: str) -> tuple[Step, ...]:
    """A path of students, each more compressed than the one before: `80,90S` or `80S,90S` or `6,4L`.

    The letter of the last step stands for those before it that have none.

    Raises:
        ModelError: a step is none, the path mixes letters, or it does not go downwards in size.
    """
    pieces = [piece.strip() for piece in text.split(",")]
    letter = pieces[-1][-1:].upper()
    steps = tuple(_step(piece, letter, text) for piece in pieces)
    for before, after in pairwise(steps):
        if before.axis != after.axis:
            raise ModelError(f"The path {text!r} mixes sparsities (S) and layers (L): a path has one of them.")
        smaller = after.scale > before.scale if after.axis == "sparsity" else after.scale < before.scale
        if not smaller:
            raise ModelError(
                f"The path {text!r} goes from {before.text} to {after.text}: each step has to be smaller than the one "
                f"before it, that is {'a higher sparsity' if after.axis == 'sparsity' else 'fewer layers'}."
            )
    return steps


def parse_paths(text: str) -> tuple[tuple[Step, ...], ...]:
    """Several paths, separated by `;`, that are to be compared.

    Raises:
        ModelError: one is no path, or comes twice.
    """
    paths = tuple(parse_path(path) for path in text.split(";"))
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise ModelError(f"The path {','.join(step.text for step in path)} comes twice in {text!r}.")
    return paths


def _step(text: str, letter: str, path: str | None = None) -> Step:
    """A step; `letter` is that of a step without one."""
    where = f" in the path {path!r}" if path is not None and path.strip() != text.strip() else ""
    match = _STEP.fullmatch(text.strip())
    unit = (match[2] or letter).upper() if match else ""
    if match is None or unit not in ("S", "L"):
        raise ModelError(f"{text!r}{where} is no scale: expected a sparsity such as 90S or layers such as 4L.")
    try:
        number = float(match[1])
    except ValueError:
        raise ModelError(f"{text!r}{where} is no scale: {match[1]!r} is no number.") from None
    if unit == "S":
        if not 0 <= number < 100:
            raise ModelError(f"{text!r}{where}: a sparsity is from 0 to below 100 percent, found {number:g}.")
        return Step("sparsity", number / 100)
    if number < 1 or number != int(number):
        raise ModelError(f"{text!r}{where}: layers are a whole number of at least 1, found {number:g}.")
    return Step("layers", int(number))
