"""The flags of `general_distill.py` beyond the shared ones; names and meaning of the original's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from utils.arguments import (
    MODEL,
    PLACE,
    EvaluationArguments,
    OptimisationArguments,
    RunArguments,
    flag,
    out_of_range,
    parse,
)
from utils.errors import UserError
from utils.tucker.arguments import (
    IGNORED,
    TEXTS,
    BertArguments,
    DecompositionArguments,
    in_our_words,
    range_problems,
    unused_problems,
)
from utils.tucker.defaults import general_defaults, what_is_trained

_IGNORED = {**IGNORED, "do_eval": "the loss on a fixed sample is evaluated at every --valid_step anyway"}
#: Least values where they are others than those of the shared flags.
_LEAST = {"max_seq_length": 3, "valid_batches": 1}


@dataclass
class GeneralArguments:
    """The two models and the text."""

    _argument_group_name = "general distillation"

    pregenerated_data: Path | None = flag(
        None, "Folder of epoch files of python -m utils.pregenerate_training_data.", reads=PLACE
    )
    teacher_model: str | None = flag(None, "A pre-trained BERT: a hub id, a directory or a run's.", reads=MODEL)
    student_model: str | None = flag(
        None, "The student's directory or hub id; one with a config.json alone begins with random weights.", reads=MODEL
    )
    init_from_teacher: bool = flag(False, "The student begins as a copy of the teacher (instead of --student_model).")
    valid_data: Path | None = flag(
        None,
        "Pre-generated data of other text, to evaluate on (default: the first batches of the training data).",
        reads=PLACE,
    )
    reduce_memory: bool = flag(False, "Map the data from files instead of holding an epoch in memory.")


class GeneralCommand(NamedTuple):
    """The parsed command line."""

    general: GeneralArguments
    bert: BertArguments
    decomposition: DecompositionArguments
    optimisation: OptimisationArguments
    evaluation: EvaluationArguments
    run: RunArguments


def parse_general_arguments(arguments: Sequence[str] | None = None) -> GeneralCommand:
    """Parse and check; all problems are told at once.

    Raises:
        UserError: with every problem found.
    """
    given = in_our_words(arguments)
    types = [GeneralArguments, BertArguments, DecompositionArguments, OptimisationArguments, EvaluationArguments]
    description = "Decompose a BERT and distil it on text from a pre-trained teacher."
    parsed = parse([*types, RunArguments], description, given, _IGNORED, defaults=_defaults, texts=TEXTS)
    command = GeneralCommand(*parsed)
    general, run = command.general, command.run
    problems = [
        f"--{name} is required" for name in ("pregenerated_data", "teacher_model") if getattr(general, name) is None
    ]
    if run.output_path is None:
        problems.append("--output_dir is required")
    if general.init_from_teacher == (general.student_model is not None):
        problems.append("give either --student_model or --init_from_teacher")
    problems += out_of_range(command, _LEAST) + range_problems(command.optimisation)
    problems += unused_problems(run)
    if problems:
        raise UserError("; ".join(problems) + ".")
    return command


def _defaults(given: Mapping[str, Any]) -> Mapping[str, Any]:
    return general_defaults(what_is_trained(given), str(given.get("optimizer", "adamw")))
