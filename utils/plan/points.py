"""The points of what `--model` names: one model at several settings, the students of a schedule, several models.

Only small files are read here; no model is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.delta import is_delta, read_delta_edit
from model.plugin import PluginConfig
from notation import Axis
from utils.engine.run_directory import recorded_arguments
from utils.errors import UserError
from utils.minidisc.axes import STAGES
from utils.minidisc.record import SCHEDULE_FILE
from utils.minidisc.stages import RESULT_FILE
from utils.opening.files import has_weights
from utils.opening.places import expanded, model_directory
from utils.plan.cuts import cuts_of
from utils.plan.files import edits_in, is_whole, run_of, task_of
from utils.plan.point import CONFIG, Point, Source
from utils.plan.recorded import Metric, metric_of_run, metrics_at_ratios

#: Stages of a schedule that are its beginning, or cut without learning: they are no students of it.
_NO_STUDENTS = (*STAGES.values(), "-undistilled")


@dataclass(frozen=True)
class Wanted:
    """Which points of a model are asked for.

    Attributes:
        axis: what its sizes differ in; by default plugin ratios, or the sparsities of a sparsified model.
        grid: the scales of that axis; by default those that its run counted.
        backbone: what plugins that lie alone go onto; by default what their run records.
        task: whose plugins, in a bank of several tasks.
    """

    axis: Axis | None = None
    grid: str | None = None
    backbone: str | None = None
    task: str | None = None


def find_points(models: Sequence[str], wanted: Wanted | None = None, whole: str | None = None) -> list[Point]:
    """All points of `models`, in the given order.

    Args:
        models: model directories, run directories, or folders of runs.
        whole: a further model, of which only the first point is taken: the one that nothing is taken from.

    Raises:
        UserError, ModelError: there is no model, or its files cannot be read.
    """
    wanted = wanted or Wanted()
    found = [point for given in models for point in _points_of(Path(given), wanted)]
    if whole is not None:
        first = _points_of(Path(whole), wanted)[0]
        # It counts as whole because the user says so, whatever it carries.
        found = [
            replace(first, is_whole=True),
            *(replace(p, is_whole=False) for p in found if _model(p) != _model(first)),
        ]
    return _with_labels(list(dict.fromkeys(found)))


def _model(point: Point) -> tuple[Any, ...]:
    source = point.source
    return source.directory.resolve(), source.plugins, point.axis, point.value


def _points_of(path: Path, wanted: Wanted) -> list[Point]:
    path = expanded(path)
    if not path.is_dir():
        raise UserError(f"--model {path} is no directory{'' if path.exists() else ', it does not exist'}.")
    if (path / SCHEDULE_FILE).is_file() and (students := _students(path)):
        return students
    if (plugins := _plugins_of(path)) is not None:
        return _plugin_points(path, plugins, wanted)
    directory = Path(model_directory(str(path)))
    if (directory / CONFIG).is_file():
        return _settings_of(path, directory, wanted)
    runs = [child for child in sorted(path.iterdir()) if child.is_dir() and _is_model(child)]
    if not runs:
        raise UserError(
            f"--model {path} holds no model: expected config.json, best/config.json, plugin-k*.json or folders of runs."
        )
    return [_as_saved(run, Path(model_directory(str(run)))) for run in runs]


def _is_model(folder: Path) -> bool:
    directory = Path(model_directory(str(folder)))
    return (directory / CONFIG).is_file() and has_weights(str(directory))


def _students(run: Path) -> list[Point]:
    """The students that the stages of a schedule have saved."""
    stages = [
        file.parent for file in sorted(run.glob(f"*/{RESULT_FILE}")) if not file.parent.name.endswith(_NO_STUDENTS)
    ]
    return [_as_saved(stage, stage / "best") for stage in stages if (stage / "best" / CONFIG).is_file()]


def _as_saved(run: Path, directory: Path) -> Point:
    metric = metric_of_run(run_of(run, directory))
    source = Source(_label(run), directory, task=task_of(run, metric))
    return Point(source, "", 0.0, is_whole(directory), metric)


def _settings_of(path: Path, directory: Path, wanted: Wanted) -> list[Point]:
    """A saved model at every setting that it can be used with."""
    saved, run = _as_saved(path, directory), run_of(path, directory)
    edit = next((edit for edit in edits_in(directory) if isinstance(edit, PluginConfig)), None)
    if edit is None:
        return cuts_of(saved, run, wanted.axis, wanted.grid)
    source = replace(saved.source, plugin_task=_plugin_task(edit, wanted.task, directory))
    return _at_ratios(source, edit, _ratio_metrics(run, edit))


# --- plugins ---------------------------------------------------------------------------------------------------------


def _plugins_of(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """The folder of plugins that lie beside no model, and the recorded arguments of their run; of a validation too."""
    recorded = recorded_arguments(path)
    for folder in (path, path / "best"):
        if is_delta(folder, PluginConfig.kind) and not (folder / CONFIG).is_file():
            return folder, recorded
    if recorded.get("mode") == "valid" and isinstance(recorded.get("plugin_path"), str):
        folder = Path(recorded["plugin_path"])
        if is_delta(folder, PluginConfig.kind):
            return folder, recorded
    return None


def _backbone_in(recorded: Mapping[str, Any]) -> str | None:
    """The model that a run's plugins were put onto."""
    named = (recorded.get(key) for key in ("checkpoint", "model_config"))
    return next((name for name in named if isinstance(name, str) and name), None)


def _plugin_points(path: Path, plugins: tuple[Path, dict[str, Any]], wanted: Wanted) -> list[Point]:
    folder, recorded = plugins
    run = path.parent if folder == path and folder.name == "best" else path
    base = wanted.backbone or _backbone_in(recorded) or _backbone_in(recorded_arguments(run))
    directory = Path(model_directory(base)) if base is not None and expanded(base).exists() else None
    if directory is None or not (directory / CONFIG).is_file():
        raise UserError(
            f"--model {path} holds plugins, and their backbone ({base or 'not recorded'}) is not here: name its "
            "folder with --backbone."
        )
    edit = read_delta_edit(folder, PluginConfig.kind)
    assert isinstance(edit, PluginConfig)
    metrics = _ratio_metrics(run, edit)
    if 1 not in metrics and (dense := metric_of_run(run_of(directory, directory))) is not None:
        metrics[1] = dense
    source = Source(_label(run), directory, folder, _plugin_task(edit, wanted.task, path), task_of(run, metrics.get(1)))
    return _at_ratios(source, edit, metrics)


def _ratio_metrics(run: Path, edit: PluginConfig) -> dict[int, Metric]:
    found = metrics_at_ratios(run)
    if not found and len(edit.ratios) == 1 and (only := metric_of_run(run)) is not None:
        found[edit.ratios[0]] = only  # a training with one ratio does not name it
    return found


def _at_ratios(source: Source, edit: PluginConfig, metrics: dict[int, Metric]) -> list[Point]:
    points = [Point(source, "ratio", 1, is_whole(source.directory), metrics.get(1), is_saved=False)]
    return points + [Point(source, "ratio", k, False, metrics.get(k), is_saved=False) for k in sorted(edit.ratios)]


def _plugin_task(edit: PluginConfig, task: str | None, path: Path) -> str:
    if "" in edit.tasks:
        return ""
    if task not in edit.tasks:
        raise UserError(
            f"--model {path} has plugins for the tasks {', '.join(edit.tasks)}: choose one with --task_name."
        )
    return task


def _label(path: Path) -> str:
    return str(path.parent if path.name == "best" else path)


def _with_labels(points: Sequence[Point]) -> list[Point]:
    """The same points, their labels without what all have in common."""
    labels = list(dict.fromkeys(point.source.label for point in points))
    common = os.path.commonpath([os.path.dirname(os.path.abspath(label)) for label in labels])
    short = {label: os.path.relpath(label, common) for label in labels}
    return [replace(p, source=replace(p.source, label=short[p.source.label])) for p in points]
