"""All random generators of a process as JSON values and tensors, for a resume that is bit-identical."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class RandomState(NamedTuple):
    """State of Python's, NumPy's and torch's generators: JSON values and tensors."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


def capture(device: torch.device) -> RandomState:
    """The present state of the generators: of the CPU, and of `device` if it is a GPU. Other GPUs are left alone."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    values: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [int(position), int(has_gauss), float(cached)],
    }
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))}
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    return RandomState(values, tensors)


def restore(state: RandomState, device: torch.device) -> None:
    """Inverse of `capture`; a GPU's state is left out where `device` is none."""
    version, words, gauss = state.values["python"]
    random.setstate((version, tuple(words), gauss))
    position, has_gauss, cached = state.values["numpy"]
    np.random.set_state(("MT19937", state.tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state.tensors["torch"])
    if device.type == "cuda" and "cuda" in state.tensors:
        torch.cuda.set_rng_state(state.tensors["cuda"], device)
