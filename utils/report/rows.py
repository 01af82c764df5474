"""Rows of the report: runs that differ only in their seed are one; retention against a dense model; costs."""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from utils.arguments import EvaluationArguments, OptimisationArguments
from utils.engine.same_run import MAY_CHANGE
from utils.report.commands import commands_of, script_of
from utils.report.measured import Circumstances, Measured, merged, number
from utils.report.reading import EVALUATION_FILE, Run, metric_of, read_run, run_around, without_seed
from utils.tucker.adaptation import AdaptationArguments

#: Arguments in which runs of the same row may differ.
_NOT_COMPARED = {*MAY_CHANGE, "random_seed", "costs", "eval_batch_size"} - {"epochs", "training_step"}
#: Those that the same T5 without its plugins may differ in.
_PLUGINS = {"plugin_path", "mux_num", "residual_scale", "compat"}
#: Those of training plugins, which the same BERT without them may differ in.
_ADAPTATION = {
    entry.name
    for group in (OptimisationArguments, EvaluationArguments, AdaptationArguments)
    for entry in dataclasses.fields(group)
}
#: Those that say where something lies; of data, only the folder's own name counts.
_DATA = {"data_path", "data_dir", "pregenerated_data", "valid_data"}
#: Arguments that name the model which a compressed one comes from; the first that is there counts.
_SOURCES = ("teacher_model", "checkpoint", "student_model")
#: Of a metric that others can be compared to.
_SMALLEST = 1e-6
#: Distillations in a row from a student back to its dense teacher.
_LONGEST_CHAIN = 5
#: The compressions of a run that has made no model yet.
_UNKNOWN = "unknown"
#: A folder with this name only measures costs; the row has the name of the run beside it.
_COSTS = "costs"
#: Folders of one model's evaluations, where no arguments are recorded.
_EVALUATIONS = ("evaluation", _COSTS)


class Reading(NamedTuple):
    """One model of one run.

    Attributes:
        metric: its name.
        value: of the metric, None if nothing was measured.
        reference: the dense model's, None if there is none.
    """

    run: Run
    model: Measured
    metric: str
    value: float | None
    reference: float | None = None


@dataclass(frozen=True)
class Row:
    """What the report says of runs that differ only in their seed. None: not measured.

    Attributes:
        method: kinds of compression, and the schedule; what the page filters by.
        edits: the compressions with their settings.
        values: of the metric, one per seed.
        retention: mean share of the dense model's metric, as a fraction.
        tokens, train_seconds: of the training that made the compressed model, mean over seeds.
        circumstances: of the latency, where they were recorded.
        note: what it was cut or copied of, where a plan wrote it.
        commands: with the folder of each run.
    """

    name: str
    task: str
    method: str
    edits: str
    metric: str
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    is_dense: bool
    is_finished: bool
    retention: float | None
    num_params: float | None
    encoder_params: float | None
    macs: float | None
    latency_ms: float | None
    latency_shape: tuple[int, int] | None
    memory_bytes: float | None
    delta_bytes: float | None
    tokens: float | None
    train_seconds: float | None
    circumstances: Circumstances | None
    note: str
    commands: tuple[tuple[str, str | None], ...]
    versions: Mapping[str, str]

    @property
    def mean(self) -> float | None:
        """Of the metric over seeds."""
        return statistics.mean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the metric over seeds, where there are several."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def build_rows(folders: Sequence[Path], metric: str | None = None, dense: Sequence[Path] = ()) -> list[Row]:
    """The rows of these runs, by task and name.

    Args:
        metric: shown where it was measured, instead of the one that selects.
        dense: runs of dense models, which others of their task are compared to; else they are looked for.

    Raises:
        UserError, ModelError: a folder is no run, or a file of it is damaged.
    """
    root = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    readings = [reading for run in _with_evaluations(folders) for reading in _readings(run, metric)]
    groups: list[list[Reading]] = []
    for reading in readings:
        group = next((group for group in groups if _fits(group, reading, root)), None)
        if group is None:
            groups.append([reading])
        else:
            group.append(reading)
    named = {r.run.task: r for folder in dense for r in _readings(read_run(folder), metric) if r.value is not None}
    found = {task: [r.value] for task, r in named.items() if r.value is not None}
    for task in {group[0].run.task for group in groups} - set(found):
        own = [group for group in groups if group[0].run.task == task and _is_dense(group[0]) and group[0].value]
        found[task] = [r.value for r in own[0] if r.value is not None] if len(own) == 1 else []
    rows = [_row(group, root, found.get(group[0].run.task, []), set(named), metric) for group in groups]
    return sorted(rows, key=lambda row: (row.task, not row.is_dense, row.name))


def _with_evaluations(folders: Sequence[Path]) -> list[Run]:
    """The runs of these folders; one that only evaluates the model of another one of them is a part of that.

    It is the model that the evaluation names, or where that is not to be found, the one that it lies below.
    """
    runs = {folder.resolve(): read_run(folder) for folder in folders}
    parts: dict[Path, list[Path]] = {}
    for place, run in runs.items():
        if run.stages or run.origin is not None or not (run.folder / EVALUATION_FILE).is_file():
            continue
        named = run.find(run.evaluated) if run.evaluated else None
        owner = named.resolve() if named is not None else run_around(place, runs)
        if owner is not None and owner != place and owner in runs and _is_of_same_rows(run, runs[owner]):
            parts.setdefault(owner, []).append(run.folder)
    taken = {folder.resolve() for found in parts.values() for folder in found}
    return [read_run(run.folder, parts.get(place, ())) for place, run in runs.items() if place not in taken]


def _is_of_same_rows(evaluation: Run, run: Run) -> bool:
    """Whether a run's model was evaluated on the task, and at the length, that it was made for."""
    lengths = [one.arguments.get("max_seq_length") for one in (evaluation, run)]
    return evaluation.task in (run.task, "text") and (None in lengths or lengths[0] == lengths[1])


def _readings(run: Run, metric: str | None) -> Iterator[Reading]:
    """The models of a run; those at several ratios are compared to the one without plugins, if that is dense."""
    own = next((model for model in run.models if model.ratio == 1 and model.is_dense), None)
    for model in run.models:
        name = metric_of(run, model, metric)
        reference = own.metrics.get(name) if own is not None else None
        yield Reading(run, model, name, model.metrics.get(name), reference)


def _fits(group: Sequence[Reading], new: Reading, root: Path) -> bool:
    """Whether a reading belongs to a row: another seed of it, or the same model with other things measured."""
    first = group[0]
    if (first.run.task, first.model.ratio, _edits(first)) != (new.run.task, new.model.ratio, _edits(new)):
        return False
    free = _NOT_COMPARED | (_PLUGINS if new.model.ratio == 1 else set())
    if new.model.ratio == 1 and _adapts(new.run):
        free |= _ADAPTATION
    if script_of(first.run) != script_of(new.run) or not _are_alike(first.run, new.run, free):
        return False
    if not new.run.arguments and _evaluated(first.run, root) != _evaluated(new.run, root):
        return False
    same = [reading for reading in group if reading.run.seed == new.run.seed]
    return all(reading.value is None or new.value is None or reading.value == new.value for reading in same)


def _adapts(run: Run) -> bool:
    """Whether it trains plugins on a BERT that stays as it is."""
    return run.arguments.get("stage") == "adapt"


def _are_alike(one: Run, other: Run, free: set[str]) -> bool:
    """Equal arguments but for the seed and those that are free; one that only one of them knows is no difference."""
    shared = (one.arguments.keys() & other.arguments.keys()) - free
    return all(_are_equal(one, other, name) for name in shared)


def _are_equal(one: Run, other: Run, name: str) -> bool:
    """Whether an argument is the same, or a path that differs by each run's own seed."""
    values = [run.arguments[name] for run in (one, other)]
    if not all(isinstance(value, str) for value in values):
        return bool(values[0] == values[1])
    if name in _DATA:
        return len({os.path.basename(os.path.normpath(value)) for value in values}) == 1
    # Part by part: a folder above all runs may end in the seed of one of them.
    parts = [value.split("/") for value in values]
    return len(parts[0]) == len(parts[1]) and all(
        a == b or without_seed(a, one.seed) == without_seed(b, other.seed) for a, b in zip(*parts, strict=True)
    )


def _evaluated(run: Run, root: Path) -> tuple[str, str | None]:
    """What a folder without arguments is about: its place, that of `costs` beside `evaluation` being the same."""
    folder = run.folder.resolve()
    folder = folder.parent if folder.name in _EVALUATIONS else folder
    return without_seed(os.path.relpath(folder, root), run.seed), run.evaluated


# --- what the row says -----------------------------------------------------------------------------------------------


def _row(group: Sequence[Reading], root: Path, dense: Sequence[float], named: set[str], metric: str | None) -> Row:
    by_seed: dict[int | None, list[Reading]] = {}
    for reading in group:
        by_seed.setdefault(reading.run.seed, []).append(reading)
    values = {seed: r.value for seed, of in by_seed.items() for r in of if r.value is not None}
    costs = merged([reading.model for reading in group])
    trained = [_trained(reading) for reading in (of[0] for of in by_seed.values())]
    first = next((reading for reading in group if reading.run.folder.name != _COSTS), group[0])
    return Row(
        name=_name([r.run for r in group], root) + (f", {_setting(first)}" if first.model.ratio else ""),
        task=first.run.task,
        method=_method(first),
        edits=_edits(first),
        metric=first.metric,
        values=tuple(values.values()),
        seeds=tuple(seed for seed in values if seed is not None),
        is_dense=_is_dense(first),
        is_finished=all(bool(r.run.result) or r.value is not None for r in group),
        retention=_retention(group, dense, first.run.task in named, metric),
        num_params=costs.num_params,
        encoder_params=costs.encoder_params,
        macs=costs.macs,
        latency_ms=costs.latency_ms,
        latency_shape=costs.latency_shape,
        memory_bytes=costs.memory_bytes,
        delta_bytes=costs.delta_bytes,
        tokens=_mean([run.tokens for run in trained if run is not None]),
        train_seconds=_mean([run.train_seconds for run in trained if run is not None]),
        circumstances=costs.circumstances,
        note=first.run.origin or "",
        commands=tuple(dict.fromkeys(one for reading in group for one in commands_of(reading.run))),
        versions=_versions(first.run),
    )


def _name(runs: Sequence[Run], root: Path) -> str:
    """The folder below what all runs have in common; where the row's runs differ in it, a star."""
    kept = [run for run in runs if run.folder.name != _COSTS] or list(runs)
    paths = [Path(os.path.relpath(run.folder.resolve(), root)).parts for run in kept]
    if len({len(parts) for parts in paths}) > 1:
        return "/".join(paths[0])
    return "/".join(_star(parts) for parts in zip(*paths, strict=True))


def _star(parts: Sequence[str]) -> str:
    if len(set(parts)) == 1:
        return parts[0]
    head = _beginning(parts)
    tail = _beginning([part[len(head) :][::-1] for part in parts])[::-1]
    return f"{head}*{tail}"


def _beginning(parts: Sequence[str]) -> str:
    """What all of them begin with."""
    return "".join(letters[0] for letters in takewhile(lambda found: len(set(found)) == 1, zip(*parts, strict=False)))


def _setting(reading: Reading) -> str:
    return "dense" if _is_dense(reading) else f"k={reading.model.ratio}"


def _is_dense(reading: Reading) -> bool:
    """Whether nothing in the model is compressed, as far as the run says."""
    if reading.model.is_dense is not None:
        return reading.model.is_dense
    run = reading.run
    if run.edits is not None:
        return not run.edits
    return run.arguments.get("distil") == "no" or run.arguments.get("stage") == "finetune"


def _edits(reading: Reading) -> str:
    """The compressions in words."""
    run, ratio = reading.run, reading.model.ratio
    if ratio is not None:
        return " + ".join(_edits_at(run, ratio)) or "dense"
    if run.edits:
        return " + ".join(_edit(edit) for edit in run.edits)
    if _is_dense(reading):
        return "dense"
    if "distil" in run.arguments:
        return f"plugin k={_listed(run.arguments.get('mux_num'))}"
    return run.said or _UNKNOWN


def _edits_at(run: Run, ratio: int) -> Iterator[str]:
    """The compressions of a model whose plugins are used at a ratio; 1: not used."""
    for found in [_edit(edit) for edit in run.edits or ()] or (run.said or "plugin").split(" + "):
        if found.split(" ")[0] != "plugin":
            yield found
        elif ratio != 1:
            yield f"plugin k={ratio}"


def _edit(edit: Mapping[str, Any]) -> str:
    """One entry of `compression` in a config.json, with what tells it from others of its kind."""
    kind = str(edit.get("kind"))
    if kind == "plugin":
        return f"plugin k={_listed(edit.get('ratios'))}"
    if kind == "decomposition":
        ranks = [edit.get(name) for name in ("rank_layer", "rank_condim", "rank_dim")]
        return f"decomposition {edit.get('protocol', '')} {'-'.join(str(r) for r in ranks if r is not None)}"
    sparsity, layers = number(edit.get("sparsity")), edit.get("layers")
    if kind == "pruning" and sparsity is not None:
        return f"pruning {sparsity:.0%}"
    return f"layer_drop to {len(layers)}" if kind == "layer_drop" and isinstance(layers, list) else kind


def _listed(ratios: Any) -> str:
    return ",".join(map(str, ratios)) if isinstance(ratios, list) and ratios else "?"


def _method(reading: Reading) -> str:
    kinds = [edit.split(" ")[0] for edit in _edits(reading).split(" + ")]
    stage, mode = reading.run.arguments.get("stage"), reading.run.arguments.get("mode")
    schedule = [str(mode)] if stage == "schedule" and mode and kinds != [_UNKNOWN] else []
    return ", ".join([" + ".join(kinds), *schedule])


def _trained(reading: Reading) -> Run | None:
    """The run whose training made the model: at a ratio, that of the plugins, or of the model without them."""
    run, ratio = reading.run, reading.model.ratio
    if run.is_evaluation and not run.stages and run.evaluated and (folder := run.find(run.evaluated)) is not None:
        run = read_run(folder)
    if ratio is None or (_adapts(run) and ratio != 1):
        return run
    place = run.arguments.get("student_model" if _adapts(run) else "checkpoint" if ratio == 1 else "plugin_path")
    if not run.arguments and ratio != 1:
        place = run.evaluated
    folder = run.find(place) if isinstance(place, str) and place != "none" else None
    return read_run(folder) if folder is not None else None


def _retention(group: Sequence[Reading], dense: Sequence[float], is_named: bool, metric: str | None) -> float | None:
    """Mean over the runs of the metric over the dense model's: named, measured with it, its teacher's, or the one."""
    shares = []
    for reading in {r.run.seed: r for r in group if r.value is not None}.values():
        reference = statistics.mean(dense) if is_named and dense else reading.reference
        if reference is None:
            reference = _teacher_value(reading, metric)
        if reference is None and dense:
            reference = statistics.mean(dense)
        if reading.value is None or reference is None or reference < _SMALLEST:
            return None
        shares.append(reading.value / reference)
    return statistics.mean(shares) if shares else None


def _teacher_value(reading: Reading, metric: str | None) -> float | None:
    """The metric of the dense model that a run names as its source, or that its source names."""
    run = reading.run
    for _ in range(_LONGEST_CHAIN):
        if run.arguments.get("stage") == "finetune" or (
            run.arguments.get("distil") == "no" and run.result.get("steps")
        ):
            break
        places = [*(run.arguments.get(name) for name in _SOURCES), None if run.arguments else run.evaluated]
        folder = next((run.find(place) for place in places if isinstance(place, str)), None)
        if folder is None or folder.resolve() == run.folder.resolve():
            break
        run = read_run(folder)
    found = next(_readings(run, metric), None)
    if found is None or not _is_dense(found) or found.metric != reading.metric or run.task != reading.run.task:
        return None
    return found.value


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _versions(run: Run) -> dict[str, str]:
    """Of what the result depends on."""
    libraries = run.record.get("versions", {})
    found = {name: run.record.get(name) for name in ("python", "machine", "started")}
    found |= dict(libraries) if isinstance(libraries, Mapping) else {}
    return {str(name): str(value) for name, value in found.items() if value is not None}
