"""Predictions of a task's test sets, as files of a GLUE submission."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataset import DataError, Task
from dataset.submission import FILES, write_zip
from dataset.submission import write_predictions as write_file
from utils.engine import Runtime
from utils.tucker.data import DataRequest, test_batches, test_sets
from utils.tucker.evaluation import predict


def write_predictions(runtime: Runtime, model: Any, request: DataRequest, tokenizer: Any, folder: Path) -> list[str]:
    """Predict every test set of the task and write its file; with the last missing one comes the checked zip.

    Returns:
        Lines that say what was made, and what was left out.

    Raises:
        DataError: a test file is missing (AX may be) or broken, or the whole submission is not right.
    """
    said = []
    for task, needed in test_sets(request.task):
        try:
            source = test_batches(request, task, tokenizer, runtime)
        except DataError as error:
            if needed:
                raise
            said.append(f"left out: {FILES[task.name].file} ({error})")
            continue
        predictions = predict(runtime, model, task, source)
        if runtime.is_main:
            path = write_file(task.name, _values(task, predictions), folder)
            said.append(f"made: {path} ({len(predictions)} rows)")
    if runtime.is_main:
        said.append(_submission(folder))
    return said


def _values(task: Task, predictions: list[float]) -> list[int | float]:
    return list(predictions) if task.kind == "regression" else [int(value) for value in predictions]


def _submission(folder: Path) -> str:
    missing = [entry.file for entry in FILES.values() if not (folder / entry.file).is_file()]
    if missing:
        return f"no submission yet, {folder} lacks {', '.join(missing)}"
    return f"made: {write_zip(folder)} (all {len(FILES)} files, checked)"
