"""What the quickstart's schedules of distillations ended with, path by path, and what each took."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from utils.errors import UserError

#: Stands above the table of schedules.
SCHEDULES_TOLD = (
    "The pruned student by every schedule, all distillations of as many steps. Which assistant is best is not known "
    "before: MaxiDisc tries one after the other, MiniDisc all in its first distillation. Seconds are those of training "
    "steps, without evaluation."
)


class Table(NamedTuple):
    """Lines of cells, the head first; `words`: columns from the left that are text."""

    lines: Sequence[Sequence[str]]
    words: int

    def plain(self) -> str:
        """For a terminal."""
        widths = [max(len(line[i]) for line in self.lines) for i in range(len(self.lines[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i < self.words else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in self.lines
        )

    def markdown(self) -> str:
        """For report.md."""
        head, *rows = ("| " + " | ".join(line) + " |" for line in self.lines)
        marks = "|---" * self.words + "|---:" * (len(self.lines[0]) - self.words) + "|"
        return "\n".join([head, marks, *rows])


@dataclass(frozen=True)
class Schedule:
    """What a schedule of distillations, or one path of it, ended with.

    Attributes:
        train_seconds: of all of its distillations.
        role: a path through an assistant that was given, a search among several of them, or a choice by MiniDisc.
    """

    name: str
    metric: float
    distillations: int
    train_seconds: float
    role: Literal["path", "search", "choice"] | None = None


def read_schedules(name: str, folder: Path) -> list[Schedule]:
    """The schedule in `folder`, if there is one; of several paths each of them comes first.

    Raises:
        UserError: its schedule.json lacks the numbers.
    """
    file = folder / "schedule.json"
    if not file.is_file():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))
    try:
        value, seconds = found["best_value"], found["train_seconds"]
        if "iterations" in found:
            chosen = found["iterations"][0]["written"]
            return [Schedule(f"{name}, which chose {chosen}", value, len(found["iterations"]), seconds, "choice")]
        best = _told(found["best_path"])
        paths = [_path(name, path, found["paths"][path], taken) for path, taken in found["path_seconds"].items()]
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(f"--group: {file} holds no schedule with its times (no {error}); run it again") from error
    steps = [path.split("-") for path in found["paths"]]
    # What paths begin with alike is done once.
    every = len({tuple(path[: count + 1]) for path in steps for count in range(len(path))})
    search = Schedule(f"{name}, which kept that {best}", value, every, seconds, "search")
    return [*paths, search] if len(paths) > 1 else paths


def _path(name: str, path: str, metric: float, seconds: float) -> Schedule:
    """One path; `name`: of the schedule."""
    assistants = _told(path)
    return Schedule(assistants or name, metric, len(path.split("-")), seconds, "path" if assistants else None)


def _told(path: str) -> str:
    """The assistants of a path in words; "" where there are none."""
    *assistants, _ = path.split("-")
    return f"over {' and '.join(assistants)}" if assistants else ""


def schedule_table(metric: str, schedules: Sequence[Schedule]) -> Table:
    """The schedules as cells, below a head."""
    rows = [[one.name, f"{one.metric:.3f}", str(one.distillations), f"{one.train_seconds:.1f}"] for one in schedules]
    return Table([["schedule", metric, "distillations", "training (s)"], *rows], 1)


def compared(metric: str, schedules: Sequence[Schedule]) -> str:
    """In a sentence what the choice took and reached beside the search; "" unless there is one of each."""
    of = {role: [one for one in schedules if one.role == role] for role in ("path", "search", "choice")}
    if len(of["search"]) != 1 or len(of["choice"]) != 1:
        return ""
    (search,), (choice,) = of["search"], of["choice"]
    usual = statistics.mean(path.metric for path in of["path"])
    return (
        f"The choice took {choice.train_seconds / search.train_seconds:.0%} of the search's time. Its {metric} is "
        f"{choice.metric - search.metric:+.3f} beside the best of the search, {choice.metric - usual:+.3f} beside the "
        f"mean over its {len(of['path'])} assistants; another seed or processor moves each of them by hundredths."
    )
