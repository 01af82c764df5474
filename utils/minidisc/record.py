"""What a schedule tells afterwards: schedule.json (scales, scores, the choice and its reason) and a plot of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.schedule import Choice
from model.weights import read_json
from utils.minidisc.arguments import ScheduleArguments
from utils.minidisc.axes import AxisKind
from utils.writing import atomic_file, write_json, write_json_into

SCHEDULE_FILE = "schedule.json"
PLOT_FILE = "schedule.png"
#: Beside the weights of a stage that chose among scales.
CHOICE_FILE = "choice.json"


def choice_values(choice: Choice, metric: str, kind: AxisKind | None = None) -> dict[str, Any]:
    """JSON form of a choice; in its table the selection metric is called `metric`.

    Args:
        kind: of the axis, for the scales as they are written.
    """

    def of(scale: float) -> dict[str, Any]:
        return {"scale": scale} if kind is None else {"scale": scale, "written": kind.text(scale)}

    rows = [{**of(s), metric: value, "tradeoff": score} for s, (value, score) in sorted(choice.table.items())]
    return {**of(choice.scale), "score": choice.score, "reason": choice.reason, "table": rows}


def write_choice(folder: Path, choice: Choice) -> None:
    """Keep a choice beside the weights that belong to it."""
    write_json_into(folder, CHOICE_FILE, choice_values(choice, "metric"))


def read_choice(folder: Path) -> Choice:
    """Inverse of `write_choice`."""
    values = read_json(folder / CHOICE_FILE)
    table = {row["scale"]: (row["metric"], row["tradeoff"]) for row in values["table"]}
    return Choice(scale=values["scale"], score=values["score"], reason=values["reason"], table=table)


class Record:
    """The choices of a schedule, collected while it runs.

    Args:
        metric: the one that selects.
    """

    def __init__(self, flags: ScheduleArguments, metric: str) -> None:
        self._flags, self._metric = flags, metric
        self._iterations: dict[int, Choice] = {}
        self._kind: AxisKind | None = None
        self._paths: dict[str, float] = {}
        self._path_seconds: dict[str, float] = {}
        self._best_path: str | None = None

    def iteration(self, number: int, choice: Choice, kind: AxisKind) -> None:
        """What an iteration of MiniDisc over an axis ended with."""
        self._iterations[number], self._kind = choice, kind

    def paths(self, found: Mapping[str, float], seconds: Mapping[str, float], best: str) -> None:
        """What every path reached, and how long its distillations took, those it shares with others included."""
        self._paths, self._path_seconds, self._best_path = dict(found), dict(seconds), best

    def metric_of(self, number: int, scale: float) -> float:
        """The metric of a scale in an iteration."""
        table = self._iterations[number].table
        return table[min(table, key=lambda found: abs(found - scale))][0]

    def write(self, folder: Path, result: Mapping[str, Any]) -> None:
        """schedule.json, and schedule.png where something was chosen."""
        values = {**result, "settings": asdict(self._flags)}
        if self._kind is not None:
            values |= {"axis": self._kind.axis, "unit": self._kind.unit.label}
            values["iterations"] = [
                {"iteration": number, **choice_values(choice, self._metric, self._kind)}
                for number, choice in sorted(self._iterations.items())
            ]
        if self._best_path is not None:
            values |= {"paths": self._paths, "path_seconds": self._path_seconds, "best_path": self._best_path}
        write_json(folder / SCHEDULE_FILE, values)
        if self._kind is not None and len(self._iterations[min(self._iterations)].table) > 1:
            draw(self._iterations[min(self._iterations)], self._metric, self._kind, folder / PLOT_FILE)


def draw(choice: Choice, metric: str, kind: AxisKind, file: Path) -> None:
    """Plots the metric and the trade-off against the scale in its axis' unit, the chosen one marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    scales = sorted(choice.table)
    numbers = [kind.number(scale) for scale in scales]
    axes.plot(numbers, [choice.table[scale][0] for scale in scales], marker="o", label=metric)
    axes.plot(numbers, [choice.table[scale][1] for scale in scales], marker="s", linestyle="--", label="trade-off")
    axes.axvline(kind.number(choice.scale), color="grey", linestyle=":", label=f"chosen: {kind.text(choice.scale)}")
    axes.set_xlabel(kind.unit.label)
    axes.set_ylabel(f"{metric} on the development set")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_file(file) as made:
        figure.savefig(made, dpi=130, format="png")
