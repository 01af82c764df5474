"""Where data may lie: saved ``datasets`` folders, the hub, plain folders; shared by the readers."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dataset.errors import DataError

HUB = "hub"
_MOST_NAMES = 12


class Line(NamedTuple):
    """One line of a text file, without its end; ``number`` counts from 1, ``file`` is a list position."""

    file: int
    number: int
    text: str


def read_lines(path: Path, file: int = 0) -> Iterator[Line]:
    r"""Lines of a UTF-8 file one at a time, byte-order mark removed; only ``\n`` and ``\r\n`` end a line.

    Raises:
        DataError: the file cannot be opened, or a line is not UTF-8.
    """
    number = 0
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                yield Line(file, number, text.rstrip("\r\n"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: this line is not UTF-8 ({error.reason})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: the file cannot be read, is not UTF-8 or not JSON (with the line), or nested beyond all measure.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets in thousands of brackets
        raise DataError(f"{path}: not JSON that can be read ({error})") from error


def listing(folder: Path) -> str:
    """What is in ``folder``, short enough for an error message."""
    if not folder.exists():
        return "it does not exist"
    if not folder.is_dir():
        return "it is a file"
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    if not names:
        return "it is empty"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"it holds {', '.join(names[:_MOST_NAMES])}{more}"


def candidate_folders(root: Path, names: Iterable[str]) -> list[Path]:
    """Folders in which the data called ``names`` may lie, nearest first."""
    unique = list(dict.fromkeys(name for name in names if name))
    folders = [root]
    for name in unique:
        folders += [root / name, root / "glue" / name, root / name / "data"]
    return [*folders, root / "data"]


def not_found(root: Path, folders: list[Path], wanted: str) -> str:
    """The message when none of ``folders`` (of ``candidate_folders``) has ``wanted``."""
    below = ", ".join(str(folder.relative_to(root)) for folder in folders if folder != root)
    there = [folder for folder in folders if folder.is_dir()] or [root]
    contents = "; ".join(f"{folder}: {listing(folder)}" for folder in there)
    return f"--data-path {root}: neither {wanted} nor a saved dataset, there or in its subfolders {below}; {contents}"


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``folder`` was written by ``save_to_disk`` of a ``Dataset`` or a ``DatasetDict``."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def load_saved(folder: Path, split: str) -> Any:
    """The split ``split`` of a folder written by ``save_to_disk``.

    Raises:
        DataError: the folder is damaged or has no such split.
    """
    import datasets  # takes a second; readers of text files do without it

    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: this saved dataset cannot be loaded ({error})") from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise DataError(f"{folder}: no split {split!r} in this saved dataset, it has {', '.join(saved)}")
        return saved[split]
    if str(saved.split) != split:
        raise DataError(f"{folder}: this saved dataset is the split {str(saved.split)!r}, not {split!r}")
    return saved


def load_hub(repository: str, configuration: str | None, split: str) -> Any:
    """One split of a dataset of the Hugging Face hub (or of its local cache).

    Raises:
        DataError: the hub cannot be reached or does not have it.
    """
    import datasets

    try:
        return datasets.load_dataset(repository, configuration, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"--data-path hub: {repository} ({configuration or 'default'}, {split}) could not be loaded "
            f"({type(error).__name__}: {error}); a folder with the files works without a network"
        ) from error
