"""Predictions of a task's test sets: files of a GLUE submission, or CoNLL's columns with one more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset import DataError, TaggedSentence, Task
from dataset.conll import write_conll
from dataset.submission import FILES, HEADER, write_zip
from dataset.submission import write_predictions as write_file
from metric.ner import entity_scores
from utils.engine import Runtime
from utils.engine.run_files import RUN_FOLDERS, first_other
from utils.errors import UserError
from utils.outputs import holds
from utils.tucker.data import DataRequest, test_batches, test_sentences, test_sets
from utils.tucker.evaluation import predict, predict_tags
from utils.tucker.tasks import is_tagged
from utils.writing import atomic_file


def write_predictions(runtime: Runtime, model: Any, request: DataRequest, tokenizer: Any, folder: Path) -> list[str]:
    """Predict every test set of the task and write its file; with GLUE's last missing one comes the checked zip.

    Of a task of tagged words TASK.txt has the columns of the test file and one more, the predicted tag.

    Returns:
        Lines that say what was made, and what was left out.

    Raises:
        UserError: somebody's files lie in the folder under these names.
        DataError: a test file is missing (AX may be) or broken, or the whole submission is not right.
    """
    check_place(folder, request.data_dir)
    if is_tagged(request.task):
        return _write_tags(runtime, model, request, tokenizer, folder)
    said = []
    for task, needed in test_sets(request.task):
        try:
            source, row_ids = test_batches(request, task, tokenizer, runtime)
        except DataError as error:
            if needed:
                raise
            said.append(f"left out: {FILES[task.name].file} ({error})")
            continue
        predictions = predict(runtime, model, task, source)
        if runtime.is_main:
            path = folder / FILES[task.name].file
            with atomic_file(path) as file:
                write_file(task.name, _values(task, predictions), file.parent, row_ids)
            said.append(f"made: {path} ({len(predictions)} rows{_numbering(row_ids)})")
    if runtime.is_main:
        said.append(_submission(folder))
    return said


def check_place(folder: Path, data: str) -> None:
    """Refuse a folder in which predictions would replace data, or what is none of theirs.

    Raises:
        UserError: with the first file.
    """
    for entry in FILES.values():
        file = folder / entry.file
        if file.is_file() and not file.read_bytes().startswith(HEADER.encode()):
            raise UserError(f"--predictions_dir {folder}: {file} holds no predictions: name another folder.")
    is_within = folder.is_dir() and holds(Path(data), folder)
    if is_within and (other := first_other(folder, RUN_FOLDERS["predictions"])) is not None:
        raise UserError(f"--predictions_dir {folder} lies in --data_dir {data} and holds {other}: name another folder.")


def _write_tags(runtime: Runtime, model: Any, request: DataRequest, tokenizer: Any, folder: Path) -> list[str]:
    sentences, rows = test_sentences(request, tokenizer, runtime)
    predictions = predict_tags(runtime, model, rows)
    if not runtime.is_main:
        return []
    names = request.task.labels
    columns = [
        [(*row, names[tag]) for row, tag in zip(sentence.rows, tags, strict=True)]
        for sentence, tags in zip(sentences, predictions, strict=True)
    ]
    path = folder / f"{request.task.name}.txt"
    with atomic_file(path) as file:
        write_conll(file, columns)
    return [f"made: {path} ({len(sentences)} sentences{_scores(sentences, predictions, names)})"]


def _scores(sentences: list[TaggedSentence], predictions: list[list[int]], names: Sequence[str]) -> str:
    """What the test file's own tags say of the predictions, if it has any."""
    expected = [sentence.tags for sentence in sentences if sentence.tags is not None]
    if len(expected) < len(sentences):
        return ""
    found = entity_scores(predictions, expected, names)
    return "; " + ", ".join(f"{name} {value:.4f}" for name, value in found.items())


def _values(task: Task, predictions: list[float]) -> list[int | float]:
    return list(predictions) if task.kind == "regression" else [int(value) for value in predictions]


def _numbering(row_ids: Sequence[str] | None) -> str:
    """What to say of a test file's own index, where it is not that of a submission."""
    in_order = row_ids is None or all(called == str(at) for at, called in enumerate(row_ids))
    return "" if in_order else ", under the test file's own index, which is not 0, 1, 2 …"


def _submission(folder: Path) -> str:
    missing = [entry.file for entry in FILES.values() if not (folder / entry.file).is_file()]
    if missing:
        return f"no submission yet, {folder} lacks {', '.join(missing)}"
    archive = folder / "submission.zip"
    with atomic_file(archive) as file:
        write_zip(folder, file)
    return f"made: {archive} (all {len(FILES)} files, checked)"
