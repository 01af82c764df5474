"""Cores, memory, GPUs, disk and permissions."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.doctor.findings import Finding
from utils.installation import nccl_conflict, nccl_failure

_GIB = 1 << 30
#: Below these a training run is likely to end early.
_LITTLE_MEMORY, _LITTLE_DISK = 4 * _GIB, 5 * _GIB
_NO_DISK = _GIB // 2
#: Present where NVIDIA's driver is loaded.
_DRIVER = Path("/proc/driver/nvidia/version")
OLDEST_PYTHON = (3, 11)


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """The interpreter that runs this."""
    found = f"{'.'.join(map(str, version))} ({sys.executable})"
    if version < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return Finding(
            "Python", "missing", found, f"install Python {wanted} or newer, then: source scripts/env.sh", True
        )
    return Finding("Python", "ok", found, is_needed=True)


def check_bash(path: str | None = None) -> Finding:
    """The shell of the launchers."""
    place = shutil.which("bash", path=path)
    if place is None:
        return Finding("bash", "missing", "not on PATH", "install bash with the system's package manager", True)
    return Finding("bash", "ok", place, is_needed=True)


def check_processor() -> Finding:
    """The cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("CPU cores", "ok", f"{usable} usable of {os.cpu_count()} ({platform.machine()})")


def check_memory(available: int | None = None) -> Finding:
    """Memory that is free for new processes.

    Args:
        available: bytes; by default what the kernel says.
    """
    free = _available_memory() if available is None else available
    if free is None:
        return Finding("memory", "warning", "unknown: this system does not tell it")
    found = f"{free / _GIB:.1f} GiB available"
    if free < _LITTLE_MEMORY:
        return Finding("memory", "warning", found, "end other programs, or train the tiny sizes only")
    return Finding("memory", "ok", found)


def check_torch(distributions: Mapping[str, str], requirements: Sequence[str]) -> Finding:
    """Whether torch can be imported, and brings its own NCCL.

    Args:
        distributions, requirements: see `utils.installation`.
    """
    try:
        import torch
    except (ImportError, OSError) as error:
        reason = nccl_failure(str(error), distributions, requirements)
        text = reason or f"cannot be imported: {(str(error).splitlines() or [type(error).__name__])[0]}"
        return Finding("torch", "missing", text, "" if reason else "source scripts/env.sh", True)
    if conflict := nccl_conflict(distributions, requirements):
        return Finding("torch", "missing", conflict, is_needed=True)
    return Finding("torch", "ok", f"{torch.__version__}, with the NCCL that it was built with or none", is_needed=True)


def check_gpus(has_driver: bool | None = None) -> list[Finding]:
    """Every GPU that torch can use; a driver that it cannot use.

    Args:
        has_driver: by default what the kernel says.
    """
    try:
        import torch
    except (ImportError, OSError):
        return [Finding("GPUs", "warning", "not looked for: torch cannot be imported")]
    if torch.cuda.is_available():
        return [
            Finding(f"GPU {i}", "ok", f"{torch.cuda.get_device_name(i)}, {_free_of(i)}")
            for i in range(torch.cuda.device_count())
        ]
    if _DRIVER.exists() if has_driver is None else has_driver:
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        return [
            Finding(
                "GPUs",
                "warning",
                f"NVIDIA's driver is there, and torch {torch.__version__} (built for {build}) finds no GPU",
                "install a build of torch for this driver: docs/dependencies.md; and look at CUDA_VISIBLE_DEVICES",
            )
        ]
    return [Finding("GPUs", "ok", "none: everything runs on the CPU")]


def check_folder(folder: Path, needed_bytes: int = _LITTLE_DISK) -> Finding:
    """Whether there is room for what goes into a folder, and whether it may be written; leaves nothing behind.

    Args:
        folder: need not be there yet.
        needed_bytes: with less the state is a warning.
    """
    name, place = f"{folder.name}/", _nearest(folder)
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-"):
            pass
        free = shutil.disk_usage(place).free
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = f"make {place} writable, or replace it by a link to a folder that is"
        return Finding(name, "missing", f"{place} cannot be written ({reason})", remedy, True)
    found = f"{free / _GIB:.1f} GiB free in {place}"
    if free < needed_bytes:
        remedy = f"make room on that disk, or let {folder} be a link to a larger one"
        return Finding(name, "missing" if free < _NO_DISK else "warning", found, remedy, True)
    return Finding(name, "ok", found, is_needed=True)


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def _available_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _free_of(device: int) -> str:
    import torch

    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        return f"which does not answer ({str(error).splitlines()[0]})"
    return f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
