"""What runs write: only that is ever deleted, whatever else lies in a run's folder.

A model and a checkpoint have a list of their files (`utils.checksums`), a run's folder has marks and names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from utils.checksums import CHECKSUMS_FILE, listed

#: Arguments, versions and seed of the run.
ARGUMENTS_FILE = "arguments.json"
#: See `utils.lock`; also in what is half-written (`utils.writing`).
LOCK_FILE = ".lock"
#: Of a saved model, with its tokenizer and what describes it; of plugins or LoRA alone; of a checkpoint.
MODEL_FILES = (
    *("config.json", "generation_config.json", "task.json", "choice.json", "plan.json", "trainer.json", ARGUMENTS_FILE),
    *("model*.safetensors", "model*.safetensors.index.json", "optimizer.safetensors", "random.safetensors"),
    *("plugin*.safetensors", "plugin*.json", "lora*.safetensors", "lora*.json", "pytorch_model*.bin"),
    *("tokenizer*.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", CHECKSUMS_FILE),
)
#: At the top of a run's folder. `command.txt` is the launchers'.
RUN_FILES = (
    *(ARGUMENTS_FILE, "data.json", "metrics.jsonl", "log.log", "result.json", "evaluation.json", "command.txt"),
    *("schedule.json", "schedule.png"),
)
#: Folders of a run -> what lies in them, at whatever depth.
RUN_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "best": MODEL_FILES,
    "checkpoints": MODEL_FILES,
    "tensorboard": ("events.out.tfevents.*",),
    "bad_batches": ("rank*.safetensors", "step.json"),
    "predictions": (
        *("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "QQP.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "QNLI.tsv"),
        *("RTE.tsv", "WNLI.tsv", "AX.tsv", "conll.txt", "wnut17.txt", "submission.zip"),
    ),
}
#: The names that `utils.writing` gives to what is not complete, or is being replaced.
_HALF_WRITTEN = re.compile(r"^\.(.+?)(?:(?:\.[0-9a-f]{8})?\.partial|\.old)$")
#: What a scheduler, a shell, an editor or a file system leaves in a folder before a run begins there.
OTHERS_LEAVE = (
    *("slurm-*", "nohup.out", "*.out", "*.err", "*.log", "*.o[0-9]*", "*.e[0-9]*", "events.out.tfevents.*"),
    *(".DS_Store", ".gitkeep", ".gitignore", ".nfs*", ".directory", "lost+found"),
)


def is_left_by_others(name: str) -> bool:
    """Whether a file of this name may lie in a folder that a run begins in; not one that the run writes itself."""
    return any(fnmatch(name, pattern) for pattern in OTHERS_LEAVE) and not matches(name, RUN_FILES)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name is one of those that are written, or half-written, under these patterns."""
    return any(fnmatch(_plain(name), pattern) for pattern in patterns)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run: not the model or the checkpoint of one, which have its arguments as well."""
    return is_marked(folder) and not (folder / "trainer.json").exists() and not is_model(folder)


def is_marked(folder: Path) -> bool:
    """Whether a folder's arguments.json is the toolkit's; of a damaged one, the lock beside it says so."""
    try:
        values = json.loads((folder / ARGUMENTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return (folder / ARGUMENTS_FILE).is_file() and _has_owner(folder / LOCK_FILE)
    return isinstance(values, dict) and isinstance(values.get("arguments"), dict)


def _has_owner(lock: Path) -> bool:
    """Whether a run has noted in this file who it is (`utils.lock`)."""
    try:
        return lock.read_bytes()[:200].startswith(b"process ")
    except OSError:
        return False


def is_model(folder: Path) -> bool:
    """Whether weights or a model's configuration lie in a folder itself."""
    return (folder / "config.json").exists() or any(folder.glob("*.safetensors"))


def own_files(folder: Path) -> list[Path]:
    """What lies at the top of a run's folder and was written by the run: files, folders, and stages of a schedule."""
    others = foreign_records(folder)

    def is_own(path: Path) -> bool:
        if path.is_symlink():
            return False
        if path.is_dir():
            is_half_written = _plain(path.name) != path.name and matches(path.name, RUN_FILES)
            return is_half_written or matches(path.name, tuple(RUN_FOLDERS)) or is_run(path)
        return matches(path.name, RUN_FILES) and path not in others

    return [path for path in sorted(folder.iterdir()) if is_own(path)]


def foreign_records(folder: Path) -> list[Path]:
    """Files at the top of a run's folder with the name of a record, and not the form; its mark `is_marked` judges."""
    names = [name for name in RUN_FILES if name.endswith(".json") and name != ARGUMENTS_FILE]
    return [path for name in names if (path := folder / name).is_file() and not _is_record(path)]


def _is_record(path: Path) -> bool:
    """Whether a file could be one of a run's records, which are written whole: an object in JSON."""
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except OSError:
        return True
    except (ValueError, RecursionError):
        return False


def foreign_below(folder: Path) -> Path | None:
    """The first file below a run's folder, or one of those that it writes, which no run has written."""
    if is_run(folder):
        own = own_files(folder)
        others = [path for path in sorted(folder.iterdir()) if path not in own and path.name != LOCK_FILE]
        below = (found for path in own if path.is_dir() and (found := foreign_below(path)) is not None)
        return others[0] if others else next(below, None)
    return first_other(folder, RUN_FOLDERS.get(_plain(folder.name), (*MODEL_FILES, *RUN_FILES)))


def first_other(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    """The first file below a folder that is not `is_written`; a link never is."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    return next((path for path in files if path.is_symlink() or not is_written(path, folder, patterns)), None)


def is_written(path: Path, root: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a file below `root` is the toolkit's: the list of its folder names it, or of one above up to `root`.

    Args:
        patterns: of names, for folders that older versions have written, which have no list.
    """
    for folder in path.parents:
        if (known := listed(folder)) is not None:
            inside = path.relative_to(folder)
            names, first = {*known, CHECKSUMS_FILE, LOCK_FILE}, inside.parts[0]
            return inside.as_posix() in names or (_plain(first) != first and _plain(first) in names)
        if folder == root:
            break
    return matches(path.name, (*patterns, LOCK_FILE))


def _plain(name: str) -> str:
    """The name that something has when it is complete."""
    return _HALF_WRITTEN.sub(r"\1", name)
