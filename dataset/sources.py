"""Where data may lie: saved ``datasets`` folders, the hub, plain folders; shared by the readers."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from dataset.errors import DataError

HUB = "hub"
_MOST_NAMES = 12
#: How files begin that are in another encoding; the longer marks first, as one begins with another.
_OTHER_ENCODINGS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
#: How gzip, zip, bzip2 and xz begin.
_PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"\xfd7zXZ\0", *(b"BZh%d1AY&SY" % level for level in range(1, 10)))
_LOOKED_AT = 100  # bytes in which UTF-16 without a mark shows


class Line(NamedTuple):
    """One line of a text file, without its end; ``number`` counts from 1, ``file`` is a list position."""

    file: int
    number: int
    text: str


def read_lines(path: Path, file: int = 0) -> Iterator[Line]:
    r"""Lines of a UTF-8 file one at a time, byte-order mark removed; only ``\n`` and ``\r\n`` end a line.

    Raises:
        DataError: the file cannot be opened, is in another encoding or packed, or its lines end in ``\r`` alone.
    """
    number = 0
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                if number == 1:
                    _check_beginning(path, raw, stream)
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                yield Line(file, number, text.rstrip("\r\n"))
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(f"{path}:{number}", "this line", error)) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def not_utf8(where: str, what: str, error: UnicodeDecodeError) -> str:
    """The message for text in another encoding."""
    return (
        f"{where}: {what} is not UTF-8 ({error.reason}); convert the file, for example from Windows-1252 with "
        "iconv -f WINDOWS-1252 -t UTF-8"
    )


def check_encoding(path: Path, beginning: bytes) -> None:
    """Refuse a file whose first bytes say that it is no UTF-8 text.

    Raises:
        DataError: with its encoding, or what it is, and the cure.
    """
    if beginning.startswith(_PACKED):
        raise DataError(f"{path}: this file is packed (gzip, zip, bzip2 or xz), and text is expected: unpack it first")
    name = next((name for mark, name in _OTHER_ENCODINGS if beginning.startswith(mark)), "")
    if not name:
        places = [at % 2 for at, byte in enumerate(beginning[:_LOOKED_AT]) if byte == 0]
        if len(places) > min(len(beginning), _LOOKED_AT) / 3 and len(set(places)) == 1:
            name = "UTF-16LE" if places[0] else "UTF-16BE"
    if name:
        raise DataError(f"{path}: this file is {name}, and UTF-8 is expected: convert it with iconv -f {name} -t UTF-8")


def check_line_ends(path: Path, line: bytes) -> None:
    """Refuse a file whose first line, all that there is or very long, has others inside that end in CR.

    Raises:
        DataError: with the cure.
    """
    if b"\r" in line.rstrip(b"\r\n"):
        raise DataError(
            f"{path}: its lines end in CR alone, as on old Macs, and LF or CR LF is expected: convert it, for example "
            r"with tr '\r' '\n'"
        )


def _check_beginning(path: Path, first: bytes, stream: BinaryIO) -> None:
    check_encoding(path, first)
    if not stream.peek(1):  # type: ignore[attr-defined]
        check_line_ends(path, first)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: the file cannot be read, is not UTF-8 or not JSON (with the line), or nested beyond all measure.
    """
    try:
        content = path.read_bytes()
        check_encoding(path, content)
        return json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(str(path), "this file", error)) from error
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


def not_found(root: Path, folders: list[Path], wanted: str, flag: str = "--data_dir") -> str:
    """The message when none of ``folders`` (of ``candidate_folders``) has ``wanted``; ``flag`` named ``root``."""
    below = ", ".join(str(folder.relative_to(root)) for folder in folders if folder != root)
    there = [folder for folder in folders if folder.is_dir()] or [root]
    contents = "; ".join(f"{folder}: {listing(folder)}" for folder in there)
    return f"{flag} {root}: {wanted}, there or in its subfolders {below}; {contents}"


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


def is_hub(data_path: str | Path) -> bool:
    """Whether the hub is named in place of a folder: ``hub``, or ``hub@REVISION`` for a branch, tag or commit."""
    return str(data_path).partition("@")[0] == HUB


def load_hub(repository: str, configuration: str | None, split: str, data_path: str | Path = HUB) -> Any:
    """One split of a dataset of the Hugging Face hub (or of its local cache), of the revision that ``data_path`` names.

    Raises:
        DataError: the hub cannot be reached or does not have it.
    """
    import datasets

    try:
        revision = {"revision": named} if (named := str(data_path).partition("@")[2]) else {}
        return datasets.load_dataset(repository, configuration, split=split, **revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"--data_dir {data_path}: {repository} ({configuration or 'default'}, {split}) could not be loaded "
            f"({type(error).__name__}: {error}); a folder with the files works without a network"
        ) from error
