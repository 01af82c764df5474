"""The flags of the teacher-assistant schedules; names and meaning of the original's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dataset.tasks import Task
from notation import (
    UNITS,
    Axis,
    ModelType,
    NotationError,
    Step,
    get_model_type,
    parse_grid,
    parse_paths,
    parse_step,
)
from utils.arguments import flag
from utils.errors import UserError
from utils.opening.places import model_directory
from utils.tucker.arguments import DecompositionArguments

#: Modes of `task_distill.py` that belong to schedules whatever else is given; `distill` does with --layer_or_sparsity.
SCHEDULE_MODES = ("sparsify", "maxidisc", "minidisc")
#: The original's sparsities, in percent.
_GRID = "10,20,30,40,50,60,70,80,85,90,95"
_TARGETS = ("target", "trunc")
#: The originals' names of metrics.
_METRICS = {
    **{"acc": "accuracy", "mcc": "matthews", "matthews_corrcoef": "matthews", "corr": "pearson_spearman"},
    **{"pearson_corr": "pearson", "spearman_corr": "spearman", "pearson_and_spearman": "pearson_spearman"},
}


@dataclass
class ScheduleArguments:
    """Teacher assistants (MiniDisc): pruned or layer-dropped students, distilled at once or over assistants."""

    _argument_group_name = "teacher assistants"

    model_type: str | None = flag(
        None,
        "What is trained and compared: ftbert, kdbert, pkdbert, sparsebert, ftenct5 or sparseenct5, with _cls or _ner "
        "behind it (default: ftbert for --mode finetune, sparsebert for schedules).",
    )
    data_type: str | None = flag(
        None, "The original's name of how rows are encoded, which the task decides: bert_cls, enct5_ner, … (checked)."
    )
    axis: Axis | None = flag(
        None,
        "What --mode minidisc scales: sparsity (default), rank (components of a decomposed student), layers or ratio "
        "(of plugins). In the other modes the letter of a scale says it.",
    )
    layer_or_sparsity: str | None = flag(
        None,
        "The student of --mode distill, and of --mode sparsify: 90S (90 % pruned), 4L (its first 4 layers), 60R "
        "(decomposed, without 60 % of each rank) or 4K (plugins of ratio 4); in distill also the folder of a model.",
    )
    layer_or_sparsity_path: str | None = flag(
        None,
        "Assistants and student of --mode maxidisc: 80,90S, 6,4L, 30,60R or 2,4K; several paths, separated by ;, are "
        "compared.",
    )
    target: str | None = flag(None, "The student of --mode minidisc with another --axis than sparsity: 60R, 4L or 4K.")
    trunc: str | None = flag(None, "Larger assistants than this are not tried there (default: all of --grid are).")
    target_sparsity: float = flag(90.0, "The student of --mode minidisc, in percent.", least=0, below=100)
    target_iteration: int = flag(2, "Distillations of --mode minidisc: all but the last choose an assistant.", least=1)
    lam: float = flag(0.2, "Weight of an assistant's sparsity (0 to 1) against its metric, when it is chosen.", least=0)
    trunc_sparsity: float = flag(50.0, "Assistants below this sparsity, in percent, are not tried.", least=0, below=100)
    grid: str = flag(
        _GRID,
        "Scales that are tried: sparsities or removed ranks in percent, numbers of layers (default: all), or ratios.",
    )
    selection_metric: str | None = flag(None, "Metric that selects models and assistants (default: the task's).")
    patience_epochs: int = flag(0, "Stop a distillation after this many epochs without a gain; 0 never does.", least=0)
    num_relation_heads: int | None = flag(
        None,
        "Add MiniLM's loss: relations of the last layers' queries, keys and values, split into this many heads.",
        least=1,
    )
    round_to: int = flag(
        8, "Kept neurons are a multiple of this away from all of them; fewer than this are none.", least=1
    )


def asks_for_schedule(mode: str | None, flags: ScheduleArguments) -> bool:
    """Whether a call of `task_distill.py` is one of these."""
    return mode in SCHEDULE_MODES or (mode == "distill" and flags.layer_or_sparsity is not None)


def schedule_problems(mode: str, flags: ScheduleArguments) -> list[str]:
    """What is missing or cannot be in a call of one of these modes; all of it is told at once.

    Raises:
        UserError: a scale, path or model type is not one.
    """
    problems = []
    if mode == "maxidisc" and flags.layer_or_sparsity_path is None:
        problems.append("--mode maxidisc needs --layer_or_sparsity_path, such as 80,90S")
    for name, modes in (("layer_or_sparsity", ("distill", "sparsify")), ("layer_or_sparsity_path", ("maxidisc",))):
        if getattr(flags, name) is not None and mode not in modes:
            problems.append(f"--{name} belongs to --mode {' and '.join(modes)}, found --mode {mode}")
    if flags.axis == "ratio" and flags.grid == _GRID and not steps_of(flags, mode):
        problems.append(f"--mode {mode} --axis ratio needs --grid, such as 2,4")
    if mode == "minidisc":
        problems += _minidisc_problems(flags)
    else:
        problems += [f"--{name} belongs to --mode minidisc, found --mode {mode}" for name in _given(flags, _TARGETS)]
    if flags.model_type is not None:
        known_type(flags.model_type, "cls")
    if not problems:
        axes_of(flags, mode)
    return problems


def decomposition_problems(mode: str, flags: ScheduleArguments, ranks: DecompositionArguments) -> list[str]:
    """What of a decomposition was given to a schedule that has none, or cannot begin with it.

    Raises:
        UserError: a scale or path is not one.
    """
    if "rank" not in axes_of(flags, mode):
        if ranks != DecompositionArguments():
            return ["--use_swap and its ranks belong to decomposed students, not to teacher assistants"]
        return []
    names = ("embedding_type", "embedding_order", "embedding_rank", "from_scratch")
    told = "a schedule over ranks decomposes the teacher's matrices, whose components it sorts"
    return [f"--{name} has no place here: {told}" for name in names if getattr(ranks, name) not in (None, False)]


def unused_in(mode: str, flags: ScheduleArguments) -> list[str]:
    """Flags of schedules that were given to another mode, where they have no effect."""
    problems = []
    for name in ("layer_or_sparsity", "layer_or_sparsity_path", "num_relation_heads"):
        if getattr(flags, name) is not None:
            problems.append(f"--{name} belongs to --mode distill, sparsify or maxidisc, found --mode {mode}")
    for name in _given(flags, ("axis", *_TARGETS)):
        problems.append(f"--{name} belongs to --mode minidisc, found --mode {mode}")
    if flags.model_type is None or mode in ("evaluate", "predict"):
        return problems  # the model says what it is
    if mode == "distill":
        problems.append("--mode distill with --model_type needs --layer_or_sparsity, such as 90S or 4L")
    elif known_type(flags.model_type, "cls").needs_teacher:
        problems.append(
            f"--mode finetune learns from labels, found --model_type {flags.model_type}: take ftbert or ftenct5"
        )
    return problems


def _given(flags: ScheduleArguments, names: Sequence[str]) -> list[str]:
    """Those of the flags that do not have their default value."""
    return [name for name in names if getattr(flags, name) != getattr(ScheduleArguments(), name)]


def _minidisc_problems(flags: ScheduleArguments) -> list[str]:
    axis = flags.axis or "sparsity"
    if axis == "sparsity":
        problems = [f"--{name} is for another --axis: give --{name}_sparsity" for name in _given(flags, _TARGETS)]
    else:
        wrong = _given(flags, ("target_sparsity", "trunc_sparsity"))
        problems = [f"--{name} is for --axis sparsity: give --{name.split('_')[0]}" for name in wrong]
        if flags.target is None:
            problems.append(f"--mode minidisc --axis {axis} needs --target, {UNITS[axis].example}")
    if problems:
        return problems
    target, grid, trunc = target_of(flags), grid_of(flags, axis), trunc_of(flags)
    names = ("target_sparsity", "trunc_sparsity") if axis == "sparsity" else ("target", "trunc")
    if grid is not None and not any(step.is_near(target) for step in grid):
        known = ", ".join(map(_shown, sorted(grid)))
        problems.append(f"--{names[0]} {_shown(target)} is not in --grid {known}")
    if flags.target_iteration > 1 and trunc is not None and trunc.is_smaller_than(target):
        problems.append(
            f"--{names[1]} {_shown(trunc)} leaves no assistant before --{names[0]} {_shown(target)}: it must not be "
            f"{'below' if axis == 'layers' else 'above'}"
        )
    return problems


def _shown(step: Step) -> str:
    """A scale as its flag has it: sparsities, which have flags of their own, without the letter."""
    return step.text.removesuffix("S")


def target_of(flags: ScheduleArguments) -> Step:
    """The student of `minidisc`.

    Raises:
        UserError: it is no scale of the axis.
    """
    if flags.axis in (None, "sparsity") or flags.target is None:
        return Step("sparsity", flags.target_sparsity / 100)
    return _scale_of(flags.target, flags.axis, "--target")


def trunc_of(flags: ScheduleArguments) -> Step | None:
    """The largest assistant of `minidisc`; None for any.

    Raises:
        UserError: it is no scale of the axis.
    """
    if flags.axis in (None, "sparsity"):
        return Step("sparsity", flags.trunc_sparsity / 100)
    return None if flags.trunc is None else _scale_of(flags.trunc, flags.axis, "--trunc")


def _scale_of(text: str, axis: Axis | None, flag_name: str) -> Step:
    assert axis is not None
    with naming(flag_name):
        return parse_grid(text, axis)[-1]


def grid_of(flags: ScheduleArguments, axis: Axis) -> tuple[Step, ...] | None:
    """The scales that are tried; None for all depths of a model, where the default (percentages) says nothing.

    Raises:
        UserError: one is no scale of the axis.
    """
    if flags.grid == _GRID and not UNITS[axis].is_percent:
        return None
    with naming("--grid"):
        return parse_grid(flags.grid, axis)


def type_of(flags: ScheduleArguments, task: Task) -> ModelType:
    """The model type: the one given, which has to suit the task, or sparsebert.

    Raises:
        UserError: it does not exist, or is for tasks of the other kind.
    """
    suffix = "ner" if task.kind == "token_classification" else "cls"
    name = flags.model_type or "sparsebert"
    found = known_type(name, suffix)
    if (found.level == "token") != (suffix == "ner"):
        raise UserError(f"--model_type {name} is not for {task.name}: expected one that ends in _{suffix}.")
    return found


def known_type(name: str, suffix: str) -> ModelType:
    """The model type of that name; one without _cls or _ner gets `suffix`.

    Raises:
        UserError: there is none.
    """
    with naming("--model_type"):
        return get_model_type(name if "_" in name else f"{name}_{suffix}")


def selection_of(flags: ScheduleArguments, task: Task) -> str:
    """The metric that selects.

    Raises:
        UserError: the task does not have it.
    """
    if flags.selection_metric is None:
        return task.selection_metric
    known = dict.fromkeys([task.selection_metric, *task.metrics])
    if {"accuracy", "f1"} <= known.keys():
        known["acc_and_f1"] = None
    name = _METRICS.get(flags.selection_metric, flags.selection_metric)
    if name not in known:
        raise UserError(
            f"--selection_metric {flags.selection_metric}: {task.name} does not have it, but {', '.join(known)}."
        )
    return name


def steps_of(flags: ScheduleArguments, mode: str) -> list[tuple[Step, ...]]:
    """The paths of a call: one of one step for `distill` and `sparsify`, those given for `maxidisc`, else none.

    Raises:
        UserError: one is no path.
    """
    with naming("--layer_or_sparsity_path" if mode == "maxidisc" else "--layer_or_sparsity"):
        if mode == "maxidisc" and flags.layer_or_sparsity_path is not None:
            return list(parse_paths(flags.layer_or_sparsity_path))
        if mode in ("distill", "sparsify") and flags.layer_or_sparsity is not None and not student_folder(flags, mode):
            return [(parse_step(flags.layer_or_sparsity),)]
    return []


def student_folder(flags: ScheduleArguments, mode: str) -> str | None:
    """The model that `--mode distill --layer_or_sparsity FOLDER` takes as student; None where that is a scale.

    Raises:
        UserError: it is a path, but not of a model.
    """
    given = flags.layer_or_sparsity
    if mode != "distill" or given is None or not ("/" in given or os.path.isdir(given)):
        return None
    if os.path.isdir(given) and (Path(model_directory(given)) / "config.json").is_file():
        return given
    raise UserError(
        f"--layer_or_sparsity {given}: there is no model in this folder (no config.json); expected one that has "
        "its weights, or a scale such as 90S or 4L."
    )


def data_type_problems(flags: ScheduleArguments, task: Task) -> list[str]:
    """What is wrong with the original's `--data_type`: it must go with the task and the model type."""
    if flags.data_type is None:
        return []
    suffix = "ner" if task.kind == "token_classification" else "cls"
    families = ["bert", "enct5"] if flags.model_type is None else [known_type(flags.model_type, suffix).family]
    fitting = [f"{family}_{suffix}" for family in families]
    if flags.data_type in fitting:
        return []
    of = "" if flags.model_type is None else f" of --model_type {flags.model_type}"
    return [f"--data_type {flags.data_type} does not fit {task.name}{of}: expected {' or '.join(fitting)}"]


def axes_of(flags: ScheduleArguments, mode: str) -> tuple[Axis, ...]:
    """What a call scales: in `minidisc` (and in `sparsify` without a scale) --axis, else what the letters say.

    Raises:
        UserError: a scale or path is not one, or of another axis than --axis.
    """
    steps = [step for path in steps_of(flags, mode) for step in path]
    if not steps:
        return (flags.axis or "sparsity",)
    if flags.axis is not None and (other := [step for step in steps if step.axis != flags.axis]):
        raise UserError(
            f"--axis {flags.axis}: {other[0].text} is none of its scales: expected {UNITS[flags.axis].example}."
        )
    return tuple(dict.fromkeys(step.axis for step in steps))


@contextmanager
def naming(flag_name: str) -> Iterator[None]:
    """Puts the flag in front of what is said of its value."""
    try:
        yield
    except (NotationError, UserError) as error:
        raise UserError(f"{flag_name}: {error}") from None


def path_name(steps: Sequence[Step]) -> str:
    """`80S-90S`: the folder of what a path's last step made."""
    return "-".join(step.text for step in steps)
