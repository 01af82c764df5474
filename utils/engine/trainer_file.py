"""What trainer.json of a checkpoint must look like, so that a damaged or foreign one is told before it is used."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

#: Of NumPy's generator; a position beyond them would be read from whatever lies behind.
_NUMPY_WORDS = 624


def problem_in(content: Mapping[str, Any], progress: type[Any]) -> str | None:
    """What is wrong in trainer.json, as the end of a sentence; None if nothing is.

    Args:
        content: has all entries.
        progress: the dataclass of the entry of that name.
    """
    processes, random = content["world_size"], content["random"]
    if not _is_count(processes) or processes < 1:
        return "'world_size' is no whole number of at least 1"
    if not isinstance(random, list) or len(random) != processes or not all(map(_is_random_state, random)):
        return f"'random' does not hold the random states of {processes} processes"
    if not isinstance(content["objective"], dict):
        return "'objective' is no JSON object"
    optimizer = content["optimizer"]
    if not isinstance(optimizer, dict) or not all(map(_is_optimizer_entry, optimizer, optimizer.values())):
        return "'optimizer' holds more than numbers named parameter|state"
    return _problem_in_progress(content["progress"], progress)


def _problem_in_progress(values: Any, progress: type[Any]) -> str | None:
    if not isinstance(values, dict):
        return "'progress' is no JSON object"
    kinds = {field.name: str(field.type) for field in dataclasses.fields(progress)}
    if unknown := [name for name in values if name not in kinds]:
        return f"'progress' has an unknown entry {unknown[0]!r}"
    wrong = [name for name, value in values.items() if not _FITS[kinds[name]](value)]
    return f"'progress' has an entry {wrong[0]!r} that is no {kinds[wrong[0]]}" if wrong else None


def _is_count(value: Any) -> bool:
    """Whether a value is a whole number that a counter can reach."""
    return type(value) is int and 0 <= value < 1 << 63


def _is_number(value: Any) -> bool:
    """Whether a value is a number that a float holds, NaN among them (a metric may be)."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 63)


#: By the type of a field of the progress.
_FITS: dict[str, Callable[[Any], bool]] = {
    "int": _is_count,
    "float": lambda value: _is_number(value) and math.isfinite(value),
    "float | None": lambda value: value is None or _is_number(value),
    "bool": lambda value: isinstance(value, bool),
}


def _is_optimizer_entry(name: str, value: Any) -> bool:
    return "|" in name and (value is None or isinstance(value, bool) or _is_number(value))


def _is_random_state(values: Any) -> bool:
    """Whether `values` have the form that `random_state.capture` gives, and numbers that NumPy believes unseen.

    The others are checked when they are used.
    """
    python, numpy = (values.get(name) if isinstance(values, dict) else None for name in ("python", "numpy"))
    return (
        isinstance(python, list)
        and len(python) == 3
        and isinstance(python[1], list)
        and all(_is_count(word) for word in python[1])
        and (python[2] is None or _is_number(python[2]))
        and isinstance(numpy, list)
        and len(numpy) == 3
        and _is_count(numpy[0])
        and numpy[0] <= _NUMPY_WORDS
        and numpy[1] in (0, 1)
        and _is_number(numpy[2])
    )
