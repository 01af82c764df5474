"""The tasks that an encoder is made for."""

from __future__ import annotations

import argparse

from dataset.errors import DataError
from dataset.tasks import TASKS, Task, get_task
from utils.arguments.values import text


def task_for(name: str) -> Task:
    """The task that a model is made for: one of GLUE's, or one of tagged words.

    Raises:
        DataError: it is unknown, neither of these, or one that is only evaluated (mnli-mm).
    """
    task = get_task(name)
    if task.name == "mnlimm":
        raise DataError(f"--task_name {name} has no model of its own: use mnli, which evaluates and predicts it too")
    if not task.hub_name and not is_tagged(task):
        tagged = " or ".join(known.name for known in TASKS.values() if is_tagged(known))
        raise DataError(f"--task_name {name} is no GLUE task: expected one of the nine, {tagged}")
    return task


def is_tagged(task: Task) -> bool:
    """Whether each word has a label of its own."""
    return task.kind == "token_classification"


def name_of_task(word: str) -> str:
    """The short name of a task in any spelling, as the value of a flag.

    Raises:
        argparse.ArgumentTypeError: see `task_for`.
    """
    try:
        return task_for(text(word)).name
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--task_name ")) from None
