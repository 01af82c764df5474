"""From the words of a command line to values; what cannot be a value is told in a few words without its flag."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dataset.errors import DataError
from dataset.tasks import get_task, near_tasks

#: The largest whole number: what torch, NumPy and JSON readers of any language hold.
LARGEST = 2**63 - 1
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_SHOWN = 40


def shown(text: str) -> str:
    """A word in quotation marks; of one that fills lines its beginning and length."""
    return repr(text) if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]!r}… ({len(text)} characters)"


def whole_number(text: str, hint: str = "") -> int:
    """`3`, `3.0` and `3e0`.

    Args:
        hint: what else would do, for one with a fraction.

    Raises:
        argparse.ArgumentTypeError: it has a fraction, is none, or is beyond `LARGEST`.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer():
        is_part = hint and math.isfinite(number)
        also = f" ({hint})" if is_part else ""
        raise argparse.ArgumentTypeError(f"expected a whole number{also}, found {shown(text)}")
    try:
        value = int(text)  # every digit of a long one
    except ValueError:
        value = int(number)
    if abs(value) > LARGEST:
        raise argparse.ArgumentTypeError(f"expected at most {LARGEST}, found {shown(text)}")
    return value


def number(text: str) -> float:
    """A finite number.

    Raises:
        argparse.ArgumentTypeError: it is none, infinite or nan.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, found {shown(text)}")
    return value


def bounded(convert: Callable[[str], Any], **bounds: float | None) -> Callable[[str], Any]:
    """A conversion to a number that has to keep bounds, see `outside`."""

    def check(word: str) -> Any:
        value = convert(word)
        if problem := outside(value, **bounds):
            raise argparse.ArgumentTypeError(f"must be {problem}, found {value}")
        return value

    return check


def spaced(convert: Callable[[str], Any], choices: Sequence[Any] = ()) -> Callable[[str], Any]:
    """A conversion of one of several values, which tells of commas between them.

    Args:
        choices: the values that are allowed; none: any.
    """

    def fits(word: str) -> bool:
        try:
            value = convert(word)
        except argparse.ArgumentTypeError:
            return False
        return not choices or value in choices

    def check(word: str) -> Any:
        parts = [part.strip() for part in word.split(",") if part.strip()]
        if len(parts) > 1 and not fits(word) and all(map(fits, parts)):
            raise argparse.ArgumentTypeError(
                f"give several separated by blanks ({' '.join(parts)}), found {shown(word)}"
            )
        return convert(word)

    return check


def outside(
    value: float,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> str:
    """What a number has to be and is not; "" if it is all right. Nothing holds of nan."""
    ends = (
        (f"at least {least}" if least is not None else "", least is None or value >= least),
        (f"above {above}" if above is not None else "", above is None or value > above),
        (f"at most {most}" if most is not None else "", most is None or value <= most),
        (f"below {below}" if below is not None else "", below is None or value < below),
    )
    if all(holds for _, holds in ends) and not math.isnan(value):
        return ""
    return " and ".join(words for words, _ in ends if words) or "a number"


def text(word: str) -> str:
    """Any word; a `~` that it begins with is the home folder, which shells leave as it is behind `=`.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    if not word.strip():
        raise argparse.ArgumentTypeError("expected a value, found an empty one")
    return os.path.expanduser(word)


def place(word: str) -> Path:
    """A file or folder, see `text`.

    Raises:
        argparse.ArgumentTypeError: it is empty, or begins with the name of a user that there is not.
    """
    found = text(word)
    if found.startswith("~"):
        user = found.partition("/")[0]
        raise argparse.ArgumentTypeError(f"there is no user whose home folder {user} is (./{user} is a folder here)")
    return Path(found)


def switch(word: str) -> bool:
    """The value of `--costs=no`.

    Raises:
        argparse.ArgumentTypeError: it is neither yes nor no.
    """
    if word.lower() not in (*_YES, *_NO):
        raise argparse.ArgumentTypeError(f"expected true or false, found {shown(word)}")
    return word.lower() in _YES


def is_switch_value(word: str) -> bool:
    """Whether a word can be the value of a switch."""
    return word.lower() in ("true", "false")


def one_of(choices: Sequence[Any]) -> Callable[[str], Any]:
    """Gives the choice that is written as the word."""
    known = {str(choice): choice for choice in choices}

    def choose(word: str) -> Any:
        if word not in known:
            raise argparse.ArgumentTypeError(f"expected {listed(known)}, found {shown(word)}")
        return known[word]

    return choose


def task_among(names: Sequence[str]) -> Callable[[str], str]:
    """Gives a task's short name from any spelling of it (`SST-2`, `sst2`), see `dataset.get_task`.

    Args:
        names: the tasks that will do; none: any.
    """

    def choose(word: str) -> str:
        try:
            name = get_task(text(word)).name
        except DataError as error:
            problem = str(error)
            if names:
                near = [one for one in near_tasks(word) if one in names]
                meant = f"did you mean {' or '.join(near)}? " if near else ""
                problem = f"{problem.partition(': ')[0]}: {meant}expected {listed(names)}"
            raise argparse.ArgumentTypeError(problem) from None
        if names and name not in names:
            raise argparse.ArgumentTypeError(f"expected {listed(names)}, found {shown(word)}")
        return name

    return choose


def listed(names: Any) -> str:
    """`a, b or c`."""
    *most, last = map(str, names)
    return f"{', '.join(most)} or {last}" if most else last
