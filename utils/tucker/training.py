"""One stage of training, from an objective to its result: what both distillation scripts do alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from dataset import BatchSource
from model import QuantizationConfig, find_edit
from model.compression import edits_of
from utils.arguments import RunArguments
from utils.engine import RunDirectory, Runtime, Trainer, TrainerConfig
from utils.engine.run_directory import ARGUMENTS_FILE, environment, recorded_arguments
from utils.errors import UserError
from utils.hints import next_lines
from utils.outputs import json_with
from utils.writing import write_json


@dataclass(frozen=True)
class Fit:
    """What a stage trains.

    Attributes:
        objective: gives the loss; see `model.distillation`.
        student: the part of it that is saved.
        source: the training batches.
        evaluate: gives the metrics of the present weights; its `sources`, if it has any, are the batches that it reads.
        selection: the metric that selects the best model.
        save: writes the present model into an empty directory; left out, the student as it is.

    Raises:
        UserError: the student's weights are rounded: only what is left of it would be trained, and nothing said.
    """

    objective: nn.Module
    student: Any
    tokenizer: Any
    source: BatchSource
    evaluate: Callable[[], dict[str, float]]
    selection: str
    save: Callable[[Path], None] | None = None

    def __post_init__(self) -> None:
        if find_edit(self.student, QuantizationConfig) is not None:
            raise UserError(
                "A quantised model cannot be trained: train what it was made of, and round that (utils.quantize)."
            )


def open_run(runtime: Runtime, run: RunArguments, arguments: dict[str, Any]) -> RunDirectory:
    """Claim the output directory, on all processes together.

    Raises:
        UserError: another run lives there, or resuming does not fit.
    """
    path = run.output_path
    assert path is not None
    return runtime.together(
        lambda: RunDirectory(
            path,
            arguments,
            run.resume,
            run.overwrite,
            runtime.is_main,
            runtime.world_size,
            run.allow_changed_data,
            runtime.choice.fields,
        )
    )


def make_directory(path: Path) -> None:
    """Make a directory for results, if it is not there.

    Raises:
        UserError: it cannot be made, is a file, or holds files of others under the names of results.
    """
    for name, is_ours in ((ARGUMENTS_FILE, json_with("arguments")), ("evaluation.json", json_with("task", "model"))):
        if (path / name).exists() and not is_ours(path / name):
            raise UserError(f"--output_dir {path} holds {name}, which no run has written: name another directory.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make --output_dir {path}: {error.strerror}.") from error


def record_call(folder: Path, arguments: dict[str, Any]) -> None:
    """arguments.json of an evaluation in a folder of its own; that of a run which trained here, or below, stays."""
    trained = [*folder.glob("result.json"), *folder.glob(f"*/{ARGUMENTS_FILE}")]
    recorded = folder / ARGUMENTS_FILE
    if trained or (recorded.is_file() and recorded_arguments(folder).get("stage") is not None):
        return
    write_json(recorded, {"arguments": arguments, **environment(), "seed": arguments.get("random_seed")})


def fit(runtime: Runtime, directory: RunDirectory, config: TrainerConfig, parts: Fit) -> dict[str, Any]:
    """Train, keep the best model (with its tokenizer) in `best/`, and write result.json; gives its values."""

    def save(target: Path) -> None:
        if parts.save is None:
            parts.student.save_pretrained(target)
        else:
            parts.save(target)
        parts.tokenizer.save_pretrained(target)

    evaluate, valid = parts.evaluate, getattr(parts.evaluate, "sources", ())
    trainer = Trainer(runtime, parts.objective, parts.source, config, directory, evaluate, parts.selection, save, valid)
    progress = trainer.fit()
    return {
        "metric": parts.selection,
        "best_value": progress.best_value,
        "best_step": progress.best_step,
        "steps": progress.step,
        "tokens": progress.tokens,
        "train_seconds": progress.seconds,
    }


def with_patience(config: TrainerConfig, epochs: int, batches: int | None) -> TrainerConfig:
    """`config` with an early stop after so many epochs without a gain, counted in evaluations; 0 changes nothing.

    Args:
        batches: micro-batches of an epoch.
    """
    if not epochs or batches is None:
        return config
    per_epoch = 1.0 if config.valid_step <= 0 else -(-batches // config.accumulation) / config.valid_step
    return replace(config, patience=max(1, round(epochs * per_epoch)))


def finish(
    runtime: Runtime,
    directory: RunDirectory,
    result: dict[str, Any],
    commands: Sequence[str],
    further: Literal["or", "then"] = "or",
) -> None:
    """Write result.json and say what was made and which commands use it; see `utils.hints.next_lines`."""
    if runtime.is_main:
        write_json(directory.path / "result.json", {**result, **runtime.choice.fields})
        print("\n".join([f"made: {directory.best}", *filter(None, [next_lines(commands, further)])]), flush=True)


def describe(model: Any) -> str:
    """The edits that a model carries, in words."""
    return " + ".join(edit.kind for edit in edits_of(model)) or "dense"
