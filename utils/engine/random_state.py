"""All random generators of a process as JSON values and tensors, for a resume that is bit-identical."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def capture() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """State of Python's, NumPy's and torch's generators: (JSON values, tensors)."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    values: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [int(position), int(has_gauss), float(cached)],
        "cuda_devices": torch.cuda.device_count() if torch.cuda.is_available() else 0,
    }
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))}
    for i in range(values["cuda_devices"]):
        tensors[f"cuda_{i}"] = torch.cuda.get_rng_state(i)
    return values, tensors


def restore(values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Inverse of `capture`. GPU states are restored for the devices that exist here."""
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))
    position, has_gauss, cached = values["numpy"]
    np.random.set_state(("MT19937", tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    for i in range(min(values["cuda_devices"], torch.cuda.device_count() if torch.cuda.is_available() else 0)):
        torch.cuda.set_rng_state(tensors[f"cuda_{i}"], i)
