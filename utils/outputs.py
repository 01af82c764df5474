"""What every command reads and writes, and the check that it replaces nothing that it reads. Needs no library.

`guard` compares paths as the file system knows them: through links and `..`, with or without a slash at the end, in
whatever letters of a disk that does not tell them apart, a run's folder and its best/, a folder and what lies in it.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from utils.errors import UserError


@dataclass(frozen=True)
class Command:
    """The flags of a command, by the names of their values.

    Attributes:
        reads: models, runs and data.
        searched: of those, folders in which everything is read.
        folders: what is written as a folder of its own, in place of what stands there.
        adds: folders to which files of the command's own names are added.
        files: what is written as one file, in place of what stands there.
        beside: path of one of `files` -> that of a file which comes with it.
        ours: whether a file that is there was written by this command, which may replace it without being asked.
    """

    reads: tuple[str, ...] = ()
    searched: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    beside: Callable[[Path], Path] | None = None
    ours: Callable[[Path], bool] = field(default=lambda path: False)


def json_with(*keys: str) -> Callable[[Path], bool]:
    """Whether a file is JSON that has all of `keys`, or a list of such values."""

    def check(path: Path) -> bool:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        rows = values if isinstance(values, list) else [values]
        return all(isinstance(row, dict) and set(keys) <= row.keys() for row in rows)

    return check


def _is_submission(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".tsv") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def is_report(path: Path) -> bool:
    """Whether a file is a page that `utils.report` made."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return REPORT_MARK in file.read(2000)
    except OSError:
        return False


#: Stands at the beginning of what `utils.report` writes.
REPORT_MARK = "made by python -m utils.report"

#: Every command that writes what its user names. `tests/test_outputs.py` sees to it that none is missing.
COMMANDS: Mapping[str, Command] = {
    "train_t5": Command(("model_config", "checkpoint", "plugin_path", "data_path"), folders=("output_path",)),
    "task_distill": Command(
        ("teacher_model", "student_model", "layer_or_sparsity_path", "data_dir"), folders=("output_path",)
    ),
    "general_distill": Command(
        ("teacher_model", "student_model", "pregenerated_data", "valid_data"), folders=("output_path",)
    ),
    "utils.quantize": Command(("model",), folders=("output_dir",)),
    "utils.convert_t5": Command(("source",), folders=("target",)),
    "utils.export": Command(
        ("model", "plugin_path"),
        files=("output",),
        beside=lambda path: Path(f"{path}.json"),
        ours=json_with("source", "format"),
    ),
    "utils.export, standalone": Command(("model", "plugin_path"), folders=("output",)),
    "utils.plan": Command(
        ("model", "whole", "backbone", "data"),
        searched=("model",),
        folders=("commit",),
        files=("json", "cost_table"),
        ours=lambda path: json_with("budget")(path) or json_with("key", "rows")(path),
    ),
    "utils.cost": Command(("model",), files=("json",), ours=json_with("macs", "family")),
    "utils.report": Command(
        ("runs", "dense"), files=("output",), beside=lambda path: path.with_suffix(".md"), ours=is_report
    ),
    "utils.doctor": Command(files=("json",), ours=json_with("healthy", "findings")),
    "utils.make_corpus": Command(("files",), files=("output",)),
    "utils.pregenerate_training_data": Command(("train_corpus",), adds=("output_dir",)),
    "utils.data_augmentation": Command(
        ("pretrained_bert_model", "glove_embs", "glue_dir"),
        files=("output",),
        ours=lambda path: path.name.startswith("train_aug"),
    ),
    "utils.submission": Command(("folder",), files=("output",), ours=_is_submission),
}
#: Values that are named otherwise on the command line, or have no flag.
_SPELLING = {
    "output_path": "--output_dir",
    "data_path": "--data_dir",
    "data": "--data_dir",
    "glue_dir": "--data_dir",
    "runs": "the run",
    "files": "the text",
    "folder": "the folder",
    "source": "the source",
    "target": "the target",
}


#: Names that models and runs are read from: no single file gets one of them in a folder that is read.
_INPUT_NAMES = (
    *("*config.json", "*.safetensors*", "pytorch_model*", "tokenizer*", "vocab*", "merges.txt", "*.model", "task.json"),
    *("special_tokens_map.json", "added_tokens.json", "arguments.json", "result.json", "evaluation.json"),
    *("choice.json", "schedule.json", "metrics.jsonl", "data.json", "plugin*.json", "lora*.json"),
)


def guard(command: str, *groups: object) -> None:
    """Refuse, before anything is written, an output that would replace what the call reads, or somebody's files.

    Args:
        command: a key of `COMMANDS`.
        groups: the parsed arguments, as attributes of one or several objects.

    Raises:
        UserError: with both flags.
    """
    values = {name: value for group in groups for name, value in vars(group).items()}
    rules = COMMANDS[command]
    reads = [(name, place) for name in rules.reads for place in _places(values[name]) if os.path.lexists(place)]
    for name in rules.folders:
        for target in _places(values[name]):
            for read, source in reads:
                _check_folder(_flag(name), target, _flag(read), source, read in rules.searched)
    for name in rules.adds:
        for target in _places(values[name]):
            if inside := next((source for _, source in reads if source.is_dir() and holds(source, target)), None):
                raise UserError(f"{_flag(name)} {target} lies in {inside}, which this call reads: name another folder.")
    cure = "name another file" + (", or --overwrite replaces it" if "overwrite" in values else "")
    for name in rules.files:
        for target in _places(values[name]):
            _check_file(_flag(name), target, reads, bool(values.get("overwrite")) or rules.ours(target), cure)
            if rules.beside is not None and (further := rules.beside(target)) != target:
                _check_file(_flag(name), further, reads, rules.ours(further))


def check_file(name: str, target: Path, ours: Callable[[Path], bool], cure: str = "name another file") -> None:
    """Refuse to replace somebody's file where no entry of the table says so: names that are fixed, and benchmarks.

    Args:
        name: of the flag, or what the file is to the user.
        ours: whether a file that is there was written by this program.

    Raises:
        UserError: it was not.
    """
    _check_file(name, target, [], ours(target), cure)


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file or folder."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def holds(outer: Path, inner: Path) -> bool:
    """Whether `inner` is `outer` or lies below it."""
    place = Path(os.path.realpath(inner))
    return any(is_same(outer, above) for above in (place, *place.parents))


def _places(value: Any) -> Iterator[Path]:
    """The paths that a value names; of a hub's id, one that is not there."""
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if one is not None and str(one):
            yield Path(os.path.expanduser(one))


def _is_input(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _INPUT_NAMES)


def _flag(name: str) -> str:
    return _SPELLING.get(name, f"--{name}")


def _check_folder(flag: str, target: Path, read: str, source: Path, is_searched: bool) -> None:
    inside = next((place for place in (source, source / "best") if place.exists() and holds(target, place)), None)
    if inside is not None:
        how = "is" if is_same(target, inside) else "holds"
        raise UserError(f"{flag} {target} {how} {read} {inside}, which this call reads: name another folder.")
    if is_searched and source.is_dir() and holds(source, target) and target.is_dir() and any(target.iterdir()):
        raise UserError(f"{flag} {target} lies in {read} {source}, which this call reads: name another folder.")


def _check_file(
    flag: str, target: Path, reads: list[tuple[str, Path]], may_replace: bool, cure: str = "name another file"
) -> None:
    if not os.path.lexists(target) and not _is_input(target.name):
        return
    for name, source in reads:
        is_input_there = source.is_dir() and holds(source, target) and _is_input(target.name)
        if is_same(source, target) or is_input_there:
            raise UserError(f"{flag} {target} is read by this call (with {_flag(name)} {source}): name another file.")
    if target.is_dir():
        raise UserError(f"{flag} {target} is a folder, expected a file to write.")
    if not os.path.lexists(target):
        return
    if not target.is_file():
        raise UserError(f"{flag} {target} is no ordinary file: name another one.")
    if target.stat().st_size and not may_replace:
        raise UserError(f"{flag} {target} is there already, and this command did not write it: {cure}.")
