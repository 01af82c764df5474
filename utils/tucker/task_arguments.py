"""The flags of `task_distill.py` beyond the shared ones; names and meaning of the original's, defaults by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from utils.arguments import (
    HIDDEN,
    MODEL,
    EvaluationArguments,
    OptimisationArguments,
    Reading,
    RunArguments,
    as_json,
    flag,
    for_training_only,
    out_of_range,
    parse,
)
from utils.errors import UserError
from utils.minidisc.arguments import (
    SCHEDULE_MODES,
    ScheduleArguments,
    asks_for_schedule,
    data_type_problems,
    decomposition_problems,
    schedule_problems,
    selection_of,
    type_of,
    unused_in,
)
from utils.tucker.adaptation_arguments import AdaptationArguments, adaptation_problems
from utils.tucker.arguments import (
    IGNORED,
    TEXTS,
    BertArguments,
    DecompositionArguments,
    in_our_words,
    range_problems,
    unused_problems,
)
from utils.tucker.defaults import Stage, defaults_table, stage_defaults, what_is_trained
from utils.tucker.tasks import name_of_task, task_for

_TEXTS = {**TEXTS, "valid_batches": HIDDEN}
_IGNORED = {
    **IGNORED,
    "do_test": "the labels of GLUE's test sets are not public: --do_predict writes the predictions",
    "model_suffix": "--output_dir is the run's whole name",
    "use_slow_tokenizer": "both kinds of tokenizers give the same tokens",
    "template": "encoders have no prompts",
    "verbalizer": "encoders have no prompts",
}


@dataclass
class TaskArguments:
    """What to do, with which models and data."""

    _argument_group_name = "task"

    data_dir: str | None = flag(
        None,
        "Folder of the task: GLUE's TSV files or a saved datasets folder; or hub, hub@REVISION.",
        reads=Reading(words=("hub",)),
    )
    task_name: str | None = flag(
        None,
        "One of GLUE's nine tasks (mnli is evaluated and predicted on both its sets), conll or wnut17.",
        convert=name_of_task,
    )
    teacher_model: str | None = flag(
        None,
        "The fine-tuned teacher: a hub id, a directory or a run's; with --mode finetune, what is fine-tuned.",
        reads=MODEL,
    )
    student_model: str | None = flag(
        None, "The student; with --mode evaluate and predict, the model itself.", reads=MODEL
    )
    mode: Literal["finetune", "distill", "sparsify", "maxidisc", "minidisc", "adapt", "evaluate", "predict"] | None = (
        flag(
            None,
            "What to do. Default: distill; with --do_eval or --do_predict and no stage, these alone (as originally). "
            "distill with --layer_or_sparsity, and sparsify, maxidisc and minidisc have flags of their own below; "
            "adapt trains plugins on a student, which stays as it is.",
        )
    )
    stage: Literal["intermediate", "prediction", "both"] | None = flag(
        None,
        "Of the distillation: intermediate layers (default), predictions (--pred_distill is the same), or both, one "
        "after the other, in folders of these names in --output_dir.",
    )
    pred_distill: bool = flag(False, "Short for --stage prediction.")
    do_train: bool = flag(False, "Train, also where --do_eval or --do_predict is given without --mode and --stage.")
    do_eval: bool = flag(False, "Evaluate; after training, the best model of it.")
    do_predict: bool = flag(
        False, "Write the predictions of the test set, and the submission once all tasks are there."
    )
    predictions_dir: Path | None = flag(None, "Where predictions go (default: --output_dir/predictions).")
    aug_train: bool = flag(
        False, "Train on the train_aug.tsv that python -m utils.data_augmentation made in the task's folder."
    )
    temperature: float = flag(1.0, "Divides teacher's and student's scores in --stage prediction.", above=0)
    costs: bool = flag(True, "Measure parameters, MACs and latency in evaluation (--no_costs: metrics only).")


class TaskCommand(NamedTuple):
    """The parsed command line of one stage."""

    task: TaskArguments
    bert: BertArguments
    decomposition: DecompositionArguments
    optimisation: OptimisationArguments
    evaluation: EvaluationArguments
    run: RunArguments
    schedule: ScheduleArguments = ScheduleArguments()  # never written to
    adaptation: AdaptationArguments = AdaptationArguments()


class Plan(NamedTuple):
    """What one call does: the stages it trains, or a schedule, then evaluation, then prediction.

    Attributes:
        output: where evaluation and predictions go.
        schedule: its mode.
    """

    stages: tuple[Stage, ...]
    evaluate: bool
    predict: bool
    output: Path
    schedule: str | None = None


def parse_task_arguments(arguments: Sequence[str] | None = None) -> tuple[Plan, list[TaskCommand]]:
    """Parse and check; all problems are told at once.

    Returns:
        The plan, and a command for each of its stages, with that stage's defaults (one, if it trains nothing).

    Raises:
        UserError, DataError: with every problem found.
    """
    given = in_our_words(arguments)
    first = _parse_stage(given, None)
    plan = plan_of(first.task, first.run.output_path or Path(), first.schedule)
    _check(first, plan)
    commands = [first, *(_parse_stage(given, stage) for stage in plan.stages[1:])]
    if len(plan.stages) > 1:
        commands = [_in_folder(command, stage) for command, stage in zip(commands, plan.stages, strict=True)]
    return plan, commands


def plan_of(task: TaskArguments, output: Path, schedule: ScheduleArguments | None = None) -> Plan:
    """What the flags ask for.

    Raises:
        UserError: they contradict each other.
    """
    named = task.stage or ("prediction" if task.pred_distill else None)
    if task.pred_distill and task.stage not in (None, "prediction"):
        raise UserError(f"--pred_distill and --stage {task.stage} contradict each other: give one of them.")
    trains = bool(named) or task.do_train or not (task.do_eval or task.do_predict)
    mode = task.mode or ("distill" if trains else "evaluate")
    if task.do_train and mode in ("evaluate", "predict"):
        raise UserError(f"--do_train and --mode {mode} contradict each other: give one of them.")
    if schedule is not None and asks_for_schedule(mode, schedule):
        if named:
            raise UserError("--stage and --pred_distill belong to decomposed students, not to --layer_or_sparsity.")
        return Plan((), task.do_eval, task.do_predict, output, mode)
    if mode != "distill" and named:
        raise UserError(f"--stage and --pred_distill belong to --mode distill, found --mode {mode}.")
    if mode == "finetune" or mode == "adapt":
        return Plan((mode,), task.do_eval, task.do_predict, output)
    if mode == "distill":
        both: tuple[Stage, ...] = ("intermediate", "prediction")
        stages = both if named == "both" else (both[named == "prediction"],)
        return Plan(stages, task.do_eval, task.do_predict, output)
    evaluates = task.mode == "evaluate" or task.do_eval
    return Plan((), evaluates, mode == "predict" or task.do_predict, output)


def recorded_arguments(command: TaskCommand, stage: Stage) -> dict[str, Any]:
    """What a run directory records and compares on --resume: without what does not change the stage's training."""
    alike: dict[str, Any] = {
        "mode": None,
        "stage": stage,
        "pred_distill": False,
        "do_train": False,
        "data_type": None,
        "do_eval": False,
        "do_predict": False,
        "predictions_dir": None,
        "costs": True,
    }
    merged = as_json(*command)
    return {**merged, **{name: value for name, value in alike.items() if name in merged}}


def evaluation_arguments(command: TaskCommand) -> dict[str, Any]:
    """What the folder of an evaluation or prediction records: all that has a part in it."""
    return as_json(command.task, command.bert, command.decomposition, command.run)


def _first_stage(given: Mapping[str, Any]) -> Stage:
    """The stage whose defaults the command line gets, by the flags that are given."""
    mode: str | None = given.get("mode")
    if mode in ("finetune", "adapt"):
        return "finetune" if mode == "finetune" else "adapt"
    if mode in SCHEDULE_MODES or "layer_or_sparsity" in given:
        return "schedule"
    return "prediction" if given.get("stage") == "prediction" or given.get("pred_distill") else "intermediate"


def _parse_stage(arguments: Sequence[str], stage: Stage | None) -> TaskCommand:
    """The command line with the defaults of a stage; without one, of the first that it asks for."""

    def defaults(given: Mapping[str, Any]) -> Mapping[str, Any]:
        name, optimizer = given.get("task_name", ""), given.get("optimizer", "adamw")
        return stage_defaults(name, stage or _first_stage(given), optimizer, what_is_trained(given))

    types = [TaskArguments, BertArguments, DecompositionArguments, OptimisationArguments, EvaluationArguments]
    parsed = parse(
        [*types, RunArguments, ScheduleArguments, AdaptationArguments],
        "Fine-tune, distil, prune, add plugins, evaluate and predict: BERT (or EncT5) on GLUE and on named entities.",
        arguments,
        ignored=_IGNORED,
        warn=stage is None,
        defaults=defaults,
        epilog=defaults_table(),
        texts=_TEXTS,
    )
    return TaskCommand(*parsed)


def _check(command: TaskCommand, plan: Plan) -> None:
    task, run = command.task, command.run
    problems = [f"--{name} is required" for name in ("data_dir", "task_name") if getattr(task, name) is None]
    if run.output_path is None:
        problems.append("--output_dir is required")
    if plan.stages == ("finetune",):
        if (task.teacher_model is None) == (task.student_model is None):
            problems.append("--mode finetune trains one model: give --teacher_model or --student_model")
    elif plan.schedule is not None:
        problems += schedule_problems(plan.schedule, command.schedule)
        if task.teacher_model is None or task.student_model is not None:
            problems.append(
                f"--mode {plan.schedule} makes its students of the fine-tuned teacher: give --teacher_model alone"
            )
        problems += decomposition_problems(plan.schedule, command.schedule, command.decomposition)
    elif task.student_model is None:
        problems.append("--student_model is required")
    if plan.stages == ("adapt",) and task.teacher_model is not None:
        problems.append("--mode adapt has no --teacher_model: plugins learn from their --student_model without them")
    if task.teacher_model is None and plan.stages and plan.stages[0] not in ("finetune", "adapt"):
        problems.append("--teacher_model is required: the fine-tuned model that the student learns from")
    if task.aug_train and not plan.stages and plan.schedule in (None, "sparsify"):
        problems.append("--aug_train is for training: evaluation, prediction and --mode sparsify read other files")
    if plan.stages == ("intermediate",) and (plan.evaluate or plan.predict):
        problems.append(
            "--do_eval and --do_predict need a classifier, which --stage intermediate does not train: "
            "go on with --pred_distill, or use --stage both"
        )
    problems += out_of_range(command) + range_problems(command.optimisation)
    problems += unused_problems(run, command.evaluation)
    if not plan.stages and plan.schedule in (None, "sparsify"):
        problems += for_training_only(run, f"--mode {plan.schedule or _mode_of(plan)}")
    if command.schedule.patience_epochs and command.evaluation.patience:
        problems.append("--patience counts evaluations and --patience_epochs epochs: give one of them")
    problems += adaptation_problems(command.adaptation, plan.stages == ("adapt",))
    if plan.schedule is None:
        problems += unused_in(_mode_of(plan), command.schedule)
    if task.task_name is not None:
        problems += data_type_problems(command.schedule, task_for(task.task_name))
    if problems:
        raise UserError("; ".join(problems) + ".")
    assert task.task_name is not None
    if command.schedule.model_type is not None:  # the default suits every task, and looking it up loads the libraries
        type_of(command.schedule, task_for(task.task_name))
    selection_of(command.schedule, task_for(task.task_name))


def _mode_of(plan: Plan) -> str:
    """The mode of a plan without a schedule."""
    if plan.stages:
        return "finetune" if plan.stages == ("finetune",) else "distill"
    return "evaluate" if plan.evaluate else "predict"


def _in_folder(command: TaskCommand, stage: Stage) -> TaskCommand:
    """The command of one stage of `--stage both`: its own folder, the second one's student is the first one's best."""
    output = command.run.output_path
    assert output is not None
    command = command._replace(run=replace(command.run, output_path=output / stage))
    if stage == "intermediate":
        return command
    student = str(output / "intermediate" / "best")
    return command._replace(task=replace(command.task, student_model=student), decomposition=DecompositionArguments())
