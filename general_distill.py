"""General distillation: decompose a BERT and let it learn a pre-trained teacher's inside from plain text.

    python general_distill.py --help
    python general_distill.py --pregenerated_data data/pregenerated --teacher_model bert-base-uncased \
        --student_model models/bert-td-72-384 --use_swap --output_dir checkpoints/general

The text is made by `python -m utils.pregenerate_training_data`; the student goes on to `task_distill.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from utils.tucker.general_arguments import GeneralCommand, parse_general_arguments

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse_general_arguments)  # before the libraries load

from dataset.collate import Batch
from dataset.pregenerated import PregeneratedBatches, PretrainingCollator
from model.distillation import GeneralDistillation
from utils.arguments import as_json
from utils.arguments.settings import runtime_for
from utils.errors import run_as_script
from utils.going_on import RESUME
from utils.next_steps import after_general
from utils.opening.tokenizers import check_one_vocabulary, has_tokenizer, open_tokenizer
from utils.outputs import guard
from utils.tucker.arguments import micro_batch, precision_of
from utils.tucker.evaluation import NEGATIVE_LOSS, DistillationEvaluator
from utils.tucker.loading import check_length, load_encoder
from utils.tucker.settings import bert_trainer_config
from utils.tucker.student import build_student, unused_request
from utils.tucker.training import Fit, describe, finish, fit, open_run


class FixedBatches:
    """The first batches of a source, the same at every evaluation."""

    def __init__(self, source: PregeneratedBatches, count: int) -> None:
        self._source = source
        self._batches = list(islice(source.batches(0), count))

    @property
    def batches_per_epoch(self) -> int:
        """How many there are."""
        return len(self._batches)

    def fingerprint(self) -> dict[str, str]:
        """See `dataset.fingerprint`."""
        return self._source.fingerprint()

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See `dataset.BatchSource`."""
        return iter(self._batches[start:])


class GeneralJob:
    """One call of the script."""

    def __init__(self, command: GeneralCommand) -> None:
        general, bert, run = command.general, command.bert, command.run
        assert general.teacher_model is not None
        self.command = command
        self.runtime = runtime_for(run, "bert", precision_of(run, bert), bert.no_cuda)
        self.student_source = general.student_model or general.teacher_model
        unused_request(self.student_source, command.decomposition, learns=True)
        teacher = load_encoder(general.teacher_model)
        self.student, how = build_student(self.student_source, command.decomposition)
        if general.init_from_teacher and not command.decomposition.use_swap:
            self.say("warning: the student is the teacher itself, which has nothing to learn: --use_swap decomposes it")
        self.say(f"student ({describe(self.student)}): {how}; teacher ({describe(teacher)}): {general.teacher_model}")
        for model in (teacher, self.student):
            check_length(model, bert.max_seq_length)
        self.objective = GeneralDistillation(teacher, self.student, bert.distill_layers, bert.loss_reduction)
        check_one_vocabulary(general.teacher_model, self.student_source)
        source = self.student_source if has_tokenizer(self.student_source) else general.teacher_model
        self.tokenizer: Any = open_tokenizer(source, bert.do_lower_case, models=[teacher, self.student])

    def train(self) -> None:
        """Fit, keep the best student, and say what was made."""
        command, runtime = self.command, self.runtime
        directory = open_run(runtime, command.run, as_json(*command))
        assert command.general.pregenerated_data is not None
        data = command.general.pregenerated_data
        train = self.source(data, micro_batch(command.optimisation), command.optimisation.epochs)
        valid = self.source(command.general.valid_data or data, command.bert.eval_batch_size)
        sample = FixedBatches(valid, command.evaluation.valid_batches)
        evaluate = DistillationEvaluator(runtime, self.objective, sample)
        config = bert_trainer_config(command.bert, command.optimisation, command.evaluation, train.batches_per_epoch)
        parts = Fit(self.objective, self.student, self.tokenizer, train, evaluate, NEGATIVE_LOSS)
        result = {"mode": "general", **fit(runtime, directory, config, parts)}
        finish(runtime, directory, result, after_general(command), further="then")

    def source(self, folder: Path, batch_size: int, epochs: int | None = None) -> PregeneratedBatches:
        """The batches of a folder of pre-generated data."""
        command, runtime = self.command, self.runtime
        return PregeneratedBatches(
            folder,
            self.tokenizer.get_vocab(),
            PretrainingCollator(self.tokenizer.pad_token_id),
            batch_size,
            runtime.seed,
            runtime.rank,
            runtime.world_size,
            max_length=command.bert.max_seq_length,
            epochs=epochs,
            reduce_memory=command.general.reduce_memory,
        )

    def say(self, text: str) -> None:
        """One line, from the main process."""
        if self.runtime.is_main:
            print(text, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Parse, build, fit."""
    command = parse_general_arguments(arguments)
    guard("general_distill", command.general, command.run)
    GeneralJob(command).train()


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv, goes_on=RESUME)
