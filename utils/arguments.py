"""Flags that all entry scripts share, as dataclasses whose field texts are the `--help`.

Hyphens and underscores are both accepted. A script adds a dataclass of its own for what only it has.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from transformers import HfArgumentParser

from utils.engine import NO_STEP_LIMIT, AskedPrecision, Runtime, TrainerConfig
from utils.engine.engines import EngineName
from utils.engine.resume import Resume
from utils.engine.run_directory import recorded_precision
from utils.errors import UserError


def flag(default: Any, text: str, **options: Any) -> Any:
    """A dataclass field with its help text, and further options of `add_argument`."""
    metadata = {"help": text, **options}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class RunArguments:
    """Where a run writes, its seed and precision."""

    _argument_group_name = "run"

    output_path: Path | None = flag(None, "Directory of the run: arguments, logs, checkpoints, best model, result.")
    random_seed: int = flag(1, "Seed of everything random.")
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
        "Go on at the newest checkpoint of --output-path; with auto, at the newest that is whole, and from the "
        "beginning where there is none yet. Another number of processes needs the --batch-size that gives the same "
        "rows in total.",
        nargs="?",
        const=True,
        metavar="auto",
    )
    allow_changed_data: bool = flag(
        False, "With --resume: go on although the data are others than those that the run began with."
    )
    overwrite: bool = flag(False, "Delete the run that --output-path holds and start anew.")
    num_workers: int = flag(0, "Processes that tokenise a streamed corpus; the batches are the same for any number.")
    rank_timeout: float = flag(
        1800.0, "Seconds that a process waits for another one before it says which hangs, and ends."
    )
    debug: bool = flag(False, "Show the traceback of an error.")


@dataclass
class OptimisationArguments:
    """The training loop."""

    _argument_group_name = "training"

    epochs: int = flag(5, "Passes over the training data.")
    training_step: int = flag(
        NO_STEP_LIMIT,
        "End after this many optimizer steps even if epochs are left (the default never does). A linear schedule on a "
        "streamed corpus needs it.",
    )
    batch_size: int = flag(16, "Rows per process and micro-batch.")
    grad_accumulation: int = flag(1, "Micro-batches per optimizer step.")
    clip_grad: float = flag(10.0, "Largest gradient norm; 0 switches clipping off.")
    lr: float = flag(1e-5, "Peak learning rate.")
    weight_decay: float = flag(1e-5, "Decoupled weight decay, on every trained parameter.")
    schedule: Literal["linear", "constant"] | None = flag(
        None,
        "Learning rate after the warm-up; default: linear on text, constant on tasks.",
    )
    warmup_step: int = flag(1, "Steps of linear warm-up; step n has learning rate lr · n / warm-up.")
    max_bad_steps: int = flag(
        1,
        "Stop at so many steps in a row whose loss or gradients are not finite, with the batch saved; fewer change "
        "nothing and are counted. fp16 meets such steps as it looks for its scale, and stops at 50.",
    )
    optimizer: Literal["adamw", "bertadam"] = flag(
        "adamw", "bertadam: as the first BERT releases; no bias correction, each tensor's gradient clipped to norm 1."
    )


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


class _BothSpellings(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something which the text does not."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        known = action.default is None or action.default is False or (text is not None and "default" in text)
        return text if known else super()._get_help_string(action)


class _OneSpelling(_BothSpellings):
    """Shows each flag with underscores only."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        given = action.option_strings
        names = [name for name in given if "-" not in name[2:] or "--" + name[2:].replace("-", "_") not in given]
        is_switch = action.nargs == 0 or (action.nargs == "?" and action.const is True and not action.metavar)
        value = "" if is_switch else self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(names)} {value}".rstrip()


class _Parser(HfArgumentParser):
    """Tells a mistake as one sentence instead of the whole usage text."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists all flags).")


#: Help text of a flag that is not shown.
HIDDEN = argparse.SUPPRESS

#: Smallest values that make sense of the shared flags (not a number is below all of them).
AT_LEAST: Mapping[str, float] = {
    "epochs": 1,
    "training_step": 1,
    "batch_size": 1,
    "grad_accumulation": 1,
    "inspect_step": 1,
    "keep_checkpoints": 1,
    "rank_timeout": 1,
    "max_bad_steps": 1,
    "valid_batches": 0,
    "patience": 0,
    "num_workers": 0,
    "warmup_step": 0,
    "clip_grad": 0,
    "lr": 0,
    "weight_decay": 0,
}


def too_small(groups: Iterable[object], at_least: Mapping[str, float]) -> list[str]:
    """One sentence for every number of `groups` that is below its least value."""
    values = {name: value for group in groups for name, value in vars(group).items()}
    return [
        f"--{name.replace('_', '-')} must be at least {least}, found {values[name]}"
        for name, least in at_least.items()
        if values.get(name) is not None and not values[name] >= least
    ]


def for_training_only(run: RunArguments, found: str) -> list[str]:
    """One sentence for every flag that was given and has no effect where nothing is trained.

    Args:
        found: what is done instead.
    """
    return [
        f"--{name.replace('_', '-')} is for training and has no effect in {found}: leave it out"
        for name in ("gradient_checkpointing", "cpu_offload")
        if getattr(run, name)
    ]


def parse(
    types: Sequence[type],
    description: str,
    arguments: Sequence[str] | None = None,
    ignored: Sequence[str] | Mapping[str, str] = (),
    warn: bool = True,
    aliases: Mapping[str, Sequence[str]] | None = None,
    defaults: Mapping[str, Any] | None = None,
    epilog: str | None = None,
    texts: Mapping[str, str] | None = None,
    prog: str | None = None,
    both_spellings: bool = False,
) -> tuple[Any, ...]:
    """Parse the command line into one dataclass per type.

    Args:
        ignored: flags of the original that are accepted with a warning; a mapping says for each why it has no effect,
            of the others it is said that they never had one.
        warn: whether to tell so.
        aliases: field name -> further names of its flag.
        defaults: field name -> another default than the dataclass has.
        epilog: printed below the flags by `--help`.
        texts: field name -> another help text than the dataclass has; `HIDDEN` leaves the flag out of the help.
        prog: how the program is called, where that is not the name of its file.
        both_spellings: show flags with hyphens, too; for scripts whose users know them so.

    Raises:
        UserError: a flag is unknown, or a value is not what the flag takes.
    """
    description = f"{description} Hyphens and underscores are the same in flags."
    formatter = _BothSpellings if both_spellings else _OneSpelling
    parser = _Parser(list(types), prog=prog, description=description, epilog=epilog, formatter_class=formatter)
    group = parser.add_argument_group("accepted without effect (as in the original)")
    reasons = ignored if isinstance(ignored, Mapping) else dict.fromkeys(ignored, "")
    for name, reason in reasons.items():
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}"))
        text = f"Has no effect{': ' if reason else ''}{reason}."
        group.add_argument(*spellings, dest=f"ignored_{name}", nargs="?", const="", help=text)
    _add_names(parser, aliases or {})
    _add_hyphens(parser)
    _set_texts(parser, texts or {})
    parser.set_defaults(**(defaults or {}))
    given = list(sys.argv[1:] if arguments is None else arguments)
    found = parser.parse_args_into_dataclasses(args=given, look_for_args_file=False, return_remaining_strings=True)
    values, rest, unknown = found[: len(types)], found[-2], found[-1]  # without ignored flags there is no rest
    if unknown:
        raise UserError(_unknown_flags(unknown, parser))
    for name, reason in reasons.items():
        if warn and getattr(rest, f"ignored_{name}", None) is not None:
            why = f"has no effect: {reason}" if reason else "has no effect here, nor had it in the original"
            print(f"warning: --{name} {why}.", file=sys.stderr)
    return tuple(values)


def whole_number(text: str) -> int:
    """`3` and `3.0`, as the originals' flags take either.

    Raises:
        ValueError: the number has a fraction, or is none.
    """
    number = float(text)
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


def _add_names(parser: HfArgumentParser, aliases: Mapping[str, Sequence[str]]) -> None:
    actions = {action.dest: action for action in reversed(parser._actions)}
    for field_name, names in aliases.items():
        action = actions[field_name]
        if action.type is int:
            action.type = whole_number
        for option in (f"--{name}" for name in names):
            parser._option_string_actions[option] = action
            action.option_strings = [*action.option_strings, option]


def _add_hyphens(parser: HfArgumentParser) -> None:
    """`--no-costs` beside `--no_costs`: the one kind of flag that the library gives underscores only."""
    for action in parser._actions:
        for option in [o for o in action.option_strings if o.startswith("--") and "_" in o]:
            hyphens = option.replace("_", "-")
            if hyphens not in parser._option_string_actions:
                parser._option_string_actions[hyphens] = action
                action.option_strings = [*action.option_strings, hyphens]


def _set_texts(parser: HfArgumentParser, texts: Mapping[str, str]) -> None:
    for action in parser._actions:
        if action.const is False:  # the library repeats the text of --costs
            action.help = f"The opposite of --{action.dest}."
        elif action.dest in texts:
            action.help = texts[action.dest]


def _unknown_flags(unknown: Sequence[str], parser: HfArgumentParser) -> str:
    known = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
    hint = f"did you mean {near[0]}?" if near else "--help lists all flags."
    return f"Not understood: {' '.join(unknown)}; {hint}"


def as_json(*groups: Any) -> dict[str, Any]:
    """All arguments as JSON values."""
    merged = {k: v for group in groups for k, v in dataclasses.asdict(group).items()}
    return {k: str(v) if isinstance(v, Path) else v for k, v in merged.items()}


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
