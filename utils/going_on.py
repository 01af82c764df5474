"""The command that goes on where a stopped one was: the same again, as its user started it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.hints import command, python

#: Set by what starts other commands and goes on by itself (a launcher, a study): the line that starts it again.
WHOLE = "GOES_ON_BY"
#: Set by a launcher that passes its words on to one script: what stands before the script's name.
BEFORE = "STARTED_BY"
#: What a training needs to be told, so that it goes on where it was; from the beginning where it has saved nothing.
RESUME = ("--resume", "auto")


def again(more: Sequence[str] | None) -> str | None:
    """A line that goes on where this process was stopped, to be pasted where it was started; None if there is none.

    Args:
        more: words that make this process's own command go on; None: it begins anew each time.
    """
    if whole := os.environ.get(WHOLE):
        return whole
    if more is None:
        return None
    words = [*_without(sys.argv[1:], ("overwrite", "resume")), *more]
    if before := os.environ.get(BEFORE):
        return f"{before} {shlex.join([Path(sys.argv[0]).name, *words])}"
    if (started := _launcher_words()) is not None:
        return shlex.join([*started, *words])
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None:  # python -m utils.x
        return command(spec.name.removesuffix(".__main__"), *words)
    return shlex.join([python(), sys.argv[0], *words])


def _without(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """A command line without some flags, whatever they are called there."""
    from utils.arguments.spellings import ALIASES, key  # which is of a package that imports this one

    names = {name for flag in flags for name in (flag, *ALIASES.get(flag, ()))}
    left: list[str] = []
    was_one = False
    for word in words:
        is_value, was_one = was_one and word == RESUME[1], False
        if word.startswith("-") and key(word.partition("=")[0]) in names:
            was_one = True
        elif not is_value:
            left.append(word)
    return left


def _launcher_words() -> list[str] | None:
    """What stands before this script's flags in the command of torchrun, accelerate or mpirun, which is our parent.

    None where there is no such command, or the system does not show it.
    """
    own = sys.argv[1:]
    try:
        content = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return None
    words = os.fsdecode(content).split("\0")[:-1]
    before = words[: len(words) - len(own)]
    is_ours = before and words[len(before) :] == own and os.path.basename(before[-1]) == os.path.basename(sys.argv[0])
    return before if is_ours and "-c" not in before else None
