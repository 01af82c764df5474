"""Saves the GLUE tasks and SQuAD from the Hugging Face hub, where the launchers look for them.

    python3 utils/save_data.py [--only mnli squad] [--data_dir data]

GLUE tasks go to DATA/glue/{name}, SQuAD to DATA/SQuAD, each as a folder made by `datasets`' `save_to_disk`, with a
record beside its files (hub.json): repository, commit and checksums. What is saved later of a repository is of the same
commit.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: the repository is the parent of this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from utils.arguments import ToolParser
from utils.errors import UserError, run_as_script
from utils.fetching import Limits, add_limits, at_most, limits_of
from utils.hints import next_lines
from utils.lock import locked
from utils.tool_steps import after_save_data
from utils.writing import atomic_directory, write_json

_TIMEOUT_S = 10.0
GLUE_NAMES = ("mnli", "qqp", "qnli", "sst2", "rte", "mrpc", "cola", "stsb", "wnli")
NAMES = (*GLUE_NAMES, "squad")

#: Beside the files of a data set: where they are from, and what they are.
RECORD = "hub.json"
# (repository on the hub, configuration or None, commit or None) -> an object with `save_to_disk(path)`
Loader = Callable[[str, str | None, str | None], Any]
# (repository, revision or None, most bytes) -> its commit, None where the hub does not say
Resolver = Callable[[str, str | None, int], str | None]
Say = Callable[[str], None]


def target_of(name: str, data_path: Path) -> Path:
    """The folder a dataset is saved in."""
    return data_path / "SQuAD" if name == "squad" else data_path / "glue" / name


def repository_of(name: str) -> str:
    """Where on the hub a dataset is."""
    return "rajpurkar/squad" if name == "squad" else "nyu-mll/glue"


def load_from_hub(repository: str, configuration: str | None, revision: str | None) -> Any:
    """A `DatasetDict` of the hub, of a commit."""
    # Imported here: it takes seconds, and --help and the tests do without.
    from datasets import load_dataset

    return load_dataset(repository, configuration, revision=revision)


def resolve_on_hub(repository: str, revision: str | None, most_bytes: int) -> str | None:
    """The commit that a revision (default: the newest) of a dataset stands for; None where the hub cannot be asked.

    Raises:
        UserError: the repository is larger than `most_bytes`.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(repository, revision=revision, timeout=_TIMEOUT_S, files_metadata=True)
    except Exception:  # told by the loader, unless it finds the data in its cache
        return None
    size = sum(file.size or 0 for file in info.siblings or ())
    if size > most_bytes:
        raise UserError(f"{repository} has {size / 1e9:,.4g} GB on the hub, more than --max_gb {most_bytes / 1e9:,.4g}")
    return info.sha


def save(
    names: Sequence[str],
    data_path: Path,
    load: Loader = load_from_hub,
    say: Say = print,
    resolve: Resolver = resolve_on_hub,
    revision: str | None = None,
    limits: Limits = Limits(),  # noqa: B008  # a tuple, which nobody changes
) -> list[Path]:
    """Saves each named dataset unless its folder is there already; returns the folders.

    A folder appears under its name only when it is complete; what another call is saving is waited for. All data sets
    of a repository are of the commit that the first was saved of.

    Args:
        revision: a branch, tag or commit in place of the newest; all names have to be of one repository.

    Raises:
        UserError: the hub cannot be reached or does not have the dataset, it is larger than `limits` or takes longer,
            what is there is of another commit or not what was saved, or the disk is full; what was saved before stays.
    """
    if revision is not None and len({repository_of(name) for name in names}) > 1:
        raise UserError(f"--revision {revision} is one of a repository, and GLUE and SQuAD are two: choose with --only")
    targets, commits = [], _recorded_commits(data_path)
    for name in names:
        target, repository = target_of(name, data_path), repository_of(name)
        targets.append(target)
        if not target.exists():
            with locked(target, waiting=say), at_most(limits.seconds, f"{name}: {repository}"):
                if not target.exists():
                    if repository not in commits or revision not in (None, commits[repository]):
                        commits[repository] = resolve(repository, revision, limits.num_bytes) or revision
                    _save_one(name, target, load, commits[repository], revision)
                    commit = commits[repository] or "a commit that the hub did not name"
                    say(f"{name}: saved {target}, {repository} at {commit}")
                    continue
        _check_saved(target, revision)
        say(f"{name}: reused {target}")
    return targets


def _records(data_path: Path) -> dict[Path, dict[str, Any]]:
    """The records of what was saved, by folder; of what has none that can be read, nothing."""
    found = {}
    for target in (target_of(name, data_path) for name in NAMES):
        try:
            content = json.loads((target / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            found[target] = content
    return found


def _recorded_commits(data_path: Path) -> dict[str, str | None]:
    """Repository -> the commit that its data sets were saved of."""
    return {str(r.get("repository")): r["revision"] for r in _records(data_path).values() if r.get("revision")}


def _check_saved(target: Path, revision: str | None) -> None:
    """Refuse a folder that is not what was saved; one without a record is its owner's matter."""
    if not (target / RECORD).is_file():
        return
    try:
        record = json.loads((target / RECORD).read_text(encoding="utf-8"))
        before, commit = dict(record["sha256"]), record["revision"]
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{target / RECORD} is damaged: delete {target} to save it again") from None
    if revision is not None and revision not in (commit, record.get("asked")):
        raise UserError(f"{target} is of the commit {commit}, not {revision}: name another folder (--data_dir)")
    if (now := _checksums(target)) != before:
        changed = min(name for name in {*now, *before} if now.get(name) != before.get(name))
        raise UserError(f"{target}: {changed} is not what was saved: delete the folder to save it again")


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of a data set's files, by their paths; caches that `datasets` leaves beside them do not count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / RECORD and not path.name.startswith("cache-"):
            with path.open("rb") as stream:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _save_one(name: str, target: Path, load: Loader, commit: str | None, asked: str | None) -> None:
    repository, configuration = repository_of(name), None if name == "squad" else name
    try:
        data = load(repository, configuration, commit)
    except UserError:  # it takes too long
        raise
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
    with atomic_directory(target, lambda path: False) as partial:
        data.save_to_disk(str(partial))
        values = {"repository": repository, "configuration": configuration, "revision": commit, "asked": asked}
        write_json(partial / RECORD, {**values, "sha256": _checksums(partial)})


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
    parser.add_argument("--revision", help="branch, tag or commit (default: the one that is there, or the newest)")
    add_limits(parser, most_gb=8)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(
    arguments: Sequence[str] | None = None, load: Loader = load_from_hub, resolve: Resolver = resolve_on_hub
) -> None:
    """Runs the tool."""
    args = parse(arguments)
    # Each name once, in the order of the table.
    chosen = [name for name in NAMES if args.only is None or name in args.only]
    saved = run_as_script(
        lambda: save(chosen, args.data_path, load, print, resolve, args.revision, limits_of(args)), args.debug
    )
    print(next_lines(after_save_data(list(zip(chosen, saved, strict=True)), args.data_path)))


if __name__ == "__main__":
    main()
