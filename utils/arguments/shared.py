"""Flags that all entry scripts share. A script adds a dataclass of its own for what only it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.arguments.fields import flag
from utils.arguments.values import LARGEST
from utils.engine.names import NO_STEP_LIMIT, AskedPrecision, EngineName, OptimizerName, Resume, Schedule


@dataclass
class RunArguments:
    """Where a run writes, its seed and precision."""

    _argument_group_name = "run"

    output_path: Path | None = flag(
        None, "Directory of the run: arguments, logs, checkpoints, best model, result.", name="output_dir"
    )
    random_seed: int = flag(1, "Seed of everything random.", name="seed", least=0, most=LARGEST)
    precision: AskedPrecision = flag(
        "auto",
        "Autocast precision. auto: bf16 on GPUs and CPUs that are fast at it, which is timed, and fp32 elsewhere. fp16 "
        "is refused for T5, which overflows in it.",
    )
    engine: EngineName = flag(
        "ddp",
        "How several processes train: ddp holds the whole model in each, fsdp (FSDP2) divides its parameters among "
        "them, and so does bmtrain (T5 on NVIDIA GPUs with BMTrain installed: docs/distributed.md). A run may go on "
        "with another one. One process needs none.",
    )
    gradient_checkpointing: bool = flag(
        False,
        "Keep only what goes into each layer of the trained model, and run the layer again on the way back: less "
        "memory, about a third more time, the same gradients.",
    )
    cpu_offload: bool = flag(
        False,
        "With --engine fsdp: parameters, gradients and optimizer state stay in the machine's memory, and the optimizer "
        "runs there; a GPU gets the layers that it needs at the moment. With --engine bmtrain: the optimizer's state "
        "alone.",
    )
    resume: Resume = flag(
        False,
        "Go on at the newest checkpoint of --output_dir; with auto, at the newest that is whole, and from the "
        "beginning where there is none yet. Another number of processes needs the --train_batch_size that gives the "
        "same rows in total.",
        nargs="?",
        const=True,
        metavar="auto",
    )
    allow_changed_data: bool = flag(
        False, "With --resume: go on although the data are others than those that the run began with."
    )
    overwrite: bool = flag(False, "Delete the run that --output_dir holds and start anew.")
    num_workers: int = flag(
        0, "Processes that tokenise a streamed corpus; the batches are the same for any number.", least=0
    )
    rank_timeout: float = flag(
        1800.0, "Seconds that a process waits for another one before it says which hangs, and ends.", least=1
    )
    debug: bool = flag(False, "Show the traceback of an error.")


@dataclass
class OptimisationArguments:
    """The training loop."""

    _argument_group_name = "training"

    epochs: int = flag(
        5, "Passes over the training data.", name="num_train_epochs", least=1, hint="--max_steps ends within an epoch"
    )
    training_step: int = flag(
        NO_STEP_LIMIT,
        "End after this many optimizer steps even if epochs are left (the default never does). A linear schedule on a "
        "streamed corpus needs it.",
        name="max_steps",
        least=1,
    )
    batch_size: int = flag(16, "Rows per process and micro-batch.", name="train_batch_size", least=1)
    grad_accumulation: int = flag(1, "Micro-batches per optimizer step.", name="gradient_accumulation_steps", least=1)
    clip_grad: float = flag(10.0, "Largest gradient norm; 0 switches clipping off.", least=0)
    lr: float = flag(1e-5, "Peak learning rate.", name="learning_rate", least=0)
    weight_decay: float = flag(1e-5, "Decoupled weight decay, on every trained parameter.", least=0)
    schedule: Schedule | None = flag(
        None,
        "Learning rate after the warm-up; default: linear on text, constant on tasks.",
    )
    warmup_step: int = flag(
        1, "Steps of linear warm-up: from a learning rate of 0 at the first step to lr at step warm-up + 1.", least=0
    )
    max_bad_steps: int = flag(
        1,
        "Stop at so many steps in a row whose loss or gradients are not finite, with the batch saved; fewer change "
        "nothing and are counted. fp16 meets such steps as it looks for its scale, and stops at 50.",
        least=1,
    )
    optimizer: OptimizerName = flag(
        "adamw", "bertadam: as the first BERT releases; no bias correction, each tensor's gradient clipped to norm 1."
    )


@dataclass
class EvaluationArguments:
    """Validation, selection and checkpoints. Steps are optimizer steps."""

    _argument_group_name = "evaluation and checkpoints"

    inspect_step: int = flag(1000, "Steps between two log lines.", least=1)
    valid_step: int = flag(-1, "Steps between two validations; -1 validates once per epoch.")
    valid_batches: int = flag(0, "Validate on at most this many batches; 0 takes all (corpora only).", least=0)
    save_step: int = flag(-1, "Steps between two checkpoints; -1 saves after every validation.")
    keep_checkpoints: int = flag(2, "Checkpoints that stay on disk.", least=1)
    patience: int = flag(0, "Stop after this many validations without a gain; 0 never does.", least=0)


def for_training_only(run: RunArguments, found: str) -> list[str]:
    """One sentence for every flag that was given and has no effect where nothing is trained.

    Args:
        found: what is done instead.
    """
    return [
        f"--{name} is for training and has no effect in {found}: leave it out"
        for name in ("gradient_checkpointing", "cpu_offload")
        if getattr(run, name)
    ]
