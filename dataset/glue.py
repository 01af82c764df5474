"""Reads GLUE tasks from TSV files, from saved ``datasets`` folders, or from the hub."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.errors import DataError
from dataset.sources import (
    HUB,
    candidate_folders,
    is_saved_dataset,
    load_hub,
    load_saved,
    not_found,
    read_lines,
)
from dataset.tasks import Split, Task, known_split

logger = logging.getLogger(__name__)

_HUB_REPOSITORY = "nyu-mll/glue"
# CoLA's training and development files have no header.
_COLA_HEADER = ["source", "label", "mark", "sentence"]


@dataclass(frozen=True, slots=True)
class GlueExample:
    """One row: texts as published, never stripped; ``label`` is a class id, a score, or None if hidden."""

    index: int
    text_a: str
    text_b: str | None = None
    label: int | float | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The text fields, in the order of ``Task.columns``."""
        return (self.text_a,) if self.text_b is None else (self.text_a, self.text_b)


def read_glue(task: Task, data_path: str | Path, split: str, file: str | None = None) -> list[GlueExample]:
    """Every row of one split, in file order.

    Args:
        task: a GLUE task of the table.
        data_path: a folder written by ``save_to_disk``, a folder with GLUE's TSV files, a parent of either
            (``data_path/sst2``, ``data_path/glue/sst2``, ``data_path/SST-2`` …), or the word ``hub``.
        split: train, valid or test. Test labels are None where GLUE hides them.
        file: name of another TSV file with the columns of that split (``train_aug.tsv``); no saved dataset then.

    Raises:
        DataError: nothing to read there, or a row is broken; the message names file and line.
    """
    which = known_split(split)
    if not task.hub_name:
        raise DataError(f"{task.name} is not a GLUE task")
    if str(data_path) == HUB and file is None:
        rows = load_hub(_HUB_REPOSITORY, task.hub_name, task.hub_split(which))
        return _from_saved(task, rows, f"hub:{_HUB_REPOSITORY}/{task.hub_name}", which)
    root = Path(data_path)
    folders = candidate_folders(root, (task.name, task.hub_name, task.folder))
    name = file or task.split_file(which)
    for folder in folders:
        if file is None and is_saved_dataset(folder):
            return _from_saved(task, load_saved(folder, task.hub_split(which)), str(folder), which)
        if (folder / name).is_file():
            return _from_tsv(task, folder / name, which)
    raise DataError(not_found(root, folders, f"{name} of {task.name}"))


# --- TSV ------------------------------------------------------------------------------------------


def _from_tsv(task: Task, path: Path, split: Split) -> list[GlueExample]:
    examples: list[GlueExample] = []
    short_rows = 0
    rows = _tsv_rows(task, path, split)
    at, header = next(rows)
    wanted = [_column(header, name, f"{path}:{at}") for name in task.file_columns]
    label_at = header.index(task.file_label_column) if task.file_label_column in header else None
    if label_at is None and split != "test":
        raise DataError(f"{path}:{at}: no column {task.file_label_column!r}, the header is {', '.join(header)}")
    needed = max([*wanted, -1 if label_at is None else label_at]) + 1
    for number, row in rows:
        if len(row) < needed:
            if task.skip_short_rows:
                short_rows += 1
                continue
            raise DataError(f"{path}:{number}: {len(row)} columns, expected at least {needed} (tab separated)")
        label = None if label_at is None else _parse_label(task, row[label_at], f"{path}:{number}")
        texts = [row[at] for at in wanted]
        examples.append(GlueExample(len(examples), texts[0], texts[1] if len(texts) > 1 else None, label))
    if not examples:
        raise DataError(f"{path}: this file has a header and no rows")
    if short_rows:
        logger.warning("%s: %d incomplete rows left out", path, short_rows)
    return examples


def _tsv_rows(task: Task, path: Path, split: Split) -> Iterator[tuple[int, list[str]]]:
    """The header first, then every non-empty row, with line numbers. Quotes are text: GLUE does not quote."""
    seen = 0
    if task.name == "cola" and split != "test":
        yield 0, _COLA_HEADER
    for line in read_lines(path):
        if line.text:
            seen += 1
            yield line.number, line.text.split("\t")
    if not seen:
        raise DataError(f"{path}: this file is empty")


def _column(header: list[str], name: str, where: str) -> int:
    if name not in header:
        raise DataError(f"{where}: no column {name!r}, the header is {', '.join(header)}")
    return header.index(name)


def _parse_label(task: Task, text: str, where: str) -> int | float:
    if task.kind == "regression":
        return _parse_score(text, where)
    if text not in task.file_labels:
        raise DataError(f"{where}: label {text!r} is none of {task.name}'s: {', '.join(task.file_labels)}")
    return task.file_labels.index(text)


def _parse_score(text: str, where: str) -> float:
    try:
        score = float(text)
    except ValueError as error:
        raise DataError(f"{where}: score {text!r} is not a number") from error
    if not math.isfinite(score):
        raise DataError(f"{where}: score {text!r} is not a finite number")
    return score


# --- saved datasets and the hub -------------------------------------------------------------------


def _from_saved(task: Task, rows: Any, where: str, split: Split) -> list[GlueExample]:
    missing = [name for name in task.columns if name not in rows.column_names]
    if split != "test" and "label" not in rows.column_names:
        missing.append("label")
    if missing:
        raise DataError(f"{where}: no column {', '.join(missing)}, the columns are {', '.join(rows.column_names)}")
    if not len(rows):
        raise DataError(f"{where}: the split {task.hub_split(split)!r} is empty")
    texts = [[_saved_text(text, f"{where}: {name}") for text in rows[name]] for name in task.columns]
    labels = list(rows["label"]) if "label" in rows.column_names else [None] * len(rows)
    names = getattr(rows.features.get("label"), "names", None)
    return [
        GlueExample(
            index,
            texts[0][index],
            texts[1][index] if len(texts) > 1 else None,
            _saved_label(task, labels[index], names, f"{where}: row {index}", split),
        )
        for index in range(len(rows))
    ]


def _saved_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: found {value!r}, expected text")
    return value


def _saved_label(task: Task, value: Any, names: list[str] | None, where: str, split: Split) -> int | float | None:
    """A label id in this table's order; the class names stored with the dataset decide, where it has any."""
    if split == "test" and (value is None or value == -1):
        return None
    if task.kind == "regression":
        return _parse_score(str(value), where)
    if isinstance(value, int) and names and 0 <= value < len(names):
        value = names[value]
    if isinstance(value, str) and value in task.labels:
        return task.labels.index(value)
    if isinstance(value, int) and not names and 0 <= value < len(task.labels):
        return value
    raise DataError(f"{where}: label {value!r} is none of {task.name}'s: {', '.join(task.labels)}")
