"""Commands that a message proposes, complete and quoted, so that they work when they are pasted into a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

#: Where the entry scripts, the launchers and the packages behind `python -m` lie.
ROOT = Path(__file__).resolve().parent.parent
#: Bytes of a file's name; those of most file systems.
_LONGEST_NAME = 255
#: Kept free for what tools put before or behind a name while they write.
_RESERVED = 16


def python() -> str:
    """How to start the interpreter that runs this: `python` where PATH leads to it, otherwise its path."""
    here, found = Path(sys.executable), shutil.which("python")
    if found is not None and Path(found).parent == here.parent:  # not resolved: environments are links
        return "python"
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)


def command(program: str, *words: object) -> str:
    """A command line of this toolkit that can be pasted where this process was started.

    Args:
        program: an entry script (`train_t5.py`), a module (`utils.plan`), or a launcher (`scripts/wiki.sh`).
        words: its arguments; None is left out, a list stands for its items.
    """
    lists = [word if isinstance(word, list | tuple) else [word] for word in words]
    is_file, at_root = program.endswith((".py", ".sh")), Path.cwd() == ROOT
    # A launcher goes to the folder it lies in.
    moves = program.endswith(".sh") and not at_root
    given = [one for part in lists for one in part if one is not None]
    flat = [os.path.abspath(one) if moves and isinstance(one, Path) else str(one) for one in given]
    place = program if at_root else str(ROOT / program)
    start = ["bash"] if program.endswith(".sh") else [python()]
    line = shlex.join([*start, *([place] if is_file else ["-m", program]), *flat])
    if is_file or at_root or str(ROOT) in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        return line
    return f"PYTHONPATH={shlex.quote(str(ROOT))} {line}"


def quoted(path: object) -> str:
    """A path as a shell reads it, for a flag that a message names."""
    return shlex.quote(str(path))


def fresh(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3` … that is not there yet."""
    ending = path.suffix if path.suffix[1:].isalpha() else ""  # a folder's name may hold a dot, too
    stem, number, found = path.name.removesuffix(ending), 1, path
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{stem}-{number}{ending}")
    return found


def beside(made: Path, what: str) -> Path:
    """A new place beside what was made: `runs/mrpc` and `plugins` give `runs/mrpc-plugins`.

    Args:
        what: the end of the name; `plugins.html` gives a file's name.
    """
    if made.name in ("", ".."):  # the working folder, or one above
        made = Path(os.path.abspath(made))
    name = made.name.encode()[: _LONGEST_NAME - _RESERVED - len(what.encode()) - 1].decode(errors="ignore")
    return fresh(made.with_name(f"{name}-{what}"))


def next_lines(commands: Sequence[str], further: Literal["or", "then"] = "or") -> str:
    """What the console says of the commands that make sense now, a line each.

    Args:
        further: what the second and later ones are: alternatives to the first, or what follows it.
    """
    return "\n".join(f"{further if i else 'next'}: {line}" for i, line in enumerate(commands))
