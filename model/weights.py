"""Reading weight files without ever running what they contain, and with errors a user can act on."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.errors import ModelError

#: The toolkit's own files need a tenth of it; what recursion can stand (to print or copy a value) is ten times as much.
_DEEPEST_JSON = 50
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml")


def check_content(path: Path) -> None:
    """Refuse a file that only stands for another one: a Git LFS pointer, a web page, nothing.

    Raises:
        ModelError: `path` is one, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(256)
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}).") from None
    if head.startswith(_LFS_POINTER):
        raise ModelError(
            f"{path} is a Git LFS pointer of {size} bytes, not the file itself: fetch it with `git lfs pull`."
        )
    if head.lstrip().lower().startswith(_WEB_PAGE):
        raise ModelError(f"{path} is a web page ({size} bytes), not the file itself: download it again.")


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


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """A state dict saved by `torch.save`, read with `weights_only=True`: nothing in the file is executed.

    Raises:
        ModelError: the file is missing, damaged, or holds anything besides tensors in plain containers.
    """
    if not path.is_file():
        raise ModelError(f"There is no weight file {path}.")
    check_content(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} was refused: it holds more than plain tensors, and nothing in it was executed ({_reason(error)})."
        ) from None
    except Exception as error:  # a damaged byte leads the reader to almost any of them
        raise ModelError(f"{path} is not a whole PyTorch weight file: {_reason(error)}.") from None
    if (problem := not_tensors(state)) is not None:
        raise ModelError(f"{path} is not a state dict: expected names with tensors, found {problem}.")
    return dict(state)


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


def _reason(error: Exception) -> str:
    """The first line of what an error says, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: the file is missing, cannot be read, is not a JSON object (with the line) or nested too deeply.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"There is no file {path}.") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}).") from None
    except json.JSONDecodeError as error:
        check_content(path)
        raise ModelError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from None
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8 ({error.reason}).") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets in thousands of brackets
        raise ModelError(f"{path}: not JSON that can be read ({error}).") from None
    if _is_deeper(value, _DEEPEST_JSON):
        raise ModelError(
            f"{path}: lists in lists more than {_DEEPEST_JSON} deep, which is none of the toolkit's files."
        )
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return value


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
