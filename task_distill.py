"""Tasks: fine-tune a teacher, distil it into a decomposed, pruned or shallower student, put plugins on it, evaluate.

    python task_distill.py --help
    python task_distill.py --mode finetune --teacher_model bert-base-uncased --task_name mrpc --data_dir data/glue \
        --output_dir checkpoints/teacher/mrpc
    python task_distill.py --stage both --teacher_model checkpoints/teacher/mrpc --student_model checkpoints/general \
        --task_name mrpc --data_dir data/glue --output_dir checkpoints/student/mrpc --do_eval --do_predict
    python task_distill.py --mode minidisc --target_sparsity 90 --teacher_model checkpoints/teacher/mrpc \
        --task_name mrpc --data_dir data/glue --output_dir checkpoints/minidisc/mrpc
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from utils.tucker.task_arguments import (
    Plan,
    TaskCommand,
    evaluation_arguments,
    parse_task_arguments,
    recorded_arguments,
)

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse_task_arguments)  # before the libraries load

from dataset import BucketedBatches
from model import current_ratio
from model.distillation import IntermediateDistillation, PredictionDistillation, Supervised
from utils.arguments.settings import runtime_for
from utils.errors import run_as_script
from utils.going_on import RESUME
from utils.hints import next_lines
from utils.measured import circumstances
from utils.minidisc.arguments import selection_of
from utils.minidisc.job import ScheduleJob
from utils.minidisc.stages import Stages
from utils.next_steps import after_evaluation, after_schedule, after_stage
from utils.opening.tokenizers import check_one_vocabulary, has_tokenizer, open_tokenizer
from utils.outputs import check_file, guard, json_with
from utils.tucker.adaptation import RatioEvaluator, attach, objective_for, per_ratio
from utils.tucker.arguments import micro_batch, precision_of
from utils.tucker.data import DataRequest, LabelledSet, training_batches, validation_sets
from utils.tucker.defaults import Stage
from utils.tucker.evaluation import NEGATIVE_LOSS, DistillationEvaluator, evaluator_for
from utils.tucker.loading import check_length, load_classifier
from utils.tucker.prediction import check_place, write_predictions
from utils.tucker.report import costs, format_values
from utils.tucker.settings import bert_trainer_config
from utils.tucker.student import build_student, check_differs, unused_request
from utils.tucker.tasks import task_for
from utils.tucker.training import Fit, describe, finish, fit, make_directory, open_run, record_call, with_patience
from utils.writing import write_json


class TaskJob:
    """One stage or schedule, or the evaluation and prediction behind it."""

    def __init__(self, command: TaskCommand) -> None:
        self.command, self.arguments = command, command.task
        assert self.arguments.task_name and self.arguments.data_dir and command.run.output_path
        self.task = task_for(self.arguments.task_name)
        self.selection = selection_of(command.schedule, self.task)
        self.output: Path = command.run.output_path
        run, bert = command.run, command.bert
        self.runtime = runtime_for(run, "bert", precision_of(run, bert), bert.no_cuda)
        self.request = DataRequest(
            self.task,
            self.arguments.data_dir,
            command.bert.max_seq_length,
            micro_batch(command.optimisation),
            command.bert.eval_batch_size,
        )

    def train(self, stage: Stage, plan: Plan) -> None:
        """Fit one stage, keep its best model, and say what comes next."""
        if stage != "prediction" and self.arguments.temperature != 1.0:
            self.warn(f"--temperature has no effect in the stage {stage}, only in prediction")
        others = {"finetune": self.finetuning, "adapt": self.adaptation}
        parts = others[stage]() if stage in others else self.distillation(stage)
        check_length(parts.student, self.request.max_length)
        directory = open_run(self.runtime, self.command.run, recorded_arguments(self.command, stage))
        config = bert_trainer_config(
            self.command.bert, self.command.optimisation, self.command.evaluation, parts.source.batches_per_epoch
        )
        config = with_patience(config, self.command.schedule.patience_epochs, parts.source.batches_per_epoch)
        result = fit(self.runtime, directory, config, parts)
        finish(
            self.runtime,
            directory,
            {"mode": stage, "task": self.task.name, **result},
            after_stage(stage, self.command, plan),
        )

    def schedule(self, mode: str, plan: Plan) -> None:
        """Sparsify, or distil over teacher assistants: several stages with a folder each."""
        recorded = {**recorded_arguments(self.command, "schedule"), "mode": mode}
        stages = Stages(self.runtime, self.command.run, recorded)
        job = ScheduleJob(self.command, self.runtime, stages, self.task, self.request)
        job.check(mode)
        directory = open_run(self.runtime, self.command.run, recorded)
        job.check_data(directory)
        finish(self.runtime, directory, job.run(mode), after_schedule(mode, self.command, plan))

    def finetuning(self) -> Fit:
        """A classifier that learns from labels."""
        source = self.arguments.student_model or self.arguments.teacher_model
        assert source is not None
        self.warn(unused_request(source, self.command.decomposition))
        model, how = build_student(source, self.command.decomposition, self.task, needs_weights=True)
        self.say(f"fine-tuning ({describe(model)}): {how}")
        tokenizer = self.tokenizer(source, model)
        batches, sets = self.rows(tokenizer)
        evaluate = evaluator_for(self.task)(self.runtime, model, sets, self.selection)
        return Fit(Supervised(model), model, tokenizer, batches, evaluate, self.selection)

    def adaptation(self) -> Fit:
        """Plugins on a student, which is frozen and their teacher."""
        source = self.arguments.student_model
        assert source is not None
        self.warn(unused_request(source, self.command.decomposition))
        model, how = build_student(source, self.command.decomposition, self.task, trained=True)
        ratios = attach(model, self.command.adaptation)
        self.say(f"plugins for {', '.join(f'k = {k}' for k in ratios)} on ({describe(model)}): {how}")
        tokenizer = self.tokenizer(source, model)
        batches, sets = self.rows(tokenizer)
        evaluate = RatioEvaluator(evaluator_for(self.task)(self.runtime, model, sets, self.selection), model, ratios)
        objective = objective_for(model, self.command.adaptation, ratios)
        return Fit(objective, model, tokenizer, batches, evaluate, self.selection)

    def distillation(self, stage: Stage) -> Fit:
        """A student that learns from a teacher: its inside first, its predictions then."""
        arguments, bert = self.arguments, self.command.bert
        assert arguments.teacher_model is not None and arguments.student_model is not None
        unused_request(arguments.student_model, self.command.decomposition, learns=True)
        check_differs(arguments.teacher_model, arguments.student_model, self.command.decomposition)
        teacher = load_classifier(arguments.teacher_model, self.task, trained=True)
        student, how = build_student(arguments.student_model, self.command.decomposition, self.task)
        self.say(f"student ({describe(student)}): {how}; teacher ({describe(teacher)}): {arguments.teacher_model}")
        check_one_vocabulary(arguments.teacher_model, arguments.student_model)
        source = arguments.student_model if has_tokenizer(arguments.student_model) else arguments.teacher_model
        tokenizer = self.tokenizer(source, teacher, student)
        batches, sets = self.rows(tokenizer)
        if stage == "prediction":
            objective = PredictionDistillation(teacher, student, arguments.temperature)
            evaluate = evaluator_for(self.task)(self.runtime, student, sets, self.selection)
            return Fit(objective, student, tokenizer, batches, evaluate, self.selection)
        inside = IntermediateDistillation(teacher, student, bert.distill_layers, bert.loss_reduction)
        compare = DistillationEvaluator(self.runtime, inside, sets[0].source)
        return Fit(inside, student, tokenizer, batches, compare, NEGATIVE_LOSS)

    def evaluate_and_predict(self, plan: Plan) -> None:
        """Metrics and costs into evaluation.json, predictions into a folder; of the model trained, or the given."""
        if plan.stages or plan.schedule:
            source = str(self.output / "best")
            model: Any = load_classifier(source, self.task, trained=True)
        else:
            assert self.arguments.student_model is not None
            source = self.arguments.student_model
            self.warn(unused_request(source, self.command.decomposition))
            model, how = build_student(source, self.command.decomposition, self.task, trained=True)
            self.say(f"model ({describe(model)}): {how}")
        check_length(model, self.request.max_length)
        if plan.evaluate and self.runtime.is_main:
            ours, cure = json_with("task", "edits"), "name another --output_dir"
            check_file("the evaluation", plan.output / "evaluation.json", ours, cure)
        model.to(self.runtime.device)
        make_directory(plan.output)
        if not (plan.stages or plan.schedule) and self.runtime.is_main:
            record_call(plan.output, evaluation_arguments(self.command))
        if plan.evaluate:
            self.evaluate(model, source, plan.output)
        if plan.predict:
            folder = self.arguments.predictions_dir or plan.output / "predictions"
            for made in write_predictions(self.runtime, model, self.request, self.tokenizer(source, model), folder):
                self.say(made)
        if lines := next_lines(after_evaluation(self.command, plan)):
            self.tell(lines)

    def evaluate(self, model: Any, source: str, output: Path) -> None:
        """Metrics on the development sets, and what the model costs."""
        sets = self.validation(self.tokenizer(source, model))
        values: dict[str, Any] = {"task": self.task.name, "model": source, "edits": describe(model)}
        lengths = [len(feature.input_ids) for feature in sets[0].features]

        def measured() -> dict[str, Any]:
            return costs(model, lengths, self.runtime) if self.arguments.costs and self.runtime.is_main else {}

        evaluator = evaluator_for(self.task)(self.runtime, model, sets, self.selection)
        at_ratios = per_ratio(model, self.runtime, evaluator, measured)
        values |= at_ratios[str(current_ratio(model))]
        if len(at_ratios) > 1:
            values["ratios"] = at_ratios
        values |= self.runtime.choice.fields
        values["measured"] = circumstances(self.runtime.device, self.runtime.precision)
        if self.runtime.is_main:
            write_json(output / "evaluation.json", values)
            print("\n".join(self.runtime.choice.lines))
            print(f"{format_values(values)}\nmade: {output / 'evaluation.json'}", flush=True)

    def tokenizer(self, source: str, *models: Any) -> Any:
        """The tokenizer of a source, which has to fit the models that read its ids."""
        return open_tokenizer(source, self.command.bert.do_lower_case, models=models)

    def rows(self, tokenizer: Any) -> tuple[BucketedBatches, list[LabelledSet]]:
        """The training rows, whose faults are told first, and the development sets."""
        batches = training_batches(self.request, tokenizer, self.runtime, self.arguments.aug_train)
        return batches, self.validation(tokenizer)

    def validation(self, tokenizer: Any) -> list[LabelledSet]:
        """The development sets, encoded for a model."""
        return validation_sets(self.request, tokenizer, self.runtime)

    def say(self, text: str) -> None:
        """One line of this task, from the main process."""
        self.tell(f"{self.task.name}: {text}")

    def tell(self, text: str) -> None:
        """Lines as they are, from the main process."""
        if self.runtime.is_main:
            print(text, flush=True)

    def warn(self, text: str | None) -> None:
        """A warning, if there is one."""
        if text is not None:
            self.say(f"warning: {text}")


def main(arguments: list[str] | None = None) -> None:
    """Parse, then every stage, evaluation and prediction that the flags ask for."""
    plan, commands = parse_task_arguments(arguments)
    if plan.stages or plan.schedule:
        for command in commands:
            guard("task_distill", commands[0].task, command.schedule, command.run)
    if plan.predict and (place := commands[0].task.predictions_dir) is not None:
        check_place(place, commands[0].task.data_dir or "")
    if plan.schedule is not None:
        TaskJob(commands[0]).schedule(plan.schedule, plan)
    for stage, command in zip(plan.stages, commands, strict=False):
        TaskJob(command).train(stage, plan)
    if plan.evaluate or plan.predict:
        TaskJob(commands[-1]).evaluate_and_predict(plan)


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv, goes_on=RESUME)
