"""What the folders of runs say: arguments, versions, metrics, costs, training, of whichever script made them.

A run is a folder with one of the files that the entry scripts write:

    arguments.json           what was asked for, versions, seed
    result.json              of a training; of `train_t5.py --mode valid`, a row per ratio
    evaluation.json          of `task_distill.py --do_eval`, of a model with plugins at each ratio; also in the folders
                             `evaluation` and `costs` of a run or of its last stage
    plan.json                of a model that `utils.plan --commit` wrote
    intermediate, prediction the stages of `--stage both`, runs themselves
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset import TASKS
from model.weights import read_json
from utils.engine.run_files import ARGUMENTS_FILE
from utils.errors import UserError
from utils.plan import PLAN_FILE
from utils.report.measured import (
    Measured,
    measured_model,
    measured_ratios,
    measured_values,
    merged,
    number,
    numbers,
    shared,
    whole,
)

RESULT_FILE, EVALUATION_FILE = "result.json", "evaluation.json"
#: Any of these makes a folder a run.
_RUN_FILES = (ARGUMENTS_FILE, RESULT_FILE, EVALUATION_FILE, PLAN_FILE)
#: Stages of one run with folders of their own, the last of which makes the model.
_STAGES = ("intermediate", "prediction")
#: Where a run's evaluations lie; what an earlier one says is taken first.
_EVALUATIONS = ("", "evaluation", "costs")
#: A part of a path that ends in the run's seed.
_SEED_AT_END = r"(^|[-_]|seed)"
#: The key of an evaluation of plugins at several ratios.
_RATIOS = re.compile(r"[1-9][0-9]{0,3}")
#: Folders of a run that no other run is looked for in.
_OWN = {"best", "checkpoints", "tensorboard"}


@dataclass(frozen=True)
class Run:
    """A folder of a run.

    Attributes:
        record: arguments.json.
        result: result.json, if the run has ended.
        stages: results of all that was trained for it.
        models: what was measured; one without numbers if nothing was.
        edits: the compressions as the checkpoint lists them; None where there is no checkpoint of the whole model.
        said: the compressions in words, by its evaluation.
        evaluated: the folder of the evaluated model.
        parts: the folders whose calls made all this, one after the other, each with its arguments.json.
        origin: in words what a model was cut or copied of, where a plan wrote it.
    """

    folder: Path
    record: Mapping[str, Any]
    result: Mapping[str, Any]
    stages: Sequence[Mapping[str, Any]]
    models: Sequence[Measured]
    edits: Sequence[Mapping[str, Any]] | None
    said: str | None
    evaluated: str | None = None
    parts: Sequence[tuple[Path, Mapping[str, Any]]] = ()
    origin: str | None = None

    @property
    def is_evaluation(self) -> bool:
        """Whether it only evaluates a model that another run made."""
        asked = self.arguments.get("mode") in ("evaluate", "predict") or self.arguments.get("do_eval") is True
        return "task_name" in self.arguments and self.arguments.get("stage") is None and asked

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What was asked for."""
        found = self.record.get("arguments", {})
        return found if isinstance(found, Mapping) else {}

    @property
    def seed(self) -> int | None:
        """Of everything random."""
        return whole(self.arguments.get("random_seed", self.record.get("seed")))

    @property
    def task(self) -> str:
        """Name of the task; "text" where there is none."""
        for place in (self.arguments, self.result):
            for name in ("dataset", "task_name", "task"):
                if isinstance(place.get(name), str):
                    return str(place[name])
        return "text"

    @property
    def tokens(self) -> float | None:
        """That it was trained on, all stages together."""
        return _sum(self.stages, "tokens")

    @property
    def train_seconds(self) -> float | None:
        """That its training took, all stages together."""
        return _sum(self.stages, "train_seconds")

    def find(self, place: str) -> Path | None:
        """Another run that this one names, from whatever folder above it the scripts were started, if it is there."""
        for start in [*self.folder.resolve().parents, Path()]:
            found = start / place
            folder = found.parent if found.name == "best" else found
            if folder.name in _STAGES and is_run(folder.parent):
                folder = folder.parent  # of `--stage both`
            if is_run(folder):
                return folder
        return None


def is_run(folder: Path) -> bool:
    """Whether an entry script wrote here."""
    names = (*_RUN_FILES, *(f"{stage}/{ARGUMENTS_FILE}" for stage in _STAGES))
    try:
        return any((folder / name).is_file() for name in names)
    except OSError:  # a name that is too long to be one
        return False


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The given folders that are runs, and of the others all runs below them; each once.

    Of what lies below a run, evaluations in folders of their own are taken too; and all of it, where the stages of
    `--stage both` have other runs beside them.

    Raises:
        UserError: one of them is none and has none below it.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        runs = list(_runs_in(folder))
        if not runs:
            what = "no such folder" if not folder.exists() else "a file" if folder.is_file() else "a folder"
            raise UserError(
                f"{folder} is no run directory: expected {ARGUMENTS_FILE}, {RESULT_FILE} or {EVALUATION_FILE} in it or "
                f"below it, found {what}{' without any of them' if folder.is_dir() else ''}."
            )
        found |= dict.fromkeys(runs)
    return list(found)


def _runs_in(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    if not is_run(folder):
        for path in _folders_in(folder):
            yield from _runs_in(path)
        return
    yield folder
    read = {place / name for place in _places_of(folder) for name in _EVALUATIONS}
    holds_runs = not any((folder / name).is_file() for name in _RUN_FILES)  # a run by its stages alone
    for path in _folders_in(folder):
        below = _runs_in(path) if holds_runs and path.name not in _STAGES else _evaluations_in(path)
        yield from (found for found in below if found not in read)


def _folders_in(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and path.name not in _OWN
    )


def _evaluations_in(folder: Path) -> Iterator[Path]:
    """The folder and those below it in which something was evaluated and nothing trained."""
    result = _read(folder / RESULT_FILE)
    if isinstance(result.get("rows"), list) or (not result and (folder / EVALUATION_FILE).is_file()):
        yield folder
    for path in _folders_in(folder):
        yield from _evaluations_in(path)


def _places_of(folder: Path) -> list[Path]:
    """A run's folder, and that of its last stage, in which evaluations lie."""
    return [folder, *[place for stage in reversed(_STAGES) if (place := folder / stage).is_dir()][:1]]


def run_around(folder: Path, among: Container[Path]) -> Path | None:
    """The nearest of the runs `among`, resolved, that `folder` lies in."""
    return next((above for above in folder.resolve().parents if above in among), None)


def read_run(folder: Path, evaluations_elsewhere: Sequence[Path] = ()) -> Run:
    """Everything that a run's folder says.

    Args:
        evaluations_elsewhere: folders of evaluations of its model.

    Raises:
        UserError: the folder is no run.
        ModelError: one of its files is damaged.
    """
    if not is_run(folder):
        raise UserError(
            f"{folder} is no run directory: it has no {ARGUMENTS_FILE}, {RESULT_FILE} or {EVALUATION_FILE}."
        )
    if (folder / PLAN_FILE).is_file():
        return _committed(folder, evaluations_elsewhere)
    own = _read(folder / RESULT_FILE)
    stages = [_read(folder / stage / RESULT_FILE) for stage in _STAGES if (folder / stage).is_dir()]
    own_places = _places_of(folder)
    last = own_places[-1]
    result = own or (stages[-1] if stages else {})
    inside = [place / name for place in own_places for name in _EVALUATIONS]
    places = [*inside, *evaluations_elsewhere]
    evaluations = [found for place in places if (found := _read(place / EVALUATION_FILE))]
    said = {
        name: str(found[name])
        for found in reversed(evaluations)
        for name in ("edits", "task", "model")
        if name in found
    }
    return Run(
        folder,
        _read(folder / ARGUMENTS_FILE) or _read(last / ARGUMENTS_FILE),
        {**({"task": said["task"]} if "task" in said else {}), **result},
        [found for found in (stages or [own]) if "tokens" in found],
        _models(result, evaluations),
        _edits(last / "best") if own or last != folder else None,
        said.get("edits"),
        said.get("model"),
        _parts(dict.fromkeys([folder, *(folder / stage for stage in _STAGES), *places])),
    )


def _committed(folder: Path, evaluations_elsewhere: Sequence[Path]) -> Run:
    """A model that a plan wrote: what the plan knew of its point, and what it was cut or copied of."""
    plan = _read(folder / PLAN_FILE)
    points = plan.get("points")
    named = (one for one in points if isinstance(one, Mapping)) if isinstance(points, list) else iter(())
    point = next((one for one in named if one.get("name") == plan.get("chosen")), {})
    evaluations = [found for place in evaluations_elsewhere if (found := _read(place / EVALUATION_FILE))]
    metric, costs, known = (
        _mapping(values) for values in (point.get("metric"), point.get("costs"), plan.get("measured_as"))
    )
    shape = {"latency_batch": known.get("batch"), "latency_length": known.get("length")}
    # Its multiply-accumulates are those of rows of one length, not of the development set's.
    planned = {"num_params": costs.get("params"), "latency_ms": costs.get("latency_ms"), "measured": known, **shape}
    said = {str(metric.get("name")): metric.get("value")} if metric else {}
    models = _models({}, [*evaluations, {**planned, "metrics": said}])
    tasks = (str(one["task"]) for one in [point, *evaluations] if one.get("task"))
    at = f" at {point['step']}" if point.get("step") else ""
    learns = ", not trained since" if point.get("is_cut") else ""
    return Run(
        folder,
        {"plan": plan.get("command")},
        {"task": next(tasks, None), **({"metric": metric.get("name")} if metric else {})},
        [],
        models,
        _edits(folder),
        None,
        str(point["model"]) if isinstance(point.get("model"), str) else None,
        _parts(evaluations_elsewhere),
        f"committed from {point.get('model', 'an unknown model')}{at}{learns}",
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parts(folders: Iterable[Path]) -> list[tuple[Path, Mapping[str, Any]]]:
    """Those of the folders in which a call has recorded its arguments."""
    return [(folder, found) for folder in folders if (found := _read(folder / ARGUMENTS_FILE))]


def _models(result: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]) -> list[Measured]:
    if isinstance(result.get("rows"), list):
        return measured_ratios([{**shared(result), **row} for row in result["rows"] if isinstance(row, Mapping)])
    if plugins := _at_ratios(evaluations):
        return plugins
    own = numbers(result.get("metrics", {}))
    value = number(result.get("best_value"))
    if not own and value is not None and isinstance(result.get("metric"), str):
        own = {result["metric"]: value}
    found = [measured_model(evaluation) for evaluation in evaluations]
    sizes = Measured(
        metrics=own,
        num_params=number(result.get("num_params")),
        encoder_params=number(result.get("encoder_params")),
    )
    return [merged([*found, sizes])]


def _at_ratios(evaluations: Sequence[Mapping[str, Any]]) -> list[Measured]:
    """Of evaluations of a model with plugins: what they say at each ratio, 1 being without them."""
    found: dict[int, list[Measured]] = {}
    for evaluation in evaluations:
        ratios = evaluation.get("ratios")
        for name, values in ratios.items() if isinstance(ratios, Mapping) else ():
            if _RATIOS.fullmatch(name) and isinstance(values, Mapping):
                is_dense = name == "1" and evaluation.get("edits") == "plugin"
                measured = measured_values({**shared(evaluation), **values}, values.get("metrics", {}), int(name))
                found.setdefault(int(name), []).append(replace(measured, is_dense=is_dense))
    return [merged(found[ratio]) for ratio in sorted(found)]


def metric_of(run: Run, model: Measured, wanted: str | None = None) -> str:
    """The metric that a model is shown by: `wanted` where it was measured, else the one that selects."""
    if wanted is not None and wanted in model.metrics:
        return wanted
    named = run.result.get("metric")
    if not isinstance(named, str):
        named = TASKS[run.task].selection_metric if run.task in TASKS else ""
    return named if named in model.metrics or not model.metrics else next(iter(model.metrics))


def without_seed(path: str, seed: int | None) -> str:
    """A path whose parts may end in the run's seed, with `*` in its place: `mrpc-1/best` -> `mrpc-*/best`."""
    if seed is None:
        return path
    return "/".join(re.sub(_SEED_AT_END + f"{seed}$", r"\1*", part) for part in path.split("/"))


def _edits(best: Path) -> list[dict[str, Any]] | None:
    """The list of compressions in a checkpoint's config.json; None if there is no whole model."""
    if not (best / "config.json").is_file():
        return None
    found = read_json(best / "config.json").get("compression", [])
    return [edit for edit in found if isinstance(edit, dict)] if isinstance(found, list) else []


def _read(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _sum(stages: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [number(stage.get(name)) for stage in stages]
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
