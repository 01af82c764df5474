"""The language of budgets: `latency_ms<=8, macs<=0.5x`.

A budget is a list of conditions that all have to hold, each `NAME<=NUMBER`, joined by commas. The number may end in k,
M or G (10^3, 10^6, 10^9), or in x, which means times the whole model's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.hints import quoted

#: What can be limited -> its unit, for people.
QUANTITIES: Mapping[str, str] = {
    "latency_ms": "milliseconds of one forward of --batch x --length tokens, median",
    "macs": "multiply-accumulates of one example of --length tokens",
    "params": "parameters",
    "delta_bytes": "bytes on disk beyond those of the model that the point shares with others",
    "memory_bytes": "peak memory of one forward",
}
#: Of these every model has many: a limit of at most one is a share without its x.
_COUNTS = ("macs", "params", "memory_bytes")
_SUFFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_NAME = re.compile(r"\s*([A-Za-z_]\w*)")
_SIGN = re.compile(r"\s*(<=)")
_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)")


@dataclass(frozen=True)
class Limit:
    """One condition: `quantity` is at most `value`, or at most `value` times the whole model's.

    Attributes:
        text: as the user wrote it.
    """

    quantity: str
    value: float
    is_relative: bool
    text: str

    def bound(self, whole: Mapping[str, float] | None, teacher: Path | None = None) -> float:
        """The largest cost that is allowed.

        Args:
            whole: the costs of the model that `x` counts from; None if there is none.
            teacher: a model that it could count from, if the user says so.

        Raises:
            UserError: the limit is relative, and there is nothing to count from.
        """
        if not self.is_relative:
            return self.value
        if whole is None or not whole[self.quantity]:
            reason = "no whole model is known" if whole is None else f"the whole model has {self.quantity} 0"
            raise UserError(
                f"--budget {self.text}: x means times the whole model's, and {reason}; give a number, or "
                + (f"count from its teacher with --whole {quoted(teacher)}." if teacher else "name one with --whole.")
            )
        return self.value * whole[self.quantity]


def parse_budget(text: str) -> tuple[Limit, ...]:
    """The conditions of a budget.

    Raises:
        UserError: it is no budget; the place is marked below the text.
    """
    limits: list[Limit] = []
    position = 0
    while True:
        limit, position = _condition(text, position)
        if any(known.quantity == limit.quantity for known in limits):
            raise _problem(text, position - len(limit.text), f"{limit.quantity} is limited twice")
        limits.append(limit)
        position = _after_spaces(text, position)
        if position == len(text):
            return tuple(limits)
        if text[position] != ",":
            raise _problem(text, position, "expected a comma and another condition, or the end")
        position += 1


def _condition(text: str, start: int) -> tuple[Limit, int]:
    """The condition that begins at `start`, and where it ends."""
    start = _after_spaces(text, start)
    name = _NAME.match(text, start)
    if name is None:
        raise _problem(text, start, f"expected one of {', '.join(QUANTITIES)}")
    if name[1] not in QUANTITIES:
        raise _problem(text, name.start(1), f"{name[1]!r} is unknown; known are {', '.join(QUANTITIES)}")
    sign = _SIGN.match(text, name.end())
    if sign is None:
        raise _problem(text, _after_spaces(text, name.end()), "expected <=")
    number = _NUMBER.match(text, sign.end())
    if number is None:
        raise _problem(text, _after_spaces(text, sign.end()), "expected a number, such as 8, 2.5M or 0.5x")
    value, suffix = float(number[1]), number[2]
    if suffix != "x" and suffix not in _SUFFIXES:
        raise _problem(text, number.start(2), f"unknown suffix {suffix!r}; known are k, M, G and x (times the whole)")
    value *= _SUFFIXES.get(suffix, 1.0)
    if not math.isfinite(value):
        raise _problem(text, number.start(1), "the number is too large")
    if name[1] in _COUNTS and suffix != "x" and 0 < value <= 1:
        said = f"no model keeps {name[1]}<={value:g}; {value:g} times the whole model's is written {value:g}x"
        raise _problem(text, number.start(1), said)
    return Limit(name[1], value, suffix == "x", text[start : number.end()].rstrip()), number.end()


def _after_spaces(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _problem(text: str, position: int, what: str) -> UserError:
    """A sentence, and below it the budget with a caret at the place that it speaks of."""
    line = re.sub(r"\s", " ", text)
    return UserError(f"--budget, character {position + 1}: {what}.\n  {line}\n  {' ' * position}^")
