"""Whether what a command line names to be read is there: looked at before anything is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

#: One or two parts, and a branch, tag or commit; anything else that is not there is a path with a mistake in it.
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?(@[A-Za-z0-9][A-Za-z0-9._/-]*)?")
_LOOKS: ContextVar[bool] = ContextVar("looks", default=False)


@dataclass(frozen=True)
class Reading:
    """That a flag's value is a file or folder to read.

    Attributes:
        hub: whether a name on the Hugging Face hub will do.
        words: values that stand for no path.
        named: whether a name may stand in front: TASK=DIR.
    """

    hub: bool = False
    words: tuple[str, ...] = ()
    named: bool = False

    def problem(self, value: object) -> str | None:
        """What is wrong with a value, without a full stop; None if nothing is."""
        source = str(value)
        if (
            source in self.words
            or (source.startswith("hub@") and "hub" in self.words)
            or (self.hub and is_hub_id(source))
        ):
            return None
        told = absence(source)
        if told is not None and self.named and "=" in source:
            told = absence(source.partition("=")[2])
        return told


#: A file or folder of any kind; a model.
PLACE, MODEL = Reading(), Reading(hub=True)


def is_hub_id(source: str) -> bool:
    """Whether a text could be a name on the hub, such as `t5-base` or `google/t5-v1_1-base@main`."""
    return _HUB_ID.fullmatch(source) is not None


def absence(source: str) -> str | None:
    """`x does not exist`, also of a link that leads nowhere; None where something is there, or cannot be looked at."""
    path = os.path.expanduser(source)
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            return f"{source} is a link to {os.readlink(path)}, which does not exist"
        return f"{source} does not exist"
    except (OSError, ValueError):  # no permission, a name that is too long: told by whoever opens it
        pass
    return None


@contextmanager
def looking() -> Iterator[None]:
    """Inside, command lines are those of this process: what they name to be read has to be there."""
    token = _LOOKS.set(True)
    try:
        yield
    finally:
        _LOOKS.reset(token)


def is_looking() -> bool:
    """Whether `looking` is around."""
    return _LOOKS.get()


def problems_of(flag: str, value: Any, reading: Reading) -> list[str]:
    """A sentence, without its full stop, for each path of a value that is not there.

    Args:
        flag: as it is shown; "" of a word without one.
    """
    values = value if isinstance(value, list | tuple) else [value]
    told = (reading.problem(one) for one in values if one is not None)
    return [f"{flag} {one}".strip() for one in told if one is not None]
