"""Where and when something was measured: what tells whether two latencies can be compared."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch  # only for types: environments are told by tools that start in a moment

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy", "safetensors")
#: Instruction sets as Linux calls them.
_SETS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX"}


def machine() -> str:
    """Architecture, processor and cores."""
    return f"{platform.machine()}, {processor()}, {os.cpu_count()} cores"


def processor() -> str:
    """The CPU's name where Linux tells it."""
    return _told("model name") or platform.processor() or "unknown CPU"


def instruction_sets() -> list[str]:
    """What products of matrices run on, the fastest last, where Linux tells it."""
    flags = set(_told("flags").split())
    return [name for flag, name in _SETS.items() if flag in flags]


def _told(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name), "")


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's name."""
    if device.type != "cuda":
        return "cpu"
    import torch

    return torch.cuda.get_device_name(device)


def circumstances(device: torch.device, precision: str) -> dict[str, Any]:
    """JSON values beside a latency. All of one process have the same time, as they were measured one after another."""
    import torch

    return {
        "at": _moment(),
        "machine": machine(),
        "device": device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
    }


@lru_cache(maxsize=1)
def _moment() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """Versions of what a result depends on."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
