"""Flags that all entry scripts share, as dataclasses whose field texts are the `--help`.

Hyphens and underscores are both accepted. A script adds a dataclass of its own for what only it has.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from transformers import HfArgumentParser

from utils.engine import TrainerConfig
from utils.errors import UserError


def flag(default: Any, text: str) -> Any:
    """A dataclass field with its help text."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class RunArguments:
    """Where a run writes, its seed and precision."""

    _argument_group_name = "run"

    output_path: Path | None = flag(None, "Directory of the run: arguments, logs, checkpoints, best model, result.")
    random_seed: int = flag(1, "Seed of everything random.")
    precision: Literal["fp32", "bf16", "fp16"] = flag(
        "fp32", "Autocast precision; bf16 also works on CPUs. fp16 is refused for T5, which overflows in it."
    )
    resume: bool = flag(False, "Go on at the newest checkpoint of --output-path.")
    overwrite: bool = flag(False, "Delete the run that --output-path holds and start anew.")
    num_workers: int = flag(0, "Processes that tokenise a streamed corpus; the batches are the same for any number.")
    debug: bool = flag(False, "Show the traceback of an error.")


@dataclass
class OptimisationArguments:
    """The training loop."""

    _argument_group_name = "training"

    epochs: int = flag(5, "Passes over the training data.")
    training_step: int = flag(10_000_000, "End after this many optimizer steps even if epochs are left.")
    batch_size: int = flag(16, "Rows per process and micro-batch.")
    grad_accumulation: int = flag(1, "Micro-batches per optimizer step.")
    clip_grad: float = flag(10.0, "Largest gradient norm; 0 switches clipping off.")
    lr: float = flag(1e-5, "Peak learning rate.")
    weight_decay: float = flag(1e-5, "Decoupled weight decay, on every trained parameter.")
    schedule: Literal["linear", "constant"] | None = flag(
        None, "Learning rate after the warm-up; default: linear for pre-training, constant for tasks."
    )
    warmup_step: int = flag(1, "Steps of linear warm-up; step n has learning rate lr · n / warm-up.")


@dataclass
class EvaluationArguments:
    """Validation, selection and checkpoints. Steps are optimizer steps."""

    _argument_group_name = "evaluation and checkpoints"

    inspect_step: int = flag(1000, "Steps between two log lines.")
    valid_step: int = flag(-1, "Steps between two validations; -1 validates once per epoch.")
    valid_batches: int = flag(0, "Validate on at most this many batches; 0 takes all (corpora only).")
    save_step: int = flag(-1, "Steps between two checkpoints; -1 saves after every validation.")
    keep_checkpoints: int = flag(2, "Checkpoints that stay on disk.")
    patience: int = flag(0, "Stop after this many validations without a gain; 0 never does.")


class _Parser(HfArgumentParser):
    """Tells a mistake as one sentence instead of the whole usage text."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists all flags).")


def parse(
    types: Sequence[type],
    description: str,
    arguments: Sequence[str] | None = None,
    ignored: Sequence[str] = (),
) -> tuple[Any, ...]:
    """Parse the command line into one dataclass per type.

    Args:
        ignored: flags of the original that never had an effect: accepted, with a warning.

    Raises:
        UserError: a flag is unknown, or a value is not what the flag takes.
    """
    parser = _Parser(list(types), description=description)
    group = parser.add_argument_group("accepted without effect (as in the original)")
    for name in ignored:
        group.add_argument(f"--{name}", f"--{name.replace('-', '_')}", dest=f"ignored_{name}", help="Has no effect.")
    _add_hyphens(parser)
    given = list(sys.argv[1:] if arguments is None else arguments)
    *values, rest, unknown = parser.parse_args_into_dataclasses(
        args=given, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        raise UserError(_unknown_flags(unknown, parser))
    for name in ignored:
        if getattr(rest, f"ignored_{name}", None) is not None:
            print(f"warning: --{name} has no effect here, nor had it in the original.", file=sys.stderr)
    return tuple(values)


def _add_hyphens(parser: HfArgumentParser) -> None:
    """`--no-costs` beside `--no_costs`: the one kind of flag that the library gives underscores only."""
    for action in parser._actions:
        for option in [o for o in action.option_strings if o.startswith("--") and "_" in o]:
            hyphens = option.replace("_", "-")
            if hyphens not in parser._option_string_actions:
                parser._option_string_actions[hyphens] = action
                action.option_strings = [*action.option_strings, hyphens]


def _unknown_flags(unknown: Sequence[str], parser: HfArgumentParser) -> str:
    known = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
    hint = f"did you mean {near[0]}?" if near else "--help lists all flags."
    return f"Not understood: {' '.join(unknown)}; {hint}"


def as_json(*groups: Any) -> dict[str, Any]:
    """All arguments as JSON values."""
    merged = {k: v for group in groups for k, v in dataclasses.asdict(group).items()}
    return {k: str(v) if isinstance(v, Path) else v for k, v in merged.items()}


def trainer_config(
    optimisation: OptimisationArguments,
    evaluation: EvaluationArguments,
    default_schedule: Literal["linear", "constant"],
) -> TrainerConfig:
    """The loop's settings from the shared flags."""
    return TrainerConfig(
        epochs=optimisation.epochs,
        max_steps=optimisation.training_step,
        lr=optimisation.lr,
        weight_decay=optimisation.weight_decay,
        warmup_steps=optimisation.warmup_step,
        schedule=optimisation.schedule or default_schedule,
        accumulation=optimisation.grad_accumulation,
        clip_norm=optimisation.clip_grad,
        inspect_step=evaluation.inspect_step,
        valid_step=evaluation.valid_step,
        save_step=evaluation.save_step,
        patience=evaluation.patience,
        keep_checkpoints=evaluation.keep_checkpoints,
    )
