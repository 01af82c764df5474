"""Which checkpoint a resumed run goes on at: the newest, or with `--resume auto` the newest that is whole."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from model.errors import ModelError
from model.weights import read_json
from utils.checksums import damage_in
from utils.engine.checkpoint import TENSOR_FILES, list_checkpoints, read_trainer_file
from utils.engine.names import Resume
from utils.errors import UserError, writing

#: Behind the name of a checkpoint that could not be used: it stays, and nothing counts it among the others.
SET_ASIDE = ".unusable"


def problem_of(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be read, in one sentence without its full stop; None if it is whole.

    Every file has to be as it was written. Older checkpoints have no checksums: of their weight files the header is
    read, which says how long the file must be.
    """
    try:
        read_trainer_file(checkpoint)
        if (checkpoint / "arguments.json").is_file():
            read_json(checkpoint / "arguments.json")
    except (ModelError, UserError) as error:
        return str(error).rstrip(".")
    for name in TENSOR_FILES:
        path = checkpoint / name
        if not path.is_file():
            return f"There is no weight file {path}"
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file: {error}"
    return damage_in(checkpoint)


def prepare_resume(run_directory: Path, resume: Resume) -> list[str]:
    """Make sure that the newest checkpoint is one to go on at. Nothing is deleted.

    With `"auto"`, newer ones that are not whole get another name (`step-00000008.unusable`).

    Returns:
        A sentence for each that was set aside.

    Raises:
        UserError: the newest is not whole and `resume` is not `"auto"`, or none is whole.
    """
    checkpoints = list_checkpoints(run_directory)[::-1]
    broken: list[tuple[Path, str]] = []
    for path in checkpoints:
        problem = problem_of(path)
        if problem is None:
            break
        broken.append((path, problem))
    if not broken:
        return []
    problem = broken[0][1]
    if len(broken) == len(checkpoints):
        raise UserError(
            f"{problem}; no older checkpoint in {run_directory} is whole: --overwrite deletes this run and begins anew."
        )
    if resume != "auto":
        raise UserError(f"{problem}; {checkpoints[len(broken)]} is whole: --resume auto goes on there.")
    return [f"{problem}; it is kept as {_set_aside(path)}" for path, problem in broken]


def _set_aside(checkpoint: Path) -> Path:
    """Rename a checkpoint so that it is neither chosen nor cleaned up."""
    target, number = checkpoint.with_name(checkpoint.name + SET_ASIDE), 1
    while target.exists():
        number += 1
        target = checkpoint.with_name(f"{checkpoint.name}{SET_ASIDE}.{number}")
    with writing(target):
        checkpoint.rename(target)
    return target
