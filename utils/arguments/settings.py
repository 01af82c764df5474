"""From the shared flags to the engine's settings; needs the libraries, which the flags themselves do not."""

from __future__ import annotations

from utils.arguments.shared import EvaluationArguments, OptimisationArguments, RunArguments
from utils.engine import Runtime, TrainerConfig
from utils.engine.names import AskedPrecision, Schedule
from utils.engine.run_directory import recorded_precision


def runtime_for(run: RunArguments, family: str, precision: AskedPrecision | None = None, cpu: bool = False) -> Runtime:
    """The processes and devices that the shared flags ask for.

    Args:
        family: the backbone's.
        precision: instead of `--precision`.
        cpu: leave GPUs alone.

    Raises:
        UserError: they cannot work together.
    """
    return Runtime(
        precision or run.precision,
        family,
        run.random_seed,
        cpu,
        engine=run.engine,
        rank_timeout_s=run.rank_timeout,
        cpu_offload=run.cpu_offload,
        gradient_checkpointing=run.gradient_checkpointing,
        kept=recorded_precision(run.output_path) if run.resume and run.output_path else None,
    )


def trainer_config(
    optimisation: OptimisationArguments,
    evaluation: EvaluationArguments,
    default_schedule: Schedule,
) -> TrainerConfig:
    """The loop's settings from the shared flags."""
    return TrainerConfig(
        epochs=optimisation.epochs,
        max_steps=optimisation.training_step,
        lr=optimisation.lr,
        weight_decay=optimisation.weight_decay,
        warmup_steps=optimisation.warmup_step,
        schedule=optimisation.schedule or default_schedule,
        optimizer=optimisation.optimizer,
        accumulation=optimisation.grad_accumulation,
        clip_norm=optimisation.clip_grad,
        inspect_step=evaluation.inspect_step,
        valid_step=evaluation.valid_step,
        save_step=evaluation.save_step,
        patience=evaluation.patience,
        keep_checkpoints=evaluation.keep_checkpoints,
        max_bad_steps=optimisation.max_bad_steps,
    )
