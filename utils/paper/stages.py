"""Stages of a grid: the calls of the entry scripts, and about how long they take here."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from utils.arguments.spellings import flag_named
from utils.studies.runner import Runner

#: Forward passes of one row: a backward pass is worth about two.
FORWARD, TRAINED = 1 / 3, 1.0


class Work(NamedTuple):
    """What a stage trains.

    Attributes:
        rows: of all steps together; None where the data are not there to be counted.
        length: tokens of the longest row.
        passes: forward and backward passes of the backbone per row.
    """

    rows: int | None
    length: int
    passes: float = TRAINED


class Stage(NamedTuple):
    """One call of an entry script.

    Attributes:
        words: the script and its flags.
        done: the file in `folder` that says that it has ended.
        work: of its training; None if it only evaluates.
    """

    folder: Path
    words: Sequence[str]
    work: Work | None = None
    done: str = "result.json"


@dataclass(frozen=True)
class Request:
    """What to run a grid on.

    Attributes:
        text: the corpus of plugins, or the pre-generated text of general distillation.
        plugins: pre-trained plugins, instead of training them on `text`.
        changed: flags of training stages instead of the recipe's: epochs, training-step, batch-size, length.
    """

    data: str
    backbone: str
    output: Path
    tasks: Sequence[str]
    scales: Sequence[str]
    seeds: Sequence[int]
    text: str | None = None
    plugins: str | None = None
    changed: Mapping[str, Any] | None = None

    def settings(self, recipe: Mapping[str, Any], length_flag: str) -> dict[str, Any]:
        """The recipe of a training stage with what was asked for instead.

        Args:
            length_flag: the script's flag for the longest row.
        """
        changed = {name: value for name, value in (self.changed or {}).items() if value is not None}
        if "length" in changed:
            changed[length_flag] = changed.pop("length")
        return {**recipe, **changed}


def flags(settings: Mapping[str, Any]) -> list[str]:
    """`{"lr": 1e-3, "use_swap": True}` -> `--learning_rate 0.001 --use_swap`."""
    words: list[str] = []
    for name, value in settings.items():
        values = value if isinstance(value, list | tuple) else [value]
        flag = flag_named(name.replace("-", "_"))
        words += [flag] if value is True else [flag, *map(str, values)]
    return words


def rows_of(settings: Mapping[str, Any], rows: int | None) -> int | None:
    """Rows that a training sees: its epochs, or fewer if steps are limited."""
    batch, limit = int(settings["batch-size"]), settings.get("training-step")
    steps = math.inf if rows is None else int(settings["epochs"]) * math.ceil(rows / batch)
    steps = min(steps, math.inf if limit is None else int(limit))
    return None if steps == math.inf else int(steps) * batch


def is_done(stage: Stage) -> bool:
    """Whether it has ended."""
    return (stage.folder / stage.done).is_file()


def run(runner: Runner, stages: Sequence[Stage]) -> None:
    """Runs what is not done, resumes what was interrupted.

    Raises:
        UserError: a stage failed.
    """
    for number, stage in enumerate(stages, 1):
        if is_done(stage):
            print(f"skipped: {stage.folder} ({number} of {len(stages)}) is done", flush=True)
            continue
        print(f"stage {number} of {len(stages)}: {stage.folder}", flush=True)
        runner.run(stage.folder, shlex.join(stage.words), stage.done)


def plan(stages: Sequence[Stage], seconds_per_row: Callable[[int], float] | None = None) -> list[str]:
    """What `--dry_run` prints: every stage with what it trains on; with `--estimate` its time, and their sum.

    Args:
        seconds_per_row: of training the backbone, by length.
    """
    lines, total, unknown = [], 0.0, 0
    for stage in stages:
        if is_done(stage):
            told = "done"
        elif stage.work is None:
            told = "an evaluation"
        elif stage.work.rows is None:
            told, unknown = "unknown: its data are not there", unknown + 1
        elif seconds_per_row is None:
            told = f"{stage.work.rows:,} rows of at most {stage.work.length} tokens"
        else:
            seconds = stage.work.rows * stage.work.passes * seconds_per_row(stage.work.length)
            told, total = f"about {duration(seconds)}", total + seconds
        lines += [f"{stage.folder}: {told}", f"  python {shlex.join(stage.words)}"]
    more = f", and {unknown} of unknown length" if unknown else ""
    if seconds_per_row is None:
        return [*lines, f"{len(stages)} stages{more}; --estimate tells about how long they take on this machine"]
    return [*lines, f"{len(stages)} stages, about {duration(total)} on this machine{more}"]


def duration(seconds: float) -> str:
    """In the largest unit that fits."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
