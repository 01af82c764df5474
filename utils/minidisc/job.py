"""What the modes sparsify, distill (with a scale), maxidisc and minidisc of `task_distill.py` do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from dataset import BucketedBatches, Task
from metric.cost import parameter_counts
from model.attention_scores import Batch
from model.distillation import classify
from model.losses import task_loss
from model.pruning import Importance, measure_importance
from model.schedule import Choice, Sandwich
from model.variants import VariantDistillation
from notation import SCALE_TOLERANCE, Axis, Step
from utils.engine import RunDirectory, Runtime, TrainerConfig
from utils.engine.data_record import DATA_FILE, fingerprints_of
from utils.heartbeat import tracked
from utils.minidisc.arguments import (
    ScheduleArguments,
    axes_of,
    grid_of,
    naming,
    path_name,
    selection_of,
    steps_of,
    student_folder,
    target_of,
    trunc_of,
    type_of,
)
from utils.minidisc.axes import AxisKind, kinds_for
from utils.minidisc.record import Record, read_choice, write_choice
from utils.minidisc.stages import Stages
from utils.opening.tokenizers import check_fits, check_one_vocabulary, open_tokenizer
from utils.tucker.data import training_batches, validation_sets
from utils.tucker.evaluation import evaluator_for
from utils.tucker.loading import check_length, load_classifier
from utils.tucker.report import encoder_params
from utils.tucker.settings import bert_trainer_config
from utils.tucker.training import Fit, fit, with_patience
from utils.writing import atomic_directory

#: Folder of the stage that trains a student which is given.
_GIVEN = "student"


class Model(NamedTuple):
    """A model that a stage made, and the share of what is scaled that it lacks.

    Attributes:
        teacher: what teaches in its place: the fine-tuned model, where a base of students is no match for it.
    """

    folder: Path
    scale: float
    teacher: Path | None = None

    @property
    def teacher_folder(self) -> Path:
        """Of the model that teaches its students."""
        return self.teacher or self.folder


class ScheduleJob:
    """A call of `task_distill.py` in one of these modes.

    Args:
        command: the parsed flags (`utils.tucker.task_arguments.TaskCommand`).
        request: where the task's rows are, and how long.
    """

    def __init__(self, command: Any, runtime: Runtime, stages: Stages, task: Task, request: Any) -> None:
        self.command, self.runtime, self.stages, self.task, self.request = command, runtime, stages, task, request
        self.flags: ScheduleArguments = command.schedule
        self.type = type_of(self.flags, task)
        self.selection = selection_of(self.flags, task)
        self.teacher_source: str = command.task.teacher_model
        self.tokenizer = open_tokenizer(self.teacher_source, command.bert.do_lower_case)
        self.sets = validation_sets(request, self.tokenizer, runtime)
        self.kinds: dict[Axis, AxisKind] = {}
        self.mode = ""
        self.record = Record(self.flags, self.selection)

    def check(self, mode: str) -> None:
        """Refuse a teacher that the schedule cannot begin from, before anything is written.

        Raises:
            UserError, ModelError: with what the teacher is.
        """
        with naming("--teacher_model"):
            teacher = load_classifier(self.teacher_source, self.task, trained=True)
        check_fits(self.tokenizer, teacher, self.teacher_source)
        check_length(teacher, self.request.max_length)
        if (folder := student_folder(self.flags, mode)) is not None:
            check_one_vocabulary(self.teacher_source, folder)
            return  # nothing is made of the teacher
        self.kinds = kinds_for(axes_of(self.flags, mode), self.command, self.task, teacher)
        for axis, kind in self.kinds.items():
            kind.check(teacher, f"--teacher_model {self.teacher_source}", self.asked(axis, mode))

    def asked(self, axis: Axis, mode: str) -> list[Step]:
        """All scales of an axis that a call names."""
        steps = [step for path in steps_of(self.flags, mode) for step in path if step.axis == axis]
        if not steps:
            # Sparsities below that of a pruned teacher are left out of the grid; all others have to be possible.
            grid = () if axis == "sparsity" else grid_of(self.flags, axis) or ()
            return [*grid, *([target_of(self.flags)] if mode == "minidisc" else [])]
        return steps

    def run(self, mode: str) -> dict[str, Any]:
        """Do everything that is not done yet; the best model ends in `best/`.

        Returns:
            What result.json of the schedule holds.
        """
        self.mode = mode
        if mode == "sparsify":
            steps = steps_of(self.flags, mode)
            made = self.base(axes_of(self.flags, mode)[0]) if not steps else self.cut(steps[0][0])
            return self.finish(mode, made.folder, self.evaluate(made.folder))
        if mode == "minidisc":
            return self.minidisc(self.flags.axis or "sparsity")
        if (folder := student_folder(self.flags, mode)) is not None:
            return self.distil_into(folder)
        return self.along_paths(mode)

    # --- what the modes are made of ---------------------------------------------------------------------------------

    def base(self, axis: Axis) -> Model:
        """What all students of an axis are parts of, such as the teacher with its heads and neurons sorted; made at
        the first call."""
        kind, source = self.kinds[axis], Path(self.teacher_source)
        given = kind.given(load_classifier(self.teacher_source, self.task, trained=True))
        if given is not None:
            return Model(source, given)
        assert kind.stage is not None
        folder = self.stages.path / kind.stage

        def work(directory: RunDirectory) -> dict[str, Any]:
            made = kind.base(self.teacher_source, self)
            self.save(directory, made)
            kind.settle(made)
            scales = sorted(step.gone(kind.num_layers) for step in grid_of(self.flags, axis) or ())
            sizes = {f"{kind.number(s):g}": parameter_counts(kind.student(made, (s,))).total for s in scales}
            self.say(f"parameters by {axis}: " + ", ".join(f"{s}{kind.mark}: {n:,}" for s, n in sizes.items()))
            return {"mode": "sparsify", "num_params": sizes}

        self.stages.do(kind.stage, kind.told, {"teacher": self.teacher_source}, work)
        kind.settle(load_classifier(str(folder / "best"), self.task, trained=True))
        return Model(folder / "best", 0.0, None if kind.base_teaches else source)

    def ratios(self) -> list[int]:
        """All plugin ratios that the call names."""
        return [int(step.scale) for step in self.asked("ratio", self.mode)]

    def say(self, text: str) -> None:
        """One line, from the main process."""
        self.stages.say(text)

    def importance(self, teacher: Any) -> Importance:
        """That of a teacher's heads and neurons on the development set."""
        teacher.to(self.runtime.device)
        rows = self.sets[0].source.for_one_process()  # every process measures the same
        bar = tracked(rows.batches(0), "importance", rows.batches_per_epoch, not self.runtime.is_main)
        return measure_importance(teacher, (self.runtime.to_device(batch) for batch in bar), _task_loss)

    def cut(self, step: Step) -> Model:
        """The student of a step before it learns, as a stage of its own."""
        start, name = self.base(step.axis), f"{step.text}-undistilled"

        def work(directory: RunDirectory) -> dict[str, Any]:
            self.save(directory, self.student(start, step))
            return {"mode": "sparsify", "scale": step.text}

        self.stages.do(name, f"{step.text} without distillation", {"start": str(start.folder)}, work)
        return Model(self.stages.path / name / "best", self.gone(step))

    def gone(self, step: Step) -> float:
        """The fraction that a step's student lacks."""
        return step.gone(self.kinds[step.axis].num_layers)

    def student(self, start: Model, step: Step) -> Any:
        """The model of a step before it learns."""
        model = load_classifier(str(start.folder), self.task, trained=True)
        return self.kinds[step.axis].cut(model, self.gone(step))

    def along_paths(self, mode: str) -> dict[str, Any]:
        """Distil along each path; each assistant is the next one's teacher, and what paths share is done once."""
        found: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for steps in steps_of(self.flags, mode):
            source = self.base(steps[0].axis)
            parts = [steps[:count] for count in range(1, len(steps) + 1)]
            for part in parts:
                source = self.distil_to(part, source)
            found[path_name(steps)] = self.value(path_name(steps))
            seconds[path_name(steps)] = sum(self.value(path_name(part), "train_seconds") for part in parts)
        best = max(found, key=lambda name: found[name])
        if len(found) > 1:
            self.say("paths: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        self.record.paths(found, seconds, best)
        return self.finish(mode, self.stages.path / best / "best", {self.selection: found[best]})

    def distil_into(self, folder: str) -> dict[str, Any]:
        """One distillation into a model that is given, which may lack a classifier."""

        def work(directory: RunDirectory) -> dict[str, Any]:
            student = load_classifier(folder, self.task, trained=False)
            check_fits(self.tokenizer, student, self.teacher_source)
            check_length(student, self.request.max_length)
            return self.fit_student(directory, Model(Path(self.teacher_source), 0.0), student)

        settings = {"teacher": self.teacher_source, "student": folder}
        self.stages.do(_GIVEN, f"distillation into {folder}", settings, work)
        return self.finish("distill", self.stages.path / _GIVEN / "best", {self.selection: self.value(_GIVEN)})

    def fit_student(self, directory: RunDirectory, source: Model, student: Any) -> dict[str, Any]:
        """Train one student of one teacher."""
        objective = self.objective(source, student)
        evaluate = evaluator_for(self.task)(self.runtime, student, self.sets, self.selection)
        return self.fit(directory, Fit(objective, student, self.tokenizer, self.batches(), evaluate, self.selection))

    def distil_to(self, steps: Sequence[Step], source: Model) -> Model:
        """One distillation: `source` teaches the model of the last step, which begins as a part of it."""
        name, step = path_name(steps), steps[-1]
        start = self.base(step.axis) if self.kinds[step.axis].starts_at_base else source

        def work(directory: RunDirectory) -> dict[str, Any]:
            return self.fit_student(directory, source, self.student(start, step))

        settings = {"teacher": str(source.teacher_folder), "step": step.text}
        self.stages.do(name, f"distillation to {step.text}", settings, work)
        return Model(self.stages.path / name / "best", self.gone(step))

    def minidisc(self, axis: Axis) -> dict[str, Any]:
        """All scales at once, the best trade-off as assistant, and then the target from it."""
        kind, source, target = self.kinds[axis], self.base(axis), self.gone(target_of(self.flags))
        last = self.flags.target_iteration
        for iteration in range(1, last + 1):
            source = self.iteration(kind, iteration, source, target, is_last=iteration == last)
        return self.finish("minidisc", source.folder, {self.selection: self.record.metric_of(last, target)})

    def scales(self, kind: AxisKind, source: Model) -> tuple[float, ...]:
        """The scales of the grid that are tried, rising: from the first assistant on, and from the present one."""
        trunc, grid = trunc_of(self.flags), grid_of(self.flags, kind.axis)
        every = [kind.unit.gone(count, kind.num_layers) for count in range(1, kind.num_layers + 1)]
        scales = every if grid is None else [self.gone(step) for step in grid]
        least = max(0.0 if trunc is None else self.gone(trunc), source.scale) - SCALE_TOLERANCE
        return tuple(sorted(scale for scale in scales if scale >= least))

    def iteration(self, kind: AxisKind, number: int, source: Model, target: float, is_last: bool) -> Model:
        """One distillation of MiniDisc; of the last one only the target is trained."""
        name = f"iteration-{number}"
        scales = (target,) if is_last else self.scales(kind, source)

        def work(directory: RunDirectory) -> dict[str, Any]:
            student = kind.student(load_classifier(str(source.folder), self.task, trained=True), scales)
            axis = kind.open(student, scales)
            variant = self.objective(source, student)
            lam = self.flags.lam
            objective = Sandwich(variant, axis, scales, lam, target, source.scale, is_last, kind.number)
            whole = evaluator_for(self.task)(self.runtime, student, self.sets, self.selection)
            evaluate = NestedEvaluator(axis, objective, whole, self.selection, kind.number)

            def save(folder: Path) -> None:
                assert evaluate.choice is not None
                kind.kept(axis, evaluate.choice.scale, target).save_pretrained(folder)
                write_choice(folder, evaluate.choice)

            parts = Fit(objective, student, self.tokenizer, self.batches(), evaluate, NestedEvaluator.SCORE, save)
            made = self.fit(directory, parts)
            # A scale that was not chosen may have become better since.
            choice = replace(read_choice(directory.best), table=objective.choice().table)
            self.runtime.by_main(lambda: write_choice(directory.best, choice))
            return made

        what = f"iteration {number}: " + (
            f"distillation to {kind.text(target)}"
            if is_last
            else f"all of {' '.join(f'{kind.number(scale):g}' for scale in scales)} at once, to choose an assistant"
        )
        settings = {"teacher": str(source.teacher_folder), "scales": list(scales), "is_last": is_last}
        self.stages.do(name, what, settings, work)
        folder = self.stages.path / name / "best"
        choice = read_choice(folder)
        self.record.iteration(number, choice, kind)
        if not is_last:
            self.say(f"assistant: {kind.text(choice.scale)} ({choice.reason})")
        return Model(folder, choice.scale)

    # --- shared steps -----------------------------------------------------------------------------------------------

    def objective(self, source: Model, student: Any) -> VariantDistillation:
        """The loss of a student; with the source's teacher, if a term of it has one."""
        teacher = None
        if self.type.needs_teacher or self.flags.num_relation_heads is not None:
            teacher = load_classifier(str(source.teacher_folder), self.task, trained=True)
        return VariantDistillation(
            teacher, student, self.type, self.command.task.temperature, self.flags.num_relation_heads
        )

    def batches(self) -> BucketedBatches:
        """The training rows."""
        return training_batches(self.request, self.tokenizer, self.runtime, self.command.task.aug_train)

    def check_data(self, directory: RunDirectory) -> None:
        """Between two stages too the rows must stay: a stage that is complete was trained on them."""
        resumed = (directory.path / DATA_FILE).is_file()
        sources = [rows.source for rows in self.sets]
        self.runtime.by_main(lambda: directory.check_data(fingerprints_of(self.batches(), sources), resumed))
        for remark in directory.remarks:
            self.say(f"warning: {remark}")

    def fit(self, directory: RunDirectory, parts: Fit) -> dict[str, Any]:
        """Train a stage."""
        return {"mode": "distill", "task": self.task.name, **fit(self.runtime, directory, self.config(parts), parts)}

    def config(self, parts: Fit) -> TrainerConfig:
        """The loop's settings."""
        command, batches = self.command, parts.source.batches_per_epoch
        config = bert_trainer_config(command.bert, command.optimisation, command.evaluation, batches)
        return with_patience(config, self.flags.patience_epochs, batches)

    def value(self, name: str, key: str = "best_value") -> float:
        """What a stage has written: the selection metric that it reached, or another number."""
        made = self.stages.made(name)
        assert made is not None
        return float(made[key])

    def evaluate(self, folder: Path) -> dict[str, float]:
        """The metrics of a saved model."""
        model = load_classifier(str(folder), self.task, trained=True).to(self.runtime.device)
        return evaluator_for(self.task)(self.runtime, model, self.sets, self.selection)()

    def save(self, directory: RunDirectory, model: Any) -> None:
        """Write a model that needed no training as a run's best one."""

        def write() -> None:
            with atomic_directory(directory.best) as partial:
                model.save_pretrained(partial)
                self.tokenizer.save_pretrained(partial)
                directory.copy_arguments(partial)

        self.runtime.by_main(write)

    def finish(self, mode: str, folder: Path, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Put the best model into the schedule's own folder; cost and choice into its files."""
        results = [made for name in self.stage_names() if (made := self.stages.made(name)) is not None]
        model = load_classifier(str(folder), self.task, trained=True)
        result = {
            "mode": mode,
            "task": self.task.name,
            "metric": self.selection,
            "best_value": metrics[self.selection],
            "metrics": dict(metrics),
            "source": str(folder),
            "num_params": parameter_counts(model).total,
            "encoder_params": encoder_params(model),
            "tokens": sum(made.get("tokens", 0) for made in results),
            "train_seconds": sum(made.get("train_seconds", 0.0) for made in results),
        }
        best = self.stages.path / "best"

        def write() -> None:
            with atomic_directory(best) as partial:
                shutil.copytree(folder, partial, dirs_exist_ok=True)
            if mode != "sparsify":
                self.record.write(self.stages.path, result)

        self.runtime.by_main(write)
        return result

    def stage_names(self) -> list[str]:
        """Folders of the stages that are there."""
        return sorted(path.parent.name for path in self.stages.path.glob("*/result.json"))


class NestedEvaluator:
    """Evaluates a model at every scale of a schedule; selects by the trade-off of the best scale.

    Args:
        number: of a scale in its axis' unit, which stands behind the metric's name.
    """

    SCORE = "tradeoff"

    def __init__(
        self, axis: Any, objective: Sandwich, evaluate: Any, metric: str, number: Callable[[float], float]
    ) -> None:
        self._axis, self._objective, self._evaluate, self._metric = axis, objective, evaluate, metric
        self._number = number
        self.choice: Choice | None = None

    @property
    def sources(self) -> Any:
        """The rows."""
        return self._evaluate.sources

    def __call__(self) -> dict[str, float]:
        """The metric per scale (`f1@90`), and the best trade-off so far over all of them."""
        values: dict[float, float] = {}
        for scale in self._objective.scales:
            self._axis.select(scale)
            values[scale] = self._evaluate()[self._metric]
        self.choice = self._objective.update(values)
        shown = {self._objective.told(self._metric, scale): value for scale, value in values.items()}
        return {self.SCORE: self.choice.score, "assistant": self._number(self.choice.scale), **shown}


def _task_loss(model: Any, batch: Batch) -> Tensor:
    return task_loss(classify(model, batch), batch["labels"])
