"""What the modes sparsify, distill (with a scale), maxidisc and minidisc of `task_distill.py` do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm

from dataset import BucketedBatches, Task
from metric.cost import parameter_counts
from model import LayerDropConfig, PruningConfig, SparsityAxis, apply_edit, committed, find_edit, first_layers, sparsify
from model.attention_scores import Batch
from model.backbone import spec_for
from model.compression import edits_of
from model.distillation import classify
from model.losses import task_loss
from model.pruning import measure_importance, sparsity_of
from model.schedule import Choice, Sandwich, Step
from model.schedule.axis import SCALE_TOLERANCE
from model.variants import VariantDistillation
from utils.engine import RunDirectory, Runtime, TrainerConfig
from utils.engine.data_record import DATA_FILE, fingerprints_of
from utils.engine.files import atomic_directory
from utils.errors import UserError
from utils.minidisc.arguments import ScheduleArguments, grid_of, naming, path_name, selection_of, steps_of, type_of
from utils.minidisc.record import Record, read_choice, write_choice
from utils.minidisc.stages import Stages
from utils.minidisc.unsort import unsorted
from utils.tucker.arguments import bert_trainer_config
from utils.tucker.data import training_batches, validation_sets
from utils.tucker.evaluation import evaluator_for
from utils.tucker.loading import check_length, load_bert_tokenizer, load_classifier
from utils.tucker.report import encoder_params
from utils.tucker.training import Fit, fit, with_patience

#: Folder of the reordered teacher in a schedule's folder.
SPARSIFIED = "sparsified"


class Model(NamedTuple):
    """A model that a stage made, and the share of heads and neurons that it lacks."""

    folder: Path
    sparsity: float


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
        self.tokenizer = load_bert_tokenizer(self.teacher_source, command.bert.do_lower_case)
        self.sets = validation_sets(request, self.tokenizer, runtime)
        self.record = Record(self.flags, self.selection)

    def check(self, mode: str) -> None:
        """Refuse a teacher that the schedule cannot begin from, before anything is written.

        Raises:
            UserError, ModelError: with what the teacher is.
        """
        source, flags = f"--teacher_model {self.teacher_source}", self.flags
        with naming("--teacher_model"):
            teacher = load_classifier(self.teacher_source, self.task, trained=True)
        check_length(teacher, self.request.max_length)
        steps = [path[0] for path in steps_of(flags, mode)]
        pruned = sparsity_of(teacher) - SCALE_TOLERANCE
        kinds = [edit.kind for edit in edits_of(teacher)]
        if beyond := [kind for kind in kinds if kind not in (LayerDropConfig.kind, PruningConfig.kind)]:
            raise UserError(
                f"{source} carries the edit {beyond[0]!r}: heads, neurons and layers can go only before it."
            )
        if any(step.axis == "layers" for step in steps) and (pruned > 0 or LayerDropConfig.kind in kinds):
            raise UserError(f"{source} is smaller than the fine-tuned teacher: layers are dropped from that one.")
        if mode == "minidisc" and pruned > flags.target_sparsity / 100:
            raise UserError(
                f"{source} is pruned to {100 * pruned:g} % already, beyond --target_sparsity {flags.target_sparsity:g}."
            )
        depth = len(spec_for(teacher).encoder_layers(teacher))
        for step in steps:
            if step.axis == "sparsity" and pruned > step.scale:
                raise UserError(f"{source} is pruned to {100 * pruned:g} % already and cannot become {step.text}.")
            if step.axis == "layers" and step.scale > depth:
                raise UserError(f"{source} has {depth} layers and cannot become {step.text}.")

    def run(self, mode: str) -> dict[str, Any]:
        """Do everything that is not done yet; the best model ends in `best/`.

        Returns:
            What result.json of the schedule holds.
        """
        if mode == "sparsify":
            steps = steps_of(self.flags, mode)
            made = self.sparsified() if not steps else self.cut(self.beginning(steps[0][0]), steps[0][0])
            return self.finish(mode, made.folder, self.evaluate(made.folder))
        if mode == "minidisc":
            return self.minidisc()
        return self.along_paths(mode)

    # --- what the modes are made of ---------------------------------------------------------------------------------

    def sparsified(self) -> Model:
        """The teacher with its heads and neurons in the order of their importance; made at the first call."""
        teacher = load_classifier(self.teacher_source, self.task, trained=True)
        if (edit := find_edit(teacher, PruningConfig)) is not None:
            return Model(Path(self.teacher_source), edit.sparsity)
        folder = self.stages.path / SPARSIFIED

        def work(directory: RunDirectory) -> dict[str, Any]:
            teacher.to(self.runtime.device)
            rows = self.sets[0].source.for_one_process()  # every process measures the same
            bar = tqdm(rows.batches(0), "importance", rows.batches_per_epoch, leave=False, disable=self.quiet)
            batches = (self.runtime.to_device(batch) for batch in bar)
            sparsify(teacher, measure_importance(teacher, batches, _task_loss), self.flags.round_to)
            self.save(directory, teacher)
            sizes = {f"{100 * s:g}": parameter_counts(committed(teacher, s)).total for s in grid_of(self.flags)}
            self.stages.say("parameters by sparsity: " + ", ".join(f"{s} %: {n:,}" for s, n in sizes.items()))
            return {"mode": "sparsify", "num_params": sizes}

        self.stages.do(SPARSIFIED, "importance of heads and neurons", {"teacher": self.teacher_source}, work)
        return Model(folder / "best", 0.0)

    def cut(self, start: Model, step: Step) -> Model:
        """The student of a step before it learns, as a stage of its own."""
        name = f"{step.text}-undistilled"

        def work(directory: RunDirectory) -> dict[str, Any]:
            self.save(directory, self.student(start, step))
            return {"mode": "sparsify", "scale": step.text}

        self.stages.do(name, f"{step.text} without distillation", {"start": str(start.folder)}, work)
        return Model(self.stages.path / name / "best", step.scale if step.axis == "sparsity" else 0.0)

    def beginning(self, step: Step) -> Model:
        """What a path with this first step begins from: the reordered teacher, or the teacher itself for layers."""
        return self.sparsified() if step.axis == "sparsity" else Model(Path(self.teacher_source), 0.0)

    def student(self, start: Model, step: Step) -> Any:
        """The model of a step before it learns."""
        model = load_classifier(str(start.folder), self.task, trained=True)
        if step.axis == "sparsity":
            return committed(model, step.scale)
        whole = unsorted(model, self.task)
        apply_edit(whole, first_layers(int(step.scale)))
        return whole

    def along_paths(self, mode: str) -> dict[str, Any]:
        """Distil along each path; each assistant is the next one's teacher, and what paths share is done once."""
        found: dict[str, float] = {}
        for steps in steps_of(self.flags, mode):
            source = self.beginning(steps[0])
            for count in range(1, len(steps) + 1):
                source = self.distil_to(steps[:count], source)
            found[path_name(steps)] = self.value(path_name(steps))
        best = max(found, key=lambda name: found[name])
        if len(found) > 1:
            self.stages.say("paths: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        self.record.paths(found, best)
        return self.finish(mode, self.stages.path / best / "best", {self.selection: found[best]})

    def distil_to(self, steps: Sequence[Step], source: Model) -> Model:
        """One distillation: `source` teaches the model of the last step, which begins as a part of it."""
        name, step = path_name(steps), steps[-1]
        # Layers are dropped from the whole teacher, not from an assistant that has lost some.
        start = source if step.axis == "sparsity" else self.beginning(step)

        def work(directory: RunDirectory) -> dict[str, Any]:
            student = self.student(start, step)
            objective = VariantDistillation(
                self.teacher(source), student, self.type, self.command.task.temperature, self.flags.num_relation_heads
            )
            evaluate = evaluator_for(self.task)(self.runtime, student, self.sets)
            return self.fit(
                directory, Fit(objective, student, self.tokenizer, self.batches(), evaluate, self.selection)
            )

        self.stages.do(name, f"distillation to {step.text}", {"teacher": str(source.folder), "step": step.text}, work)
        return Model(self.stages.path / name / "best", step.scale if step.axis == "sparsity" else source.sparsity)

    def minidisc(self) -> dict[str, Any]:
        """All scales at once, the best trade-off as assistant, and then the target from it."""
        source, target = self.sparsified(), self.flags.target_sparsity / 100
        last = self.flags.target_iteration
        for iteration in range(1, last + 1):
            source = self.iteration(iteration, source, target, is_last=iteration == last)
        return self.finish("minidisc", source.folder, {self.selection: self.record.metric_of(last, target)})

    def iteration(self, number: int, source: Model, target: float, is_last: bool) -> Model:
        """One distillation of MiniDisc; of the last one only the target is trained."""
        name = f"iteration-{number}"
        least = max(self.flags.trunc_sparsity / 100, source.sparsity)
        scales = (target,) if is_last else tuple(s for s in grid_of(self.flags) if s >= least - SCALE_TOLERANCE)

        def work(directory: RunDirectory) -> dict[str, Any]:
            # Widths beyond the largest trained one would only cost memory.
            student = committed(load_classifier(str(source.folder), self.task, trained=True), scales[0])
            axis = SparsityAxis(student, scales)
            variant = VariantDistillation(
                self.teacher(source), student, self.type, self.command.task.temperature, self.flags.num_relation_heads
            )
            objective = Sandwich(variant, axis, scales, self.flags.lam, target, source.sparsity, is_last)
            evaluate = NestedEvaluator(
                axis, objective, evaluator_for(self.task)(self.runtime, student, self.sets), self.selection
            )

            def save(folder: Path) -> None:
                assert evaluate.choice is not None
                axis.commit(evaluate.choice.scale).save_pretrained(folder)
                write_choice(folder, evaluate.choice)

            parts = Fit(objective, student, self.tokenizer, self.batches(), evaluate, NestedEvaluator.SCORE, save)
            made = self.fit(directory, parts)
            # A scale that was not chosen may have become better since.
            whole = replace(read_choice(directory.best), table=objective.choice().table)
            self.runtime.by_main(lambda: write_choice(directory.best, whole))
            return made

        what = f"iteration {number}: " + (
            f"distillation to {100 * target:g}S"
            if is_last
            else f"all of {' '.join(f'{100 * scale:g}' for scale in scales)} at once, to choose an assistant"
        )
        settings = {"teacher": str(source.folder), "scales": list(scales), "is_last": is_last}
        self.stages.do(name, what, settings, work)
        folder = self.stages.path / name / "best"
        choice = read_choice(folder)
        self.record.iteration(number, choice)
        if not is_last:
            self.stages.say(f"assistant: {100 * choice.scale:g}S ({choice.reason})")
        return Model(folder, choice.scale)

    # --- shared steps -----------------------------------------------------------------------------------------------

    def teacher(self, source: Model) -> Any:
        """The teacher, if a term of the loss has one."""
        if not self.type.needs_teacher and self.flags.num_relation_heads is None:
            return None
        return load_classifier(str(source.folder), self.task, trained=True)

    def batches(self) -> BucketedBatches:
        """The training rows."""
        return training_batches(self.request, self.tokenizer, self.runtime, self.command.task.aug_train)

    def check_data(self, directory: RunDirectory) -> None:
        """Between two stages too the rows must stay: a stage that is complete was trained on them."""
        resumed = (directory.path / DATA_FILE).is_file()
        sources = [rows.source for rows in self.sets]
        self.runtime.by_main(lambda: directory.check_data(fingerprints_of(self.batches(), sources), resumed))
        for remark in directory.remarks:
            self.stages.say(f"warning: {remark}")

    def fit(self, directory: RunDirectory, parts: Fit) -> dict[str, Any]:
        """Train a stage."""
        return {"mode": "distill", "task": self.task.name, **fit(self.runtime, directory, self.config(parts), parts)}

    def config(self, parts: Fit) -> TrainerConfig:
        """The loop's settings."""
        command, batches = self.command, parts.source.batches_per_epoch
        config = bert_trainer_config(command.bert, command.optimisation, command.evaluation, batches)
        return with_patience(config, self.flags.patience_epochs, batches)

    @property
    def quiet(self) -> bool | None:
        """Whether progress bars are off; None where that depends on the terminal."""
        return None if self.runtime.is_main else True

    def value(self, name: str) -> float:
        """The selection metric that a stage reached."""
        made = self.stages.made(name)
        assert made is not None
        return float(made["best_value"])

    def evaluate(self, folder: Path) -> dict[str, float]:
        """The metrics of a saved model."""
        model = load_classifier(str(folder), self.task, trained=True).to(self.runtime.device)
        return evaluator_for(self.task)(self.runtime, model, self.sets)()

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
    """Evaluates a model at every scale of a schedule; selects by the trade-off of the best scale."""

    SCORE = "tradeoff"

    def __init__(self, axis: Any, objective: Sandwich, evaluate: Any, metric: str) -> None:
        self._axis, self._objective, self._evaluate, self._metric = axis, objective, evaluate, metric
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
        shown = {f"{self._metric}@{100 * scale:g}": value for scale, value in values.items()}
        return {self.SCORE: self.choice.score, "assistant": 100 * self.choice.scale, **shown}


def _task_loss(model: Any, batch: Batch) -> Tensor:
    return task_loss(classify(model, batch), batch["labels"])
