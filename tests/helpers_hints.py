"""The commands that a tool proposes: found in what it printed, parsed by the tool that they name, and run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.tiny_bert import run_general, run_task
from utils.hints import ROOT

_LINE = re.compile(r"^(?:next|or|then): (.+)$", re.MULTILINE)
#: Flags whose value is a place that is written.
_OUTPUTS = ("--output_dir", "--output-path", "--output", "--commit")


def proposals(printed: str) -> list[list[str]]:
    """The words of every command that is proposed, in order."""
    return [shlex.split(line) for line in _LINE.findall(printed)]


def parser_of(words: Sequence[str]) -> tuple[Callable[[list[str]], Any], list[str]]:
    """The parser of the tool that a command starts, and the arguments."""
    _, name, *rest = words
    if name == "-m":
        module = rest[0]
        places = {"serving": "serving.arguments"}
        packages = ("utils.plan", "utils.report", "utils.export", "utils.doctor")
        found = import_module(places.get(module, f"{module}.__main__" if module in packages else module))
        return getattr(found, "parse_arguments", None) or found.parse, rest[1:]
    scripts = {
        "task_distill.py": ("utils.tucker.task_arguments", "parse_task_arguments"),
        "general_distill.py": ("utils.tucker.general_arguments", "parse_general_arguments"),
        "train_t5.py": ("utils.variator.arguments", "parse_arguments"),
        "save_data.py": ("utils.save_data", "parse"),
    }
    module, function = scripts[Path(name).name]
    return getattr(import_module(module), function), rest


def check(words: Sequence[str], made_before: Sequence[str] = ()) -> Path | None:
    """That a command is understood, names only files that are there, and writes to a new place, which is given back.

    Args:
        made_before: places that an earlier command of the same proposal writes.
    """
    parse, arguments = parser_of(words)
    parse(list(arguments))
    output = None
    for flag, value in zip(["", *arguments], arguments, strict=False):
        if flag in _OUTPUTS:
            assert not Path(value).exists(), f"{flag} {value} is there already"
            output = Path(value)
        elif "/" in value and not value.startswith("-"):
            assert Path(value).exists() or value in made_before, f"{flag} {value} is not there"
    assert not re.search(r"\b(DIR|TASK|DATASET|OUT|RUN|FINE_TUNED)\b|…|\.\.\.", " ".join(words)), words
    return output


def run(words: Sequence[str]) -> Any:
    """The command, in this process."""
    _, name, *rest = words
    if name == "-m":
        module = rest[0]
        packages = ("utils.plan", "utils.report", "utils.export")
        return import_module(f"{module}.__main__" if module in packages else module).main(rest[1:])
    scripts = {"task_distill.py": run_task, "general_distill.py": run_general}
    script = Path(name).name
    return scripts[script](rest) if script in scripts else import_module(script.removesuffix(".py")).main(rest)


def is_at_root() -> bool:
    """Whether this process was started where the scripts lie, as commands are printed for."""
    return Path.cwd() == ROOT
