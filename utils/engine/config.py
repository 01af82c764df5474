"""Settings of the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from utils.engine.names import NO_STEP_LIMIT, OptimizerName, Schedule


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of the loop. Steps are optimizer steps; -1 for an interval means once per epoch.

    Attributes:
        epochs: passes over the data.
        max_steps: end earlier, after this many steps; NO_STEP_LIMIT or more never does.
        lr, weight_decay, warmup_steps, schedule, optimizer: see `utils.engine.optimisation`.
        accumulation: micro-batches per step.
        clip_norm: largest gradient norm, 0 for no clipping.
        inspect_step: steps between two log lines.
        valid_step: steps between two evaluations.
        save_step: steps between two checkpoints; -1 saves after every evaluation.
        patience: stop after this many evaluations without a gain; 0 never stops early.
        keep_checkpoints: how many checkpoints stay on disk.
        max_bad_steps: stop at so many steps in a row whose loss or gradients are not finite; in fp16, which meets such
            steps while it looks for its scale, `bad_steps.FP16_MOST`.
    """

    epochs: int = 5
    max_steps: int = NO_STEP_LIMIT
    lr: float = 1e-5
    weight_decay: float = 1e-5
    warmup_steps: float = 0
    schedule: Schedule = "constant"
    optimizer: OptimizerName = "adamw"
    accumulation: int = 1
    clip_norm: float = 10.0
    inspect_step: int = 100
    valid_step: int = -1
    save_step: int = -1
    patience: int = 0
    keep_checkpoints: int = 2
    max_bad_steps: int = 1
