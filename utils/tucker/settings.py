"""From the flags of the distillation scripts to the engine's settings."""

from __future__ import annotations

from dataclasses import replace

from utils.arguments import EvaluationArguments, OptimisationArguments
from utils.arguments.settings import trainer_config
from utils.engine import TrainerConfig
from utils.tucker.arguments import BertArguments


def bert_trainer_config(
    bert: BertArguments,
    optimisation: OptimisationArguments,
    evaluation: EvaluationArguments,
    batches_per_epoch: int | None,
) -> TrainerConfig:
    """The loop's settings; the warm-up's share becomes steps.

    Args:
        batches_per_epoch: micro-batches; None where it is not known, which needs `--max_steps` for a warm-up.
    """
    accumulation = optimisation.grad_accumulation
    total = float(optimisation.training_step)
    if batches_per_epoch is not None:
        total = min(total, optimisation.epochs * -(-batches_per_epoch // accumulation))
    shared = trainer_config(optimisation, evaluation, "linear")
    return replace(shared, warmup_steps=optimisation.warmup_step or bert.warmup_proportion * total)
