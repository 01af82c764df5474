"""What the folders of runs say: arguments, versions, metrics, costs, training, of whichever script made them.

A run is a folder with one of the files that the entry scripts write:

    arguments.json           what was asked for, versions, seed
    result.json              of a training; of `train_t5.py --mode valid`, a row per ratio
    evaluation.json          of `task_distill.py --do_eval`, of a model with plugins at each ratio; also in the folders
                             `evaluation` and `costs` of a run
    intermediate, prediction the stages of `--stage both`, runs themselves
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataset import TASKS
from model.weights import read_json
from utils.engine.run_files import ARGUMENTS_FILE
from utils.errors import UserError

RESULT_FILE, EVALUATION_FILE = "result.json", "evaluation.json"
#: Stages of one run with folders of their own, the last of which makes the model.
_STAGES = ("intermediate", "prediction")
#: Where a run's evaluations lie; what an earlier one says is taken first.
_EVALUATIONS = ("", "evaluation", "costs")
#: A part of a path that ends in the run's seed.
_SEED_AT_END = r"(^|[-_]|seed)"
#: Above this, nothing was measured.
_LARGEST = 1e18
#: The key of an evaluation of plugins at several ratios.
_RATIOS = re.compile(r"[1-9][0-9]{0,3}")
#: Folders of a run that no other run is looked for in.
_OWN = {"best", "checkpoints", "tensorboard"}


@dataclass(frozen=True)
class Measured:
    """What an evaluation says about one model; None is what it does not say.

    Attributes:
        ratio: of the plugins in use; 1 without them, None where the model has none to switch.
        metrics: fractions, by name.
        macs, encoder_macs: multiply-accumulates per example at its real length.
        latency_shape: rows and tokens of the timed forward.
        is_dense: nothing in it is compressed; None: not said.
    """

    ratio: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    macs: float | None = None
    encoder_macs: float | None = None
    latency_ms: float | None = None
    latency_shape: tuple[int, int] | None = None
    num_params: float | None = None
    encoder_params: float | None = None
    delta_bytes: float | None = None
    memory_bytes: float | None = None
    is_dense: bool | None = None


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
    """

    folder: Path
    record: Mapping[str, Any]
    result: Mapping[str, Any]
    stages: Sequence[Mapping[str, Any]]
    models: Sequence[Measured]
    edits: Sequence[Mapping[str, Any]] | None
    said: str | None
    evaluated: str | None = None

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What was asked for."""
        found = self.record.get("arguments", {})
        return found if isinstance(found, Mapping) else {}

    @property
    def seed(self) -> int | None:
        """Of everything random."""
        return _whole(self.arguments.get("random_seed", self.record.get("seed")))

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
            if is_run(folder):
                return folder
        return None


def is_run(folder: Path) -> bool:
    """Whether an entry script wrote here."""
    names = (ARGUMENTS_FILE, RESULT_FILE, EVALUATION_FILE, *(f"{stage}/{ARGUMENTS_FILE}" for stage in _STAGES))
    try:
        return any((folder / name).is_file() for name in names)
    except OSError:  # a name that is too long to be one
        return False


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The given folders that are runs, and of the others all runs below them; each once.

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
    if is_run(folder):
        yield folder
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and path.name not in _OWN:
            yield from _runs_in(path)


def read_run(folder: Path) -> Run:
    """Everything that a run's folder says.

    Raises:
        UserError: the folder is no run.
        ModelError: one of its files is damaged.
    """
    if not is_run(folder):
        raise UserError(
            f"{folder} is no run directory: it has no {ARGUMENTS_FILE}, {RESULT_FILE} or {EVALUATION_FILE}."
        )
    own = _read(folder / RESULT_FILE)
    stages = [_read(folder / stage / RESULT_FILE) for stage in _STAGES if (folder / stage).is_dir()]
    last = next((folder / stage for stage in reversed(_STAGES) if (folder / stage).is_dir()), folder)
    result = own or (stages[-1] if stages else {})
    evaluations = [found for name in _EVALUATIONS if (found := _read(folder / name / EVALUATION_FILE))]
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
    )


def _models(result: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]) -> list[Measured]:
    if isinstance(result.get("rows"), list):
        return measured_ratios(result["rows"])
    if plugins := _at_ratios(evaluations):
        return plugins
    own = _numbers(result.get("metrics", {}))
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
                measured = _measured(values, values.get("metrics", {}), int(name))
                found.setdefault(int(name), []).append(replace(measured, is_dense=is_dense))
    return [merged(found[ratio]) for ratio in sorted(found)]


def merged(models: Sequence[Measured]) -> Measured:
    """One model measured several times: what an earlier one lacks, a later one gives; metrics are of one of them."""
    values: dict[str, Any] = {}
    for model in models:
        for name, value in vars(model).items():
            if values.get(name) in (None, {}):
                values[name] = value
    return Measured(**values)


def measured_ratios(rows: Sequence[Any]) -> list[Measured]:
    """The rows of `train_t5.py --mode valid`: a T5 at several ratios of its plugins, 1 being without them."""
    known = [row for row in rows if isinstance(row, Mapping) and _whole(row.get("ratio")) is not None]
    models = [_measured(row, row, row["ratio"]) for row in known]
    return sorted(models, key=lambda model: model.ratio or 0)


def measured_model(found: Mapping[str, Any]) -> Measured:
    """What `task_distill.py --do_eval` wrote about a model; of one with plugins, as it is saved."""
    return _measured(found, found.get("metrics", {}), None)


def _measured(found: Mapping[str, Any], metrics: Any, ratio: int | None) -> Measured:
    rows, tokens = _whole(found.get("latency_batch")), _whole(found.get("latency_length"))
    names = ("macs", "encoder_macs", "latency_ms", "num_params", "encoder_params")
    costs = {name: number(found.get(name)) for name in names}
    edits = found.get("edits")
    return Measured(
        ratio=ratio,
        metrics={name: value for name, value in _numbers(metrics).items() if name not in _NO_METRICS},
        latency_shape=(rows, tokens) if rows is not None and tokens is not None else None,
        delta_bytes=number(found.get("delta_bytes")) if ratio != 1 else None,
        memory_bytes=number(found.get("peak_memory_bytes")),
        is_dense=ratio == 1 if ratio is not None else edits == "dense" if isinstance(edits, str) else None,
        **costs,
    )


#: Numbers in a row of ratios that are no metrics.
_NO_METRICS = {
    "ratio",
    "macs",
    "encoder_macs",
    "latency_ms",
    "latency_p95_ms",
    "latency_batch",
    "latency_length",
    "peak_memory_bytes",
    "num_params",
    "plugin_params",
    "plugin_share",
    "delta_bytes",
}


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


def number(value: Any) -> float | None:
    """A number that can have been measured; JSON's NaN and what is none count as not measured."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) < _LARGEST else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and number(value) is not None else None


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, Mapping):
        return {}
    return {str(name): one for name, value in values.items() if (one := number(value)) is not None}
