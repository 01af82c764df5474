"""Scales as they are written on the command line, parsed once: `90S`, `60R`, `4L`, `80,90S`, `80,90S;70,90S`."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

from notation.errors import NotationError
from notation.units import LETTERS, UNITS, Axis, Unit

#: Scales that differ by less are the same: they come from percentages and from files.
SCALE_TOLERANCE = 1e-9

_STEP = re.compile(rf"([+-]?[\d.]+(?:e[+-]?\d+)?)\s*([{''.join(LETTERS)}]?)", re.IGNORECASE)

#: More layers, or a larger ratio, than any model has.
_MOST = 1e6
#: Characters of a scale that a message repeats.
_LONGEST = 20


class Step(NamedTuple):
    """One student of a path.

    Attributes:
        axis: what is scaled.
        scale: the fraction that is gone (`sparsity`, `rank`), the number of layers that are kept (`layers`), or the
            ratio of the plugins (`ratio`).
    """

    axis: Axis
    scale: float | int

    @property
    def unit(self) -> Unit:
        """Of its axis."""
        return UNITS[self.axis]

    @property
    def text(self) -> str:
        """As it is written: `90S`, `4L`."""
        return (
            f"{100 * self.scale:g}{self.unit.letter}" if self.unit.is_percent else f"{self.scale:g}{self.unit.letter}"
        )

    def is_near(self, other: Step) -> bool:
        """Whether both are the same scale, but for the rounding of percentages."""
        return self.axis == other.axis and abs(self.scale - other.scale) < SCALE_TOLERANCE

    def is_smaller_than(self, other: Step) -> bool:
        """Whether it is the smaller student, of the same axis."""
        return self.scale < other.scale if self.axis == "layers" else self.scale > other.scale

    def gone(self, layers: int) -> float:
        """The fraction that is gone; of a model that had so many `layers`."""
        return float(self.scale) if self.unit.is_percent else self.unit.gone(self.scale, layers)


def parse_step(text: str, axis: Axis | None = None) -> Step:
    """`90S` is 90 % pruned, `60R` lacks 60 % of each rank, `4L` has the first four layers, `4K` plugins of ratio 4.

    Args:
        axis: whose letter may be left out.

    Raises:
        NotationError: it is none of these.
    """
    return _step(text, "" if axis is None else UNITS[axis].letter)


def parse_grid(text: str, axis: Axis) -> tuple[Step, ...]:
    """Scales of one axis, separated by commas, in any order; the axis' letter may be left out.

    Raises:
        NotationError: one is no scale, or of another axis.
    """
    steps = tuple(_step(piece, UNITS[axis].letter, text, least=1) for piece in text.split(","))
    if other := [step for step in steps if step.axis != axis]:
        raise NotationError(f"{other[0].text} is none of the {UNITS[axis].plural}: expected {UNITS[axis].example}.")
    return tuple(dict.fromkeys(steps))


def parse_path(text: str) -> tuple[Step, ...]:
    """A path of students, each more compressed than the one before: `80,90S` or `80S,90S` or `6,4L`.

    The letter of the last step stands for those before it that have none.

    Raises:
        NotationError: a step is none, the path mixes letters, or it does not go downwards in size.
    """
    pieces = [piece.strip() for piece in text.split(",")]
    letter = pieces[-1][-1:].upper()
    steps = tuple(_step(piece, letter, text) for piece in pieces)
    for before, after in pairwise(steps):
        if before.axis != after.axis:
            mixed = " and ".join(f"{unit.plural} ({unit.letter})" for unit in (before.unit, after.unit))
            raise NotationError(f"The path {text!r} mixes {mixed}: a path has one of them.")
        if not after.is_smaller_than(before):
            raise NotationError(
                f"The path {text!r} goes from {before.text} to {after.text}: each step has to be smaller than the one "
                f"before it, that is {after.unit.smaller}."
            )
    return steps


def parse_paths(text: str) -> tuple[tuple[Step, ...], ...]:
    """Several paths, separated by `;`, that are to be compared.

    Raises:
        NotationError: one is no path, or comes twice.
    """
    paths = tuple(parse_path(path) for path in text.split(";"))
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise NotationError(f"The path {','.join(step.text for step in path)} comes twice in {text!r}.")
    return paths


def _step(text: str, letter: str, path: str | None = None, least: int | None = None) -> Step:
    """A step; `letter` is that of a step without one, `least` the smallest whole number instead of the unit's."""
    where = f" in {path!r}" if path is not None and path.strip() != text.strip() else ""
    told = repr(text) if len(text) <= _LONGEST else f"{text[:8]!r}… ({len(text)} characters)"
    match = _STEP.fullmatch(text.strip())
    unit = LETTERS.get((match[2] or letter).upper()) if match else None
    if match is None or unit is None:
        *most, last = (known.example for known in UNITS.values())
        raise NotationError(f"{told}{where} is no scale: expected {', '.join(most)} or {last}.")
    try:
        number = float(match[1])
    except ValueError:
        raise NotationError(f"{told}{where} is no scale: {match[1]!r} is no number.") from None
    what = f"{told}{where}: {unit.example.rsplit(' such as', 1)[0]}"
    if unit.is_percent:
        if not 0 <= number < 100:
            verb = "is" if unit.axis == "sparsity" else "are"
            raise NotationError(f"{what} {verb} from 0 to below 100 percent, found {number:g}.")
        return Step(unit.axis, number / 100)
    fewest = least or unit.least
    if not fewest <= number <= _MOST or not number.is_integer():
        verb = "are" if unit.axis == "layers" else "is"
        bound = f"at most {_MOST:g}" if number > _MOST else f"at least {fewest}"
        raise NotationError(f"{what} {verb} a whole number of {bound}, found {number:g}.")
    return Step(unit.axis, int(number))
