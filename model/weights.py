"""Reading weight files without ever running what they contain, and with errors a user can act on."""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from model.errors import ModelError, is_refusal, reason_of

#: The toolkit's own files need a tenth of it; what recursion can stand (to print or copy a value) is ten times as much.
_DEEPEST_JSON = 50
#: The largest vocabularies have half of it; their text takes ten times as much once it is read.
LONGEST_JSON_BYTES = 1 << 26
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml")


def check_content(path: Path) -> None:
    """Refuse a file that only stands for another one: a Git LFS pointer, a web page, nothing, a pipe.

    Raises:
        ModelError: `path` is one, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path} is no file that can be read twice, but a pipe, a device or a folder.")
        with path.open("rb") as file:
            head = file.read(256)
        size = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from None
    if head.startswith(_LFS_POINTER):
        raise ModelError(
            f"{path} is a Git LFS pointer of {size} bytes, not the file itself: fetch it with `git lfs pull`."
        )
    if head.lstrip().lower().startswith(_WEB_PAGE):
        raise ModelError(f"{path} is a web page ({size} bytes), not the file itself: download it again.")


def check_floats(name: str, tensor: Tensor, source: str) -> None:
    """Refuse a tensor of integers, of complex numbers or of floats with 8 bits, where a model has floats.

    Raises:
        ModelError: with its type.
    """
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(f"{source}: {name} holds numbers of the type {dtype}, expected floats of at least 16 bits.")


def _unreadable(path: Path, error: OSError) -> ModelError:
    if isinstance(error, PermissionError):
        return ModelError(f"{path} may not be read by this user: its permissions, or those of its folder, forbid it.")
    return ModelError(f"{path} cannot be read ({error.strerror}).")


def check_finite(tensors: Iterable[tuple[str, Tensor]], source: str) -> None:
    """Refuse weights that are no numbers.

    Raises:
        ModelError: with the first tensor that holds NaN or an infinity.
    """
    for name, tensor in tensors:
        # A sum is the cheapest look at all values; it may overflow, so that only the second look counts.
        if tensor.is_floating_point() and not tensor.is_meta and not tensor.detach().sum().isfinite():
            wrong = int((~tensor.detach().isfinite()).sum())
            if wrong:
                raise ModelError(
                    f"{source}: {name} holds {wrong} of {tensor.numel()} values that are no finite numbers (NaN or "
                    "infinity): the run that wrote it has failed, take an earlier model."
                )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        ModelError: the file is missing, truncated or not a safetensors file.
    """
    if not path.is_file():
        raise ModelError(f"There is no weight file {path}.")
    check_content(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        size = path.stat().st_size
        raise ModelError(f"{path} ({size} bytes) is not a whole safetensors file: {error}.") from None
    except BaseException as error:  # a type that torch does not have, no memory
        if not is_refusal(error):
            raise
        raise ModelError(f"{path} cannot be read: {reason_of(error)}.") from None


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """A state dict saved by `torch.save`, read with `weights_only=True`: nothing in the file is executed.

    Raises:
        ModelError: the file is missing, damaged, or holds anything besides tensors in plain containers.
    """
    if not path.is_file():
        raise ModelError(f"There is no weight file {path}.")
    check_content(path)
    describe_torch_file(path)
    state = _load_torch(path, "cpu")
    if (problem := not_tensors(state)) is not None:
        raise ModelError(f"{path} is not a state dict: expected names with tensors, found {problem}.")
    _check_plain(state, path)
    return dict(state)


def describe_torch_file(path: Path) -> dict[str, Tensor]:
    """A state dict saved by `torch.save` as tensors of the meta device: names, shapes and types, without the values.

    Nothing where the file holds something else, or has the format of the first releases, which has to be read whole.

    Raises:
        ModelError: it is damaged, holds anything besides plain tensors, or promises more than the bytes that are there.
    """
    state: Any = _load_torch(path, "meta") if zipfile.is_zipfile(path) else None
    if not_tensors(state) is not None:
        return {}
    _check_plain(state, path)
    return dict(state)


def describe_safetensors(path: Path) -> dict[str, tuple[str, list[int]]]:
    """The type and the shape of every tensor of a safetensors file, by name; the library has checked its bytes.

    Raises:
        ModelError: the file is not whole.
    """
    try:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
            return {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}
    except BaseException as error:
        if not is_refusal(error):
            raise
        size = path.stat().st_size
        raise ModelError(f"{path} ({size} bytes) is not a whole safetensors file: {reason_of(error)}.") from None


def _load_torch(path: Path, device: str) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # a few compressed bytes can become any number of them
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ModelError(f"{path} is compressed, and `torch.save` compresses nothing: save it again.")
        return torch.load(path, map_location=device, weights_only=True)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} was refused: it holds more than plain tensors, and nothing in it was executed "
            f"({reason_of(error)})."
        ) from None
    except BaseException as error:  # a damaged byte leads the reader to almost any of them
        if not is_refusal(error):
            raise
        raise ModelError(f"{path} is not a whole PyTorch weight file: {reason_of(error)}.") from None


def _check_plain(state: Any, path: Path) -> None:
    """Refuse tensors that are sparse or quantised, or larger than their file: one number can stand for a million."""
    size = path.stat().st_size
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ModelError(f"{path}: {name} is a sparse or quantised tensor, expected a plain one.")
        if (promised := tensor.numel() * tensor.element_size()) > size:
            raise ModelError(f"{path}: {name} is said to have {promised:,} bytes, and the file has {size:,}.")


def not_tensors(state: Any) -> str | None:
    """What a file holds that is no state dict, with the names where it is a dict around one; None for a state dict."""
    if not isinstance(state, dict):
        return type(state).__name__
    if all(isinstance(value, Tensor) for value in state.values()):
        return None
    inner = next((name for name, value in state.items() if isinstance(value, dict)), None)
    names = ", ".join(repr(name) for name in list(state)[:4])
    cure = "" if inner is None else f": save what stands under {inner!r} alone"
    return f"a dictionary of {names}{cure}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: the file is missing, too long, cannot be read, is not a JSON object (with the line), is nested too
            deeply, has a key twice or what is no number by the standard (NaN, Infinity).
    """
    try:
        if path.exists():
            check_length(path)
        value = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_float=_finite_number,
        )
    except FileNotFoundError:
        raise ModelError(f"There is no file {path}.") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    except json.JSONDecodeError as error:
        check_content(path)
        raise ModelError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from None
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8 ({error.reason}).") from None
    except _NoJsonError as error:
        raise ModelError(f"{path}: {error}.") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets in thousands of brackets
        raise ModelError(f"{path}: not JSON that can be read ({reason_of(error)}).") from None
    if _is_deeper(value, _DEEPEST_JSON):
        raise ModelError(
            f"{path}: lists in lists more than {_DEEPEST_JSON} deep, which is none of the toolkit's files."
        )
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return value


def check_length(path: Path) -> None:
    """Refuse a text file that would fill the memory, or never end.

    Raises:
        ModelError: it is longer than any that belongs to a model, or no file at all.
    """
    if not path.is_file():
        raise ModelError(f"{path} is no file that can be read, but a pipe, a device or a folder.")
    if (size := path.stat().st_size) > LONGEST_JSON_BYTES:
        raise ModelError(f"{path} has {size:,} bytes, expected at most {LONGEST_JSON_BYTES:,}.")


class _NoJsonError(ValueError):
    """What Python reads and the standard does not have."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _NoJsonError(f"the key {twice!r} stands twice in one object")
    return found


def _no_number(text: str) -> Any:
    raise _NoJsonError(f"{text} is no number in JSON")


def _finite_number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise _NoJsonError(f"{text} is larger than any number")
    return number


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether containers lie in more than `limit` others; without recursion, which has a limit of its own."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(level)
