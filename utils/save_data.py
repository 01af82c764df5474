"""Saves the GLUE tasks and SQuAD from the Hugging Face hub, where the launchers look for them.

    python3 utils/save_data.py [--only mnli squad] [--data_dir data]

GLUE tasks go to DATA/glue/{name}, SQuAD to DATA/SQuAD, each as a folder made by `datasets`' `save_to_disk`.
"""

from __future__ import annotations

import argparse
import errno
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: the repository is the parent of this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from utils.arguments import ToolParser
from utils.errors import UserError, run_as_script, writing
from utils.hints import next_lines
from utils.tool_steps import after_save_data

GLUE_NAMES = ("mnli", "qqp", "qnli", "sst2", "rte", "mrpc", "cola", "stsb", "wnli")
NAMES = (*GLUE_NAMES, "squad")

# (repository on the hub, configuration or None) -> an object with `save_to_disk(path)`
Loader = Callable[[str, str | None], Any]
Say = Callable[[str], None]


def target_of(name: str, data_path: Path) -> Path:
    """The folder a dataset is saved in."""
    return data_path / "SQuAD" if name == "squad" else data_path / "glue" / name


def load_from_hub(repository: str, configuration: str | None) -> Any:
    """A `DatasetDict` of the hub."""
    # Imported here: it takes seconds, and --help and the tests do without.
    from datasets import load_dataset

    return load_dataset(repository, configuration)


def save(names: Sequence[str], data_path: Path, load: Loader = load_from_hub, say: Say = print) -> list[Path]:
    """Saves each named dataset unless its folder is there already; returns the folders.

    A folder appears under its name only when it is complete.

    Raises:
        UserError: the hub cannot be reached or does not have the dataset, or the disk is full; what was saved
            before stays.
    """
    targets = []
    for name in names:
        target = target_of(name, data_path)
        targets.append(target)
        if target.exists():
            say(f"{name}: reused {target}")
            continue
        _save_one(name, target, load)
        say(f"{name}: saved {target}")
    return targets


def _save_one(name: str, target: Path, load: Loader) -> None:
    repository, configuration = ("rajpurkar/squad", None) if name == "squad" else ("nyu-mll/glue", name)
    try:
        data = load(repository, configuration)
    except Exception as error:  # the hub's client raises its own, datasets' and the network's errors
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = (
            "make room on the disk of the hub's cache, or name another folder for it in HF_HOME"
            if _is_disk_full(error)
            else f"make it reachable (HF_ENDPOINT names a mirror), or put the data into {target} yourself"
        )
        raise UserError(
            f"{name}: could not load {repository} from the Hugging Face hub ({reason}); {advice}"
        ) from error
    partial = target.with_name(f".{target.name}.partial")
    try:
        with writing(target):
            shutil.rmtree(partial, ignore_errors=True)
            partial.parent.mkdir(parents=True, exist_ok=True)
            data.save_to_disk(str(partial))
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether an error or one that it was made from says so; libraries wrap the system's error in their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ToolParser(description="Saves GLUE and SQuAD from the Hugging Face hub to disk.")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"some of: {', '.join(NAMES)}")
    parser.add_argument(
        "--data_dir", dest="data_path", type=Path, default=Path("data"), help="where to (default: data)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, load: Loader = load_from_hub) -> None:
    """Runs the tool."""
    args = parse(arguments)
    # Each name once, in the order of the table.
    chosen = [name for name in NAMES if args.only is None or name in args.only]
    saved = run_as_script(lambda: save(chosen, args.data_path, load), args.debug)
    print(next_lines(after_save_data(list(zip(chosen, saved, strict=True)), args.data_path)))


if __name__ == "__main__":
    main()
