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
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{path} was refused: it holds more than plain tensors, and nothing in it was executed ({reason})."
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path} is not a whole PyTorch weight file: {reason}.") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} is not a state dict: expected names with tensors, found {type(state).__name__}.")
    return dict(state)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: the file is missing or not a JSON object (with the line).
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"There is no file {path}.") from None
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return value
