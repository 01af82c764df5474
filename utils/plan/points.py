"""The points of what `--model` names: one model at several settings, the students of a schedule, several models.

Only small files are read here; no model is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from model.compression import edit_from_dict
from model.decomposition import DecompositionConfig, is_original
from model.decomposition.embeddings import EmbeddingConfig
from model.delta import is_delta, read_delta_edit
from model.plugin import PluginConfig
from model.pruning import LayerDropConfig, PruningConfig
from model.schedule.axis import SCALE_TOLERANCE
from model.weights import read_json
from utils.engine.run_directory import ARGUMENTS_FILE
from utils.errors import UserError
from utils.minidisc.arguments import ScheduleArguments, grid_of
from utils.minidisc.record import SCHEDULE_FILE
from utils.minidisc.stages import RESULT_FILE
from utils.plan.recorded import Metric, metric_of_run, metrics_at_ratios
from utils.tucker.loading import has_weights, model_directory

Axis = Literal["", "sparsity", "ratio"]
_CONFIG = "config.json"
#: Stages of a schedule that are its beginning, or cut without learning: they are no students of it.
_NO_STUDENTS = ("sparsified", "-undistilled")


@dataclass(frozen=True)
class Source:
    """Where weights lie.

    Attributes:
        label: short name for people.
        directory: the folder with config.json.
        plugins: a folder with plugin files that go onto it, or None.
        plugin_task: whose plugins in a bank of several tasks; "" where there is one.
        task: the task of the run that made it, "" where unknown.
    """

    label: str
    directory: Path
    plugins: Path | None = None
    plugin_task: str = ""
    task: str = ""

    @property
    def files(self) -> list[Path]:
        """Config and weight files: what the model is made of."""
        folders = [self.directory, *([] if self.plugins is None else [self.plugins])]
        patterns = (_CONFIG, "*.safetensors", "pytorch_model*.bin", "plugin*.json")
        return sorted({file for folder in folders for pattern in patterns for file in folder.glob(pattern)})


@dataclass(frozen=True)
class Point:
    """One model that could be used.

    Attributes:
        axis, value: the setting of the source: its sparsity, its plugins' ratio, or "" and 0 for as it is saved.
        is_whole: nothing is taken away: what `x` in a budget can count from.
        metric: on the development set; None where it is unknown.
    """

    source: Source
    axis: Axis
    value: float
    is_whole: bool
    metric: Metric | None

    @property
    def name(self) -> str:
        """Unique among the points of a plan whose sources have different labels."""
        settings = {"": "", "sparsity": f" {100 * self.value:g}S", "ratio": f" k={self.value:g}"}
        return self.source.label + settings[self.axis]


def find_points(
    models: Sequence[str],
    grid: str | None = None,
    backbone: str | None = None,
    task: str | None = None,
    whole: str | None = None,
) -> list[Point]:
    """All points of `models`, in the given order.

    Args:
        models: model directories, run directories, or folders of runs.
        grid: sparsities in percent for every sparsified model; by default those that its run counted.
        backbone: what plugins that lie alone go onto; by default what their run records.
        task: whose plugins, in a bank of several tasks.
        whole: a further model, of which only the first point is taken: the one that nothing is taken from.

    Raises:
        UserError, ModelError: there is no model, or its files cannot be read.
    """
    found: list[Point] = []
    for given in models:
        found += _points_of(Path(given), grid, backbone, task)
    if whole is not None:
        first = _points_of(Path(whole), grid, backbone, task)[0]
        # It counts as whole because the user says so, whatever it carries.
        found = [
            replace(first, is_whole=True),
            *(replace(p, is_whole=False) for p in found if _model(p) != _model(first)),
        ]
    return _with_labels(list(dict.fromkeys(found)))


def _model(point: Point) -> tuple[Any, ...]:
    source = point.source
    return source.directory.resolve(), source.plugins, point.axis, point.value


def _points_of(path: Path, grid: str | None, backbone: str | None, task: str | None) -> list[Point]:
    if not path.is_dir():
        raise UserError(f"--model {path} is no directory.")
    if (path / SCHEDULE_FILE).is_file() and (students := _students(path)):
        return students
    if (plugins := _plugins_of(path)) is not None:
        return _plugin_points(path, plugins, backbone, task)
    directory = Path(model_directory(str(path)))
    if (directory / _CONFIG).is_file():
        return _settings_of(path, directory, grid, task)
    runs = [child for child in sorted(path.iterdir()) if child.is_dir() and _is_model(child)]
    if not runs:
        raise UserError(
            f"--model {path} holds no model: expected config.json, best/config.json, plugin-k*.json or folders of runs."
        )
    return [_as_saved(run, Path(model_directory(str(run)))) for run in runs]


def _is_model(folder: Path) -> bool:
    directory = Path(model_directory(str(folder)))
    return (directory / _CONFIG).is_file() and has_weights(str(directory))


def _students(run: Path) -> list[Point]:
    """The students that the stages of a schedule have saved."""
    stages = [
        file.parent for file in sorted(run.glob(f"*/{RESULT_FILE}")) if not file.parent.name.endswith(_NO_STUDENTS)
    ]
    return [_as_saved(stage, stage / "best") for stage in stages if (stage / "best" / _CONFIG).is_file()]


def _as_saved(run: Path, directory: Path) -> Point:
    metric = metric_of_run(_run_of(run, directory))
    source = Source(_label(run), directory, task=_task_of(run, metric))
    return Point(source, "", 0.0, _is_whole(directory), metric)


def _settings_of(path: Path, directory: Path, grid: str | None, task: str | None) -> list[Point]:
    """A saved model at every setting that it can be used with."""
    edits, saved = _edits_in(directory), _as_saved(path, directory)
    if edits and isinstance(edits[-1], PluginConfig):
        source = replace(saved.source, plugin_task=_plugin_task(edits[-1], task, directory))
        return _at_ratios(source, edits[-1], _ratio_metrics(_run_of(path, directory), edits[-1]))
    if edits and isinstance(edits[-1], PruningConfig) and (grid is not None or not edits[-1].sparsity):
        least = edits[-1].sparsity
        scales = [s for s in _grid(_run_of(path, directory), grid) if s > least + SCALE_TOLERANCE]
        whole = replace(saved, axis="sparsity", value=least)
        # What was measured was measured as saved: nothing is known of a cut that nobody trained.
        return [whole, *(replace(whole, value=scale, is_whole=False, metric=None) for scale in scales)]
    return [saved]


def _grid(run: Path, grid: str | None) -> tuple[float, ...]:
    """The given sparsities; else those that the run counted parameters at; else the original's."""
    if grid is not None:
        return _sparsities(ScheduleArguments(grid=grid))
    for file in (run / RESULT_FILE, run / "sparsified" / RESULT_FILE):
        counted = read_json(file).get("num_params") if file.is_file() else None
        if isinstance(counted, dict) and counted:
            return _sparsities(ScheduleArguments(grid=",".join(counted)))
    return _sparsities(ScheduleArguments())


def _sparsities(flags: ScheduleArguments) -> tuple[float, ...]:
    return tuple(float(step.scale) for step in grid_of(flags, "sparsity") or ())


# --- plugins ---------------------------------------------------------------------------------------------------------


def _plugins_of(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """The folder of plugins that lie beside no model, and the recorded arguments of their run; of a validation too."""
    recorded = read_json(path / ARGUMENTS_FILE).get("arguments", {}) if (path / ARGUMENTS_FILE).is_file() else {}
    for folder in (path, path / "best"):
        if is_delta(folder, PluginConfig.kind) and not (folder / _CONFIG).is_file():
            return folder, recorded
    if recorded.get("mode") == "valid" and isinstance(recorded.get("plugin_path"), str):
        folder = Path(recorded["plugin_path"])
        if is_delta(folder, PluginConfig.kind):
            return folder, recorded
    return None


def _plugin_points(
    path: Path, plugins: tuple[Path, dict[str, Any]], backbone: str | None, task: str | None
) -> list[Point]:
    folder, recorded = plugins
    base = backbone or recorded.get("checkpoint") or recorded.get("model_config")
    run = path.parent if folder == path and folder.name == "best" else path
    if base is None and (run / ARGUMENTS_FILE).is_file():
        values = read_json(run / ARGUMENTS_FILE).get("arguments", {})
        base = values.get("checkpoint") or values.get("model_config")
    directory = Path(model_directory(str(base)))
    if base is None or not (directory / _CONFIG).is_file():
        raise UserError(
            f"--model {path} holds plugins, and their backbone ({base or 'not recorded'}) is not here: name it with "
            "--backbone DIR."
        )
    edit = read_delta_edit(folder, PluginConfig.kind)
    assert isinstance(edit, PluginConfig)
    metrics = _ratio_metrics(run, edit)
    if 1 not in metrics and (dense := metric_of_run(_run_of(directory, directory))) is not None:
        metrics[1] = dense
    source = Source(_label(run), directory, folder, _plugin_task(edit, task, path), _task_of(run, metrics.get(1)))
    return _at_ratios(source, edit, metrics)


def _ratio_metrics(run: Path, edit: PluginConfig) -> dict[int, Metric]:
    found = metrics_at_ratios(run)
    if not found and len(edit.ratios) == 1 and (only := metric_of_run(run)) is not None:
        found[edit.ratios[0]] = only  # a training with one ratio does not name it
    return found


def _at_ratios(source: Source, edit: PluginConfig, metrics: dict[int, Metric]) -> list[Point]:
    points = [Point(source, "ratio", 1, _is_whole(source.directory), metrics.get(1))]
    return points + [Point(source, "ratio", k, False, metrics.get(k)) for k in sorted(edit.ratios)]


def _plugin_task(edit: PluginConfig, task: str | None, path: Path) -> str:
    if "" in edit.tasks:
        return ""
    if task not in edit.tasks:
        raise UserError(f"--model {path} has plugins for the tasks {', '.join(edit.tasks)}: choose one with --task.")
    return task


# --- what the files say ----------------------------------------------------------------------------------------------


def _edits_in(directory: Path) -> list[Any]:
    return [edit_from_dict(values) for values in read_json(directory / _CONFIG).get("compression") or []]


def _is_whole(directory: Path) -> bool:
    """Whether nothing but plugins, LoRA or an order of heads and neurons was put on a dense model."""
    smaller = (LayerDropConfig, DecompositionConfig, EmbeddingConfig)
    return not is_original(directory) and not any(
        isinstance(edit, smaller) or (isinstance(edit, PruningConfig) and edit.sparsity)
        for edit in _edits_in(directory)
    )


def _run_of(path: Path, directory: Path) -> Path:
    """The folder with the run's files: where `path` is its best/, the one above."""
    return path.parent if path == directory and path.name == "best" else path


def _task_of(run: Path, metric: Metric | None) -> str:
    file = run / RESULT_FILE
    values = read_json(file) if file.is_file() else {}
    return str(values.get("task", values.get("dataset", metric.task if metric else "")))


def _label(path: Path) -> str:
    return str(path.parent if path.name == "best" else path)


def _with_labels(points: Sequence[Point]) -> list[Point]:
    """The same points, their labels without what all have in common."""
    labels = list(dict.fromkeys(point.source.label for point in points))
    common = os.path.commonpath([os.path.dirname(os.path.normpath(label)) for label in labels])
    short = {label: os.path.relpath(label, common or os.curdir) for label in labels}
    return [replace(p, source=replace(p.source, label=short[p.source.label])) for p in points]
