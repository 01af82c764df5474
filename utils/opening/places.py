"""Where a model lies: a folder, a run's folder (its best model is meant), or a name on the Hugging Face hub."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from utils.arguments.reading import absence, is_hub_id
from utils.errors import UserError
from utils.opening.names import hub_files

#: As `model.folders`, which takes the libraries with it.
_CONFIG = "config.json"
#: Where a run keeps its model; `--stage both` has a folder per stage.
_BEST = ("best", "prediction/best")
_HUB_TIMEOUT_S = 10.0
#: What is downloaded of a model at most: an encoder or T5 of eleven billion parameters has 45 GB.
_MOST_BYTES = 64 * 10**9
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: Name on the hub -> the folder that it stands for in this process.
_FOUND: dict[str, str] = {}


def model_directory(source: str | Path) -> str:
    """The folder of a model: `source`, the best in it where it is a run's folder, or what the hub has by the name.

    Raises:
        UserError: there is no such folder, and no such name on the hub.
    """
    if not str(source):
        raise UserError("The path of a model is empty, so that it does not exist.")
    try:
        return _directory(str(source))
    except OSError as error:  # no permission to look, a name that is too long
        if isinstance(error, PermissionError):
            raise UserError(f"{source} may not be read by this user.") from error
        raise UserError(f"{source} cannot be read: {error.strerror or error}.") from error


def expanded(path: str | Path) -> Path:
    """A path with the home folder in place of `~`; the same where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _directory(source: str) -> str:
    root = expanded(source)
    if root.is_dir():
        return str(root if (root / _CONFIG).is_file() else _best_in(root, _CONFIG) or root)
    if root.exists():
        raise UserError(f"{source} is a file: expected the folder that holds a model.")
    if root.is_symlink() or not is_hub_id(source):
        raise UserError(f"{absence(source) or f'{source} does not exist'}.")
    return hub_directory(source)


def delta_directory(path: Path, kind: str) -> Path:
    """The folder of plugins or LoRA (`kind`): `path`, or the best of the run whose folder it is."""
    from model.delta import is_delta  # which takes the libraries with it

    root = expanded(path)
    if not root.is_dir() or is_delta(root, kind):
        return root
    return next((root / name for name in _BEST if is_delta(root / name, kind)), root)


@functools.cache
def hub_directory(name: str) -> str:
    """The folder that the hub's files of a model are downloaded to; asked for once in a process.

    Without a connection it is what was downloaded before.

    Args:
        name: `ID` or `ID@REVISION`, a branch, tag or commit.

    Raises:
        UserError: there is neither, the hub gives another commit than the one that was asked for, or a model larger
            than any that the toolkit reads.
    """
    _FOUND[name] = folder = _from_hub(name)
    return folder


def found_on_hub(name: str) -> tuple[str, str | None] | None:
    """The folder that a name on the hub stands for in this process, and its commit; None of what was not opened."""
    if (folder := _FOUND.get(name)) is None:
        return None
    commit = Path(folder).name
    return folder, commit if _COMMIT.fullmatch(commit) else None


def _from_hub(name: str) -> str:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    from model.errors import reason_of

    repository, _, given = name.partition("@")
    revision = given or None
    try:
        info = huggingface_hub.HfApi().model_info(
            repository, revision=revision, timeout=_HUB_TIMEOUT_S, files_metadata=True
        )
    except Exception as error:  # no connection, no such name, no permission: the library has a type for each
        reason = "it knows none" if isinstance(error, RepositoryNotFoundError) else reason_of(error).rstrip(".")
        try:
            return huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True)
        except (LocalEntryNotFoundError, OSError, ValueError):
            raise UserError(
                f"{name} is no folder here, and the Hugging Face hub has not given a model of that name: {reason}."
            ) from error
    if revision and _COMMIT.fullmatch(revision) and info.sha != revision:
        raise UserError(f"{name}: the Hugging Face hub gives the commit {info.sha}, which is not the one asked for.")
    sizes = {file.rfilename: getattr(file, "size", None) or 0 for file in info.siblings or ()}
    wanted = hub_files(list(sizes), name)
    if (size := sum(sizes[file] for file in wanted)) > _MOST_BYTES:
        raise UserError(f"{name} has {size / 1e9:,.0f} GB on the hub, at most {_MOST_BYTES / 1e9:.0f} are downloaded.")
    try:
        return huggingface_hub.snapshot_download(repository, revision=info.sha, allow_patterns=wanted)
    except Exception as error:
        raise UserError(f"{name} could not be downloaded from the Hugging Face hub: {reason_of(error)}") from error


def _best_in(root: Path, file: str) -> Path | None:
    return next((root / name for name in _BEST if (root / name / file).is_file()), None)
