"""What the grids of Tucker and MiniDisc share: calls of `task_distill.py`, and how long a BERT takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from dataset import DataError, get_task, read_glue
from model.pretrained import new_model
from utils.errors import UserError
from utils.opening.files import open_config
from utils.opening.places import model_directory
from utils.paper.stages import Request, Stage, Work, flags, rows_of, time_training
from utils.tucker.defaults import Stage as StageName
from utils.tucker.defaults import stage_defaults

_DONE = "evaluation.json"


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


def config_of(backbone: str) -> Any:
    """The backbone's config.json.

    Raises:
        UserError, ModelError: it is not there, or cannot be used.
    """
    return open_config(model_directory(backbone))


def timer(backbone: str, threads: int) -> Callable[[int], float]:
    """Seconds per row and length of training a BERT of the backbone's sizes; random weights take as long as others.

    Raises:
        UserError, ModelError: the backbone is not there; of what it gives, if a length is beyond the backbone's
            positions.
    """
    config = config_of(backbone)

    def step(model: Any, ids: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = model(input_ids=ids).logits.float().square().mean()
        return loss

    timed = time_training(new_model(AutoModelForSequenceClassification, config), step, threads)

    def seconds(length: int) -> float:
        if length > config.max_position_embeddings:
            raise UserError(
                f"--max_seq_length: inputs of {length} tokens are longer than the {config.max_position_embeddings} "
                f"positions of --backbone {backbone}: give at most as many."
            )
        return timed(length)

    return seconds
