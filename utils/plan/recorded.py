"""The development metrics that runs have written down, and where."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dataset import get_task
from dataset.errors import DataError
from model.weights import read_json
from notation import SCALE_TOLERANCE
from utils.minidisc.record import CHOICE_FILE, SCHEDULE_FILE, read_choice

RESULT_FILE = "result.json"
EVALUATION_FILE = "evaluation.json"
_METRICS_FILE = "metrics.jsonl"
#: What selects a stage without being a measure of the task; metrics of other names are.
_NO_METRICS = ("tradeoff", "negative_loss")


@dataclass(frozen=True)
class Metric:
    """A development metric.

    Attributes:
        name: such as `accuracy`.
        task: whose rows it was measured on; "" where the file does not say.
        origin: the file that it was read from, or `measured now`.
    """

    name: str
    value: float
    task: str
    origin: str


def metric_of_run(run: Path) -> Metric | None:
    """The metric of a run's best model; None where its files tell none.

    Args:
        run: the folder with result.json, or with the evaluation.json of an evaluation.
    """
    if (choice := run / "best" / CHOICE_FILE).is_file():
        return _of_choice(run, choice)
    for file in (run / RESULT_FILE, run / EVALUATION_FILE, run / "evaluation" / EVALUATION_FILE):
        if file.is_file() and (found := _of_result(read_json(file), file)) is not None:
            return found
    return None


def metrics_at_ratios(run: Path) -> dict[int, Metric]:
    """The metric at every ratio: of a validation's table, or of the best step of a training with several ratios."""
    file = run / RESULT_FILE
    values = read_json(file) if file.is_file() else {}
    name, task = values.get("metric"), _task_of(values)
    if not isinstance(name, str):
        return {}
    if isinstance(rows := values.get("rows"), list):
        return {
            int(row["ratio"]): Metric(name, float(row[name]), task, str(file))
            for row in rows
            if isinstance(row, dict) and "ratio" in row and _is_measured(row.get(name))
        }
    steps = run / _METRICS_FILE
    row = _validation_at(steps, values.get("best_step")) if steps.is_file() else {}
    prefix = f"{name}_k"
    return {
        int(key.removeprefix(prefix)): Metric(name, float(value), task, str(steps))
        for key, value in row.items()
        if key.startswith(prefix) and key.removeprefix(prefix).isdigit() and _is_measured(value)
    }


class Unsaved(NamedTuple):
    """What an iteration of MiniDisc tried without keeping a student, in a sentence; `scale` is the first of them."""

    text: str
    scale: str


def unsaved_scales(run: Path) -> list[Unsaved]:
    """One per iteration of MiniDisc that tried several scales: their metrics, and that one student was kept."""
    file = run / SCHEDULE_FILE
    values = read_json(file) if file.is_file() else {}
    name, found = values.get("metric", "metric"), []
    for entry in values.get("iterations", []):
        table = [row for row in entry["table"] if abs(row["scale"] - entry["scale"]) > SCALE_TOLERANCE]
        if table:
            scales = ", ".join(f"{_written(row)} {row[name]:.4f}" for row in table)
            text = f"iteration {entry['iteration']} also reached {name} at {scales}, of which no students were saved"
            found.append(Unsaved(text, _written(table[0])))
    return found


def _written(row: Mapping[str, Any]) -> str:
    """A scale such as 90S; rows of runs before there were other axes hold the sparsity alone."""
    return str(row.get("written", f"{100 * row['scale']:g}S"))


def _of_choice(run: Path, file: Path) -> Metric | None:
    choice = read_choice(file.parent)
    schedule = next((place / SCHEDULE_FILE for place in (run, run.parent) if (place / SCHEDULE_FILE).is_file()), None)
    values = read_json(schedule if schedule is not None else run / RESULT_FILE)
    task, name = _task_of(values), values.get("metric")
    if name in _NO_METRICS or not isinstance(name, str):
        name = _selection_metric(task)
    found = [value for scale, (value, _) in choice.table.items() if abs(scale - choice.scale) < SCALE_TOLERANCE]
    return Metric(name, found[0], task, str(file)) if found and name else None


def _of_result(values: Mapping[str, Any], file: Path) -> Metric | None:
    task, name = _task_of(values), values.get("metric")
    if isinstance(name, str) and name not in _NO_METRICS and _is_measured(values.get("best_value")):
        return Metric(name, float(values["best_value"]), task, str(file))
    metrics, name = values.get("metrics"), _selection_metric(task)
    if isinstance(metrics, dict) and _is_measured(metrics.get(name)):
        return Metric(name, float(metrics[name]), task, str(file))
    return None


def _is_measured(value: Any) -> bool:
    """Whether a value is a finite number: what is none, or null, was not measured, and is never the best."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _task_of(values: Mapping[str, Any]) -> str:
    return str(values.get("task", values.get("dataset", "")))


def _selection_metric(task: str) -> str:
    try:
        return get_task(task).selection_metric
    except DataError:
        return ""


def _validation_at(file: Path, step: Any) -> dict[str, Any]:
    """The row of metrics.jsonl that tells of the validation at `step`; a line that is cut off is none."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("split") == "valid" and row.get("step") == step:
            return row
    return {}
