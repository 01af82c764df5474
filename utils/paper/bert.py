"""What the grids of Tucker and MiniDisc share: calls of `task_distill.py`, and the backbone's sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset.errors import DataError
from dataset.glue import read_glue
from dataset.sources import read_json
from dataset.tasks import get_task
from utils.errors import UserError
from utils.opening.places import expanded, model_directory
from utils.paper.stages import Request, Stage, Work, flags, rows_of
from utils.tucker.defaults import Stage as StageName
from utils.tucker.defaults import stage_defaults

_DONE = "evaluation.json"
_SIZES = ("hidden_size", "num_hidden_layers", "intermediate_size")


def recipe(task: str, stage: StageName) -> dict[str, Any]:
    """What `task_distill.py` does of itself, under the names of its flags."""
    values = stage_defaults(task, stage)
    return {"epochs": values["epochs"], "batch-size": values["batch_size"], "max_seq_length": values["max_seq_length"]}


def task_stage(
    request: Request, folder: Path, task: str, seed: int, stage: StageName, given: Mapping[str, Any], passes: float
) -> Stage:
    """A call that trains and evaluates; flags that the script sets by itself are not repeated.

    Args:
        passes: forward and backward passes per row; 0 if nothing is trained.
    """
    settings = request.settings(recipe(task, stage), "max_seq_length")
    changed = request.settings({}, "max_seq_length")
    place = {"task_name": task, "data_dir": request.data, "seed": seed, "output_dir": str(folder)}
    work = Work(rows_of(settings, count(task, request.data)), int(settings["max_seq_length"]), passes)
    words = ["task_distill.py", *flags({**given, **changed, **place}), "--do_eval"]
    return Stage(folder, words, work if passes else None, _DONE)


def teacher(request: Request, task: str, seed: int) -> Stage:
    """The fine-tuned BERT of a task."""
    given = {"mode": "finetune", "teacher_model": request.backbone}
    return task_stage(request, request.output / f"{task}-{seed}" / "teacher", task, seed, "finetune", given, 1.0)


def count(task: str, data: str) -> int | None:
    """Rows of a task's training set; None if it is not there."""
    try:
        return len(read_glue(get_task(task), data, "train"))
    except DataError:
        return None


def sizes_of(backbone: str) -> dict[str, int]:
    """The whole numbers in the backbone's config.json.

    Raises:
        UserError, DataError: it is not there, is damaged, or lacks a BERT's sizes.
    """
    values = read_json(Path(model_directory(backbone)) / "config.json")
    found = {name: value for name, value in values.items() if type(value) is int} if isinstance(values, dict) else {}
    if missing := [name for name in _SIZES if name not in found]:
        raise UserError(f"--backbone {backbone}: its config.json has no {missing[0]}, as that of a BERT has.")
    return found


def check_lengths(backbone: str, stages: Sequence[Stage]) -> None:
    """Refuse rows that are longer than a backbone on this machine can read.

    Raises:
        UserError: a stage has some.
    """
    if not expanded(backbone).is_dir():  # of the hub: its own scripts look at what they have fetched
        return
    positions = sizes_of(backbone).get("max_position_embeddings", math.inf)
    if longer := [stage.work.length for stage in stages if stage.work and stage.work.length > positions]:
        raise UserError(
            f"--max_seq_length: inputs of {longer[0]} tokens are longer than the {positions} positions of --backbone "
            f"{backbone}: give at most as many."
        )
