"""Where and when something was measured: what tells whether two latencies can be compared."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch


def machine() -> str:
    """Architecture, processor and cores."""
    return f"{platform.machine()}, {processor()}, {os.cpu_count()} cores"


def processor() -> str:
    """The CPU's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def circumstances(device: torch.device, precision: str) -> dict[str, Any]:
    """JSON values beside a latency. All of one process have the same time, as they were measured one after another."""
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
