"""Puts the evaluations of the quickstart together: a table, report.md and a plot of the metric against MACs.

    python3 -m utils.quickstart_report --task_name sst2 [--output DIR] \\
        --group Variator adapted=DIR untrained=DIR --group Tucker teacher=DIR distilled=DIR

A group is what was made of one dense model. Each DIR holds the result.json of `train_t5.py --mode valid` or the
evaluation.json of `task_distill.py --do_eval`; the first dense model of a group is what its other rows are compared to.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.arguments.of_quickstart_report import parse

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse)  # before the libraries load


from dataset import TASKS
from utils.errors import UserError, run_as_script
from utils.measured import instruction_sets, processor
from utils.outputs import check_file
from utils.quickstart_schedules import SCHEDULES_TOLD, Schedule, Table, compared, read_schedules, schedule_table
from utils.report.reading import Measured, measured_model, measured_ratios
from utils.writing import atomic_file, write_text

_MEANING = {
    "adapted": "plugins pre-trained on text, then adapted to the task",
    "pretrained": "plugins pre-trained on text only",
    "untrained": "control: plugins as they are initialised",
    "distilled": "the fine-tuned BERT decomposed, then distilled from what it was",
    "decomposed": "control: the same decomposition, not distilled",
    "conventional": "the BERT pruned by 90 %, distilled at once from what it was",
    "maxidisc": "the same over each of several assistants, one after the other, of which the best student is kept",
    "minidisc": "the same over the assistant that one distillation of all sizes at once chose",
}
_COLUMNS = (
    "method",
    "model",
    "setting",
    "{metric}",
    "kept",
    "MACs (M)",
    "saved",
    "latency (ms)",
    "parameters",
    "delta (kB)",
    "training (s)",
)
_WORDS = 3  # columns that are text
#: How a report begins.
_TITLE = "# Quickstart: "


@dataclass(frozen=True)
class Measurement:
    """What an evaluation says about one model; `macs`: multiply-accumulates per example.

    Attributes:
        setting: of the compression; empty for a dense model.
        encoder_params: of the layers, where it was counted.
        train_seconds: of all distillations of a schedule together.
    """

    setting: str
    metric: float
    macs: float
    latency_ms: float | None
    num_params: float | None
    encoder_params: float | None = None
    delta_bytes: float | None = None
    train_seconds: float | None = None
    is_dense: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table; `kept` and `saved`: fractions of the group's dense model."""

    group: str
    name: str
    setting: str
    kept: float
    saved: float
    measured: Measurement


def read_evaluation(folder: Path, metric: str) -> list[Measurement]:
    """The models that the evaluation in `folder` measured.

    Raises:
        UserError: there is no evaluation, it is no JSON, or it lacks rows, costs or the metric.
    """
    file = folder / "evaluation.json"
    if not file.is_file():
        file = folder / "result.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"--group: {file} is missing, and so is {folder / 'evaluation.json'}; `train_t5.py --mode valid` makes "
            "the former, `task_distill.py --do_eval` the latter"
        ) from error
    except ValueError as error:
        raise UserError(f"--group: {file} is no JSON ({error})") from error
    try:
        if "metrics" not in found:
            return _of_ratios(found["rows"], metric)
        return [_measurement(measured_model(found), metric, _schedule_seconds(folder))]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"--group: {file} holds no evaluation with {metric} and costs (no {error}); was it made by --mode valid "
            "or --do_eval, without --no_costs?"
        ) from error


def _of_ratios(rows: Sequence[Mapping[str, Any]], metric: str) -> list[Measurement]:
    """The rows of `train_t5.py --mode valid`: a T5 at several ratios of its plugins, 1 being without them."""
    return [_measurement(model, metric) for model in measured_ratios(rows)]


def _schedule_seconds(folder: Path) -> float | None:
    """What the distillations of a schedule took together, if `folder` is one's."""
    file = folder / "schedule.json"
    return json.loads(file.read_text(encoding="utf-8")).get("train_seconds") if file.is_file() else None


def _measurement(model: Measured, metric: str, train_seconds: float | None = None) -> Measurement:
    """What the report needs of an evaluation.

    Raises:
        KeyError: it lacks the metric or costs.
    """
    if model.macs is None:
        raise KeyError("macs")
    return Measurement(
        setting="" if model.ratio in (None, 1) else f"k={model.ratio}",
        metric=model.metrics[metric],
        macs=model.macs,
        latency_ms=model.latency_ms,
        num_params=model.num_params,
        encoder_params=model.encoder_params,
        delta_bytes=model.delta_bytes,
        train_seconds=train_seconds,
        is_dense=bool(model.is_dense),
    )


def group_rows(group: str, runs: Mapping[str, Sequence[Measurement]]) -> list[Row]:
    """A group's dense model, then the compressed ones of every run.

    Raises:
        UserError: none of them is dense.
    """
    dense = next((found for run in runs.values() for found in run if found.is_dense), None)
    if dense is None:
        raise UserError(f"--group {group}: none of {', '.join(runs)} is a dense model, to which others are compared")
    compressed = [(name, found) for name, run in runs.items() for found in run if not found.is_dense]
    return [_row(group, name, found, dense) for name, found in [("dense", dense), *compressed]]


def _row(group: str, name: str, found: Measurement, dense: Measurement) -> Row:
    setting = found.setting
    if not setting and not found.is_dense and found.encoder_params and dense.encoder_params:
        setting = f"encoder 1/{dense.encoder_params / found.encoder_params:.1f}"
    kept = found.metric / dense.metric if dense.metric else float("nan")
    return Row(group, name, setting, kept, 1 - found.macs / dense.macs, found)


def cells(row: Row) -> list[str]:
    """A row as text, in the order of the columns."""
    found = row.measured
    return [
        row.group,
        row.name,
        row.setting or "–",
        f"{found.metric:.3f}",
        f"{row.kept:.1%}",
        f"{found.macs / 1e6:.2f}",
        f"{row.saved:.1%}",
        "–" if found.latency_ms is None else f"{found.latency_ms:.2f}",
        "–" if found.num_params is None else f"{found.num_params:,}",
        f"{found.delta_bytes / 1e3:.1f}" if found.delta_bytes else "–",
        f"{found.train_seconds:.1f}" if found.train_seconds else "–",
    ]


def row_table(metric: str, rows: Sequence[Row]) -> Table:
    """The rows as cells, below a head."""
    return Table([[column.format(metric=metric) for column in _COLUMNS], *map(cells, rows)], _WORDS)


def _is_own(path: Path) -> bool:
    return path.is_file() and path.read_bytes().startswith(_TITLE.encode())


def markdown(
    dataset: str,
    metric: str,
    rows: Sequence[Row],
    schedules: Sequence[Schedule],
    plot: str,
    times: Sequence[str] = (),
) -> str:
    """The report."""
    names = dict.fromkeys(row.name for row in rows)
    return "\n".join(
        [
            f"{_TITLE}{dataset}",
            "",
            row_table(metric, rows).markdown(),
            "",
            f"`kept` is the share of the {metric} of the method's dense model, `saved` that of its MACs "
            "(multiply-accumulates per example at its real length). `latency` is one forward of 8 rows of the longest "
            "inputs. `delta` is the size of one ratio on disk, `training` what all distillations of a schedule took.",
            "",
            *(f"- {name}: {_MEANING[name]}" for name in names if name in _MEANING),
            "",
            f"![{metric} against MACs]({plot})",
            "",
            *([SCHEDULES_TOLD, "", schedule_table(metric, schedules).markdown(), ""] if schedules else []),
            *([told, ""] if (told := compared(metric, schedules)) else []),
            *(["What the stages of the last call took:", "", "```", *times, "```", ""] if times else []),
        ]
    )


def draw(metric: str, rows: Sequence[Row], file: Path) -> None:
    """Plots the metric against MACs: one line per run, a star for each method's dense model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for group, name in dict.fromkeys((row.group, row.name) for row in rows):
        run = [row for row in rows if (row.group, row.name) == (group, name)]
        places = [(row.measured.macs / 1e6, row.measured.metric) for row in run]
        style = {"marker": "*", "markersize": 13, "linestyle": "none"} if name == "dense" else {"marker": "o"}
        axes.plot(*zip(*places, strict=True), label=f"{group}, {name}", **style)
        for row, place in zip(run, places, strict=True):
            axes.annotate(row.setting, place, xytext=(4, 5), textcoords="offset points", fontsize=8)
    axes.set_xlabel("MACs per example (M)")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with atomic_file(file) as made:
        figure.savefig(made, dpi=130, format="png")


def read_times(file: Path) -> list[str]:
    """What scripts/quickstart.sh has taken: a line per stage, and a last one with the total and the machine.

    Raises:
        UserError: the file is missing, or holds something else.
    """
    try:
        rows = [line.split(" ", 1) for line in file.read_text(encoding="utf-8").splitlines()]
        named = [(int(nanoseconds) / 1e9, name) for nanoseconds, name in rows]
    except (OSError, ValueError) as error:
        raise UserError(
            f"--times: {file} holds no times, a number of nanoseconds and a name per line ({error})"
        ) from None
    lines = [f"{seconds:6.1f} s  {name}" for seconds, name in named if name != "total"] or ["nothing was left to do"]
    total = sum(seconds for seconds, name in named if name == "total")
    sets = ", ".join(instruction_sets()) or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [*lines, f"{total:6.1f} s  in total, on {cores} cores of {processor()} ({sets})"]


def write_report(
    dataset: str, groups: Mapping[str, Mapping[str, Path]], output: Path, times: Sequence[str] = ()
) -> str:
    """Writes report.md and its plot under `output`; returns the tables as text.

    Args:
        groups: method -> name of the run -> folder of its evaluation.
        times: lines on what the stages took.

    Raises:
        UserError: an evaluation is missing or of another kind.
    """
    report = output / "report.md"
    check_file("the report", report, _is_own, "name another --output_dir")
    metric = TASKS[dataset].selection_metric if dataset in TASKS else "accuracy"
    rows: list[Row] = []
    schedules: list[Schedule] = []
    for group, runs in groups.items():
        rows += group_rows(group, {name: read_evaluation(folder, metric) for name, folder in runs.items()})
        schedules += [found for name, folder in runs.items() for found in read_schedules(name, folder)]
    plot = f"{metric}-macs.png"
    draw(metric, rows, output / plot)
    write_text(report, markdown(dataset, metric, rows, schedules, plot, times))
    parts = [row_table(metric, rows).plain()]
    parts += [schedule_table(metric, schedules).plain()] if schedules else []
    return "\n\n".join(filter(None, [*parts, compared(metric, schedules)]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    args = parse(arguments)
    run_as_script(lambda: _report(args), args.debug)


def _report(args: argparse.Namespace) -> None:
    groups: dict[str, dict[str, Path]] = {}
    for name, *words in args.group:
        if not words:
            raise UserError(f"--group {name}: expected NAME=DIR behind the method's name")
        groups[name] = dict(_run(name, word) for word in words)
    times = read_times(args.times) if args.times is not None else []
    print("\n".join([write_report(args.dataset, groups, args.output, times), "", *times]))
    print(f"made: {args.output / 'report.md'}")


def _run(group: str, word: str) -> tuple[str, Path]:
    name, separator, folder = word.partition("=")
    if not separator:
        raise UserError(f"--group {group} {word}: expected NAME=DIR")
    return name, Path(folder)


if __name__ == "__main__":
    main()
