"""Ways in which a file is damaged: what bad memory, a full or dying disk, a broken copy and people do to it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 440473133\n" % 0
_PAGE = 4096


def _content(change: Callable[[bytearray], object]) -> Callable[[Path], None]:
    """Change a file's bytes in place."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)

    return damage


def _flip(where: float, bit: int) -> Callable[[Path], None]:
    """One bit, at a share of the file's length."""

    def change(data: bytearray) -> None:
        data[min(int(len(data) * where), len(data) - 1)] ^= 1 << bit

    return _content(change)


def _set(where: float, size: int, value: bytes) -> Callable[[Path], None]:
    """Another content of a stretch of the file; of equal length."""

    def change(data: bytearray) -> None:
        begin = int(len(data) * where)
        end = min(begin + size, len(data))
        data[begin:end] = (value * size)[: end - begin]

    return _content(change)


def _swap(data: bytearray) -> None:
    """Two neighbours that differ, nearest to the middle."""
    places = [i for i in range(len(data) - 1) if data[i] != data[i + 1]]
    at = min(places, key=lambda i: abs(i - len(data) // 2))
    data[at], data[at + 1] = data[at + 1], data[at]


def _other_digit(data: bytearray) -> None:
    """The digit nearest to the middle, or a byte where there is none."""
    places = [i for i, byte in enumerate(data) if chr(byte).isdigit() and byte < 128] or [len(data) // 2]
    at = min(places, key=lambda i: abs(i - len(data) // 2))
    data[at] = ord("7") if data[at] != ord("7") else ord("3")


def _become(data: bytearray, other: bytes) -> None:
    data[:] = other


def _noise(data: bytearray) -> None:
    _become(data, random.Random(0).randbytes(len(data)))


def _truncated(keep: Callable[[int], int], padded: bool = False) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        size = path.stat().st_size
        os.truncate(path, keep(size))
        if padded:  # the length is right again, the rest is zeros
            os.truncate(path, size)

    return damage


def _replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _neighbour(path: Path) -> None:
    """The content of another file of the folder."""
    others = [other for other in sorted(path.parent.iterdir()) if other.is_file() and other.name != path.name]
    path.write_bytes(others[0].read_bytes())


def _older(path: Path) -> None:
    """The file of the same name in the folder before this one, of another step of the same run."""
    folders = sorted(folder for folder in path.parent.parent.iterdir() if folder.is_dir() and folder < path.parent)
    path.write_bytes((folders[-1] / path.name).read_bytes())


#: Name -> what is done to a file. All leave it with another content, but for what an older checkpoint has alike.
DAMAGES: Mapping[str, Callable[[Path], None]] = {
    "first bit flipped": _flip(0.0, 0),
    "bit flipped at a quarter": _flip(0.25, 4),
    "bit flipped in the middle": _flip(0.5, 0),
    "sign bit flipped at three quarters": _flip(0.75, 7),
    "last bit flipped": _flip(1.0, 0),
    "zeros in the middle": _set(0.5, 16, b"\0"),
    "ones in the middle": _set(0.5, 16, b"\xff"),
    "a page of zeros": _set(0.3, _PAGE, b"\0"),
    "two bytes swapped": _content(_swap),
    "another digit": _content(_other_digit),
    "noise of the same length": _content(_noise),
    "half is missing": _truncated(lambda size: size // 2),
    "last byte is missing": _truncated(lambda size: size - 1),
    "empty": _truncated(lambda size: 0),
    "cut and padded with zeros": _truncated(lambda size: size * 2 // 3, padded=True),
    "a byte too many": _content(lambda data: data.append(0)),
    "written twice": _content(lambda data: data.extend(bytes(data))),
    "missing": Path.unlink,
    "a folder in its place": _replaced_by_folder,
    "a link to nowhere": _link_to_nowhere,
    "a Git LFS pointer": _content(lambda data: _become(data, _POINTER)),
    "a web page": _content(lambda data: _become(data, b"<!DOCTYPE html><title>404</title>")),
    "another file's content": _neighbour,
    "of an older checkpoint": _older,
}
