"""Reading weight files without ever running what they contain, and with errors a user can act on."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.errors import ModelError

#: The toolkit's own files need a tenth of it; what recursion can stand (to print or copy a value) is ten times as much.
_DEEPEST_JSON = 50


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        ModelError: the file is missing, truncated or not a safetensors file.
    """
    if not path.is_file():
        raise ModelError(f"There is no weight file {path}.")
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
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} was refused: it holds more than plain tensors, and nothing in it was executed ({_reason(error)})."
        ) from None
    except Exception as error:  # a damaged byte leads the reader to almost any of them
        raise ModelError(f"{path} is not a whole PyTorch weight file: {_reason(error)}.") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} is not a state dict: expected names with tensors, found {type(state).__name__}.")
    return dict(state)


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
