"""Puts the evaluations of the quickstart together: a table, report.md and a plot of the metric against MACs.

    python3 -m utils.quickstart_report --dataset sst2 --runs adapted=DIR untrained=DIR [--output DIR]

Each DIR holds the result.json of `train_t5.py --mode valid`. The dense model is taken from the first one.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UserError, run_as_script

_MEANING = {
    "adapted": "pre-trained on text, then adapted to the task",
    "pretrained": "pre-trained on text only",
    "untrained": "control: plugins as they are initialised",
}
_COLUMNS = (
    "model",
    "ratio",
    "{metric}",
    "kept",
    "MACs (M)",
    "saved",
    "latency (ms)",
    "parameters",
    "delta (kB)",
)


@dataclass(frozen=True)
class Row:
    """One line of the table; `macs`: multiply-accumulates per example; `kept` and `saved`: fractions."""

    name: str
    ratio: int
    metric: float
    kept: float
    macs: float
    saved: float
    latency_ms: float | None
    num_params: int | None
    delta_bytes: int | None


def read_result(folder: Path) -> Mapping[str, Any]:
    """The evaluation in `folder`/result.json.

    Raises:
        UserError: there is none, it is no JSON, or it holds no rows.
    """
    file = folder / "result.json"
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"--runs: {file} is missing; `train_t5.py --mode valid` makes it") from error
    except ValueError as error:
        raise UserError(f"--runs: {file} is no JSON ({error})") from error
    rows = result.get("rows") if isinstance(result, dict) else None
    if not rows or not any(row.get("ratio") == 1 for row in rows):
        raise UserError(f"--runs: {file} holds no rows with a dense model (ratio 1); was it made by --mode valid?")
    return result


def collect(runs: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[Row]]:
    """The metric's name and the table: the dense model, then every run's plugins by ratio."""
    first = next(iter(runs.values()))
    metric = first.get("metric", "accuracy")
    dense = next(row for row in first["rows"] if row["ratio"] == 1)
    table = [_row("dense", dense, dense, metric)]
    for name, result in runs.items():
        plugged = sorted((row for row in result["rows"] if row["ratio"] != 1), key=lambda row: row["ratio"])
        table.extend(_row(name, row, dense, metric) for row in plugged)
    return metric, table


def _row(name: str, row: Mapping[str, Any], dense: Mapping[str, Any], metric: str) -> Row:
    return Row(
        name=name,
        ratio=row["ratio"],
        metric=row[metric],
        kept=row[metric] / dense[metric] if dense[metric] else float("nan"),
        macs=row["macs"],
        saved=1 - row["macs"] / dense["macs"],
        latency_ms=row.get("latency_ms"),
        num_params=row.get("num_params"),
        delta_bytes=row.get("delta_bytes"),
    )


def cells(row: Row) -> list[str]:
    """A row as text, in the order of the columns."""
    return [
        row.name,
        str(row.ratio),
        f"{row.metric:.3f}",
        f"{row.kept:.1%}",
        f"{row.macs / 1e6:.2f}",
        f"{row.saved:.1%}",
        "–" if row.latency_ms is None else f"{row.latency_ms:.2f}",
        "–" if row.num_params is None else f"{row.num_params:,}",
        f"{row.delta_bytes / 1e3:.1f}" if row.delta_bytes else "–",
    ]


def plain_table(metric: str, rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    lines = [[column.format(metric=metric) for column in _COLUMNS], *map(cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def markdown(dataset: str, metric: str, rows: Sequence[Row], plot: str) -> str:
    """The report."""
    header = [column.format(metric=metric) for column in _COLUMNS]
    names = dict.fromkeys(row.name for row in rows[1:])
    return "\n".join(
        [
            f"# Quickstart: {dataset}",
            "",
            "| " + " | ".join(header) + " |",
            "|---" + "|---:" * (len(header) - 1) + "|",
            *("| " + " | ".join(cells(row)) + " |" for row in rows),
            "",
            f"`kept` is the share of the dense model's {metric}, `saved` that of its MACs "
            "(multiply-accumulates per example at its real length). `delta` is the size of one ratio on disk.",
            "",
            *(f"- {name}: {_MEANING[name]}" for name in names if name in _MEANING),
            "",
            f"![{metric} against MACs]({plot})",
            "",
        ]
    )


def draw(metric: str, rows: Sequence[Row], file: Path) -> None:
    """Plots the metric against MACs, one line per run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    dense = rows[0]
    for name in dict.fromkeys(row.name for row in rows[1:]):
        points = [row for row in rows if row.name == name]
        axes.plot([row.macs / 1e6 for row in points], [row.metric for row in points], marker="o", label=name)
        for row in points:
            axes.annotate(
                f"k={row.ratio}",
                (row.macs / 1e6, row.metric),
                xytext=(4, 5),
                textcoords="offset points",
                fontsize=8,
            )
    axes.plot(
        dense.macs / 1e6,
        dense.metric,
        marker="*",
        markersize=13,
        linestyle="none",
        color="black",
        label="dense",
    )
    axes.axhline(dense.metric, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("MACs per example (M)")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    axes.legend()
    temporary = file.with_name(f".{file.name}")
    figure.savefig(temporary, dpi=130, format="png")
    os.replace(temporary, file)


def write_report(dataset: str, runs: Mapping[str, Path], output: Path) -> str:
    """Writes report.md, table.json and accuracy-macs.png under `output`; returns the table as text."""
    metric, rows = collect({name: read_result(folder) for name, folder in runs.items()})
    output.mkdir(parents=True, exist_ok=True)
    plot = f"{metric}-macs.png"
    draw(metric, rows, output / plot)
    report = output / "report.md"
    temporary = output / ".report.md"
    temporary.write_text(markdown(dataset, metric, rows, plot), encoding="utf-8")
    os.replace(temporary, report)
    return plain_table(metric, rows)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m utils.quickstart_report", description="Writes the quickstart's report."
    )
    parser.add_argument("--dataset", required=True, help="name of the task")
    parser.add_argument(
        "--runs",
        required=True,
        nargs="+",
        metavar="NAME=DIR",
        help="evaluations, the folder of each with its result.json",
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"), help="folder of the report")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    args = parse(arguments)
    run_as_script(lambda: _report(args), args.debug)


def _report(args: argparse.Namespace) -> None:
    runs = {}
    for word in args.runs:
        name, separator, folder = word.partition("=")
        if not separator:
            raise UserError(f"--runs {word}: expected NAME=DIR")
        runs[name] = Path(folder)
    print(write_report(args.dataset, runs, args.output))
    print(f"made: {args.output / 'report.md'}")


if __name__ == "__main__":
    main()
