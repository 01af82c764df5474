"""Reads GLUE tasks from TSV files, from saved ``datasets`` folders, or from the hub."""

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.errors import DataError, shown
from dataset.sources import (
    candidate_folders,
    is_hub,
    is_saved_dataset,
    load_hub,
    load_saved,
    not_found,
)
from dataset.tasks import Split, Task, known_split
from dataset.tsv import open_tsv

logger = logging.getLogger(__name__)

_HUB_REPOSITORY = "nyu-mll/glue"
#: The scores of STS-B, from the least to the most alike.
SCORES = (0.0, 5.0)
#: Columns that number the rows of a test set.
_IDS = ("index", "idx", "id")
_CSV_QUOTED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')


@dataclass(frozen=True, slots=True)
class GlueExample:
    """One row: texts as published, never stripped.

    Attributes:
        index: its place in the split.
        text_a, text_b: the texts, the second where the task has two.
        label: a class id, a score, or None if hidden.
        row_id: of a test row what its file calls it (the column index, idx or id), which predictions carry.
    """

    index: int
    text_a: str
    text_b: str | None = None
    label: int | float | None = None
    row_id: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The text fields, in the order of ``Task.columns``."""
        return (self.text_a,) if self.text_b is None else (self.text_a, self.text_b)


def read_glue(
    task: Task, data_path: str | Path, split: str, file: str | None = None, flag: str = "--data_dir"
) -> list[GlueExample]:
    """Every row of one split, in file order.

    Args:
        task: a GLUE task of the table.
        data_path: see ``find_glue``; or the word ``hub``.
        split: train, valid or test. Test labels are None where GLUE hides them or something else stands there.
        file: name of another TSV file with the columns of that split (``train_aug.tsv``); no saved dataset then.
        flag: the option that gave `data_path`, for messages.

    Raises:
        DataError: nothing to read there, or a row is broken; the message names file and line.
    """
    which = known_split(split)
    if not task.hub_name:
        raise DataError(f"{task.name} is not a GLUE task")
    if is_hub(data_path) and file is None:
        rows = load_hub(_HUB_REPOSITORY, task.hub_name, task.hub_split(which), data_path)
        return _from_saved(task, rows, f"hub:{_HUB_REPOSITORY}/{task.hub_name}", which)
    path = find_glue(task, data_path, which, file, flag)
    if path.is_dir():
        return _from_saved(task, load_saved(path, task.hub_split(which)), str(path), which)
    return _from_tsv(task, path, which)


def find_glue(
    task: Task, data_path: str | Path, split: Split, file: str | None = None, flag: str = "--data_dir"
) -> Path:
    """The TSV file with a split, or the folder that ``save_to_disk`` wrote; the nearest of them.

    Args:
        data_path: a folder with either, or a parent (``data_path/sst2``, ``data_path/glue/sst2``, ``data_path/SST-2``
            …).
        file: name of another TSV file than the split's; no saved dataset then.

    Raises:
        DataError: neither is there; the message says what is.
    """
    root = Path(data_path)
    folders = candidate_folders(root, (task.name, task.hub_name, task.folder))
    name = file or task.split_file(split)
    for folder in folders:
        if file is None and is_saved_dataset(folder):
            return folder
        if (folder / name).is_file():
            return folder / name
    raise DataError(not_found(root, folders, f"neither {name} of {task.name} nor a saved dataset", flag))


# --- TSV ------------------------------------------------------------------------------------------


def _from_tsv(task: Task, path: Path, split: Split) -> list[GlueExample]:
    file = open_tsv(task, path, split)
    wanted = [file.column(name) for name in task.file_columns]
    is_test = split == "test"
    has_label = not is_test or task.file_label_column in file.header
    label_at = file.column(task.file_label_column) if has_label else None
    ids_at = next((at for at, name in enumerate(file.header) if name in _IDS), None) if is_test else None
    examples: list[GlueExample] = []
    lines: list[int] = []
    for number, row in file.rows():
        label = None if label_at is None else _label(task, row[label_at], f"{path}:{number}", split)
        texts = [row[at] for at in wanted]
        second = texts[1] if len(texts) > 1 else None
        lines.append(number)
        examples.append(GlueExample(len(examples), texts[0], second, label, None if ids_at is None else row[ids_at]))
    _check_ids(examples, lambda at: f"{path}:{lines[at]}")
    _warn_quoted(examples, str(path))
    return examples


def _label(task: Task, text: str, where: str, split: Split) -> int | float | None:
    """A row's label; None where a test file has a placeholder in its place."""
    try:
        return _parse_label(task, text, where)
    except DataError:
        if split == "test":
            return None
        raise


def _check_ids(examples: Sequence[GlueExample], where: Callable[[int], str]) -> None:
    """Predictions carry the ids of their rows, so that one id for two rows tells nothing."""
    seen: dict[str, int] = {}
    for at, example in enumerate(examples):
        if example.row_id is not None and seen.setdefault(example.row_id, at) != at:
            raise DataError(f"{where(at)}: the index {shown(example.row_id)} is that of {where(seen[example.row_id])}")


def _warn_quoted(examples: Sequence[GlueExample], where: str) -> None:
    """Texts as a CSV writer leaves them: their quotes stay, which may not be meant."""
    texts = [text for example in examples for text in example.texts]
    if quoted := [text for text in texts if _CSV_QUOTED.fullmatch(text)]:
        logger.warning(
            "%s: %d of %d texts are in quotes with doubled quotes inside, as a CSV writer leaves them; here all quotes "
            "are text (the first is %s)",
            *(where, len(quoted), len(texts), shown(quoted[0])),
        )


def _parse_label(task: Task, text: str, where: str) -> int | float:
    if task.kind == "regression":
        return _parse_score(text, where)
    if text not in task.file_labels:
        raise DataError(f"{where}: label {shown(text)} is none of {task.name}'s: {', '.join(task.file_labels)}")
    return task.file_labels.index(text)


def _parse_score(text: str, where: str) -> float:
    try:
        score = float(text)
    except ValueError as error:
        raise DataError(f"{where}: score {shown(text)} is not a number") from error
    if not math.isfinite(score):
        raise DataError(f"{where}: score {shown(text)} is not a finite number")
    if not SCORES[0] <= score <= SCORES[1]:
        raise DataError(f"{where}: score {shown(text)} is not between {SCORES[0]:g} and {SCORES[1]:g}, as STS-B's are")
    return score


# --- saved datasets and the hub -------------------------------------------------------------------


def _from_saved(task: Task, rows: Any, where: str, split: Split) -> list[GlueExample]:
    missing = [name for name in task.columns if name not in rows.column_names]
    if split != "test" and "label" not in rows.column_names:
        missing.append("label")
    if missing:
        raise DataError(f"{where}: no column {', '.join(missing)}, it has {shown(', '.join(rows.column_names))}")
    if not len(rows):
        raise DataError(f"{where}: the split {task.hub_split(split)!r} is empty")
    texts = [[_saved_text(text, f"{where}: {name}") for text in rows[name]] for name in task.columns]
    labels = list(rows["label"]) if "label" in rows.column_names else [None] * len(rows)
    names = getattr(rows.features.get("label"), "names", None)
    ids_in = next((name for name in rows.column_names if name in _IDS), None) if split == "test" else None
    ids = [None] * len(rows) if ids_in is None else [str(value) for value in rows[ids_in]]
    examples = [
        GlueExample(
            index,
            texts[0][index],
            texts[1][index] if len(texts) > 1 else None,
            _saved_label(task, labels[index], names, f"{where}: row {index}", split),
            ids[index],
        )
        for index in range(len(rows))
    ]
    _check_ids(examples, lambda at: f"{where}: row {at}")
    return examples


def _saved_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: found {shown(value)}, expected text")
    return value


def _saved_label(task: Task, value: Any, names: list[str] | None, where: str, split: Split) -> int | float | None:
    """A label id in this table's order; the class names stored with the dataset decide, where it has any.

    None where a test set has a placeholder in its place.
    """
    try:
        return _known_saved_label(task, value, names, where)
    except DataError:
        if split == "test":
            return None
        raise


def _known_saved_label(task: Task, value: Any, names: list[str] | None, where: str) -> int | float:
    if task.kind == "regression":
        return _parse_score(str(value), where)
    if isinstance(value, int) and names and 0 <= value < len(names):
        value = names[value]
    if isinstance(value, str) and value in task.labels:
        return task.labels.index(value)
    if isinstance(value, int) and not names and 0 <= value < len(task.labels):
        return value
    raise DataError(f"{where}: label {shown(value)} is none of {task.name}'s: {', '.join(task.labels)}")
