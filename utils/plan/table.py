"""The cost tables of this machine: one JSON file per set of points and way of measuring, kept between calls.

A table is taken as a whole or measured as a whole: costs that were measured at different times do not share the
machine's drift, and a small difference between them would mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from model.weights import read_json
from utils.errors import UserError
from utils.measured import device_name, machine
from utils.plan.measure import Shape
from utils.plan.point import Point
from utils.writing import write_json

FORMAT_VERSION = 1
_CHUNK = 1 << 20
#: Rows of a table: name of a point -> its costs.
Rows = Mapping[str, Mapping[str, float]]


def cache_folder() -> Path:
    """Where tables are kept: `$XDG_CACHE_HOME/compression-toolkit/costs`, by default below ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "compression-toolkit" / "costs"


def key_of(points: Sequence[Point], shape: Shape, device: torch.device) -> dict[str, Any]:
    """All that costs depend on: the machine, the versions, the way of measuring, every point and its model's files."""
    sums = {source: fingerprint(source.files) for source in dict.fromkeys(point.source for point in points)}
    return {
        "machine": machine(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch": shape.batch,
        "length": shape.length,
        "repeats": shape.repeats,
        "precision": shape.precision,
        "points": {
            point.name: f"{sums[point.source]} {point.axis}={point.value:g} {point.source.plugin_task}".rstrip()
            for point in points
        },
    }


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 over names and contents."""
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                total.update(chunk)
    return total.hexdigest()


def place_of(key: Mapping[str, Any], given: Path | None) -> Path:
    """The file of a table: the one that the user names, or one of the cache."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, allow_nan=False).encode()).hexdigest()
    return given if given is not None else cache_folder() / f"{digest[:24]}.json"


def read_table(file: Path, key: Mapping[str, Any]) -> Rows | None:
    """The rows of a table; None where there is no such file.

    Raises:
        UserError, ModelError: the file is another table's, or damaged.
    """
    if not file.is_file():
        return None
    values = read_json(file)
    found, rows = values.get("key"), values.get("rows")
    if values.get("format_version") != FORMAT_VERSION or not isinstance(found, dict) or not isinstance(rows, dict):
        raise UserError(f"{file} is no cost table of this version: remove it, or measure again with --remeasure.")
    if differing := [name for name in key if found.get(name) != key[name]]:
        name = differing[0]
        detail = "" if name == "points" else f" ({found.get(name)!r} there, {key[name]!r} now)"
        raise UserError(
            f"--cost_table {file} was measured with other {' and '.join(differing)}{detail}: name another file, or "
            "measure again with --remeasure."
        )
    if not all(_is_row(rows.get(point)) for point in key["points"]):
        raise UserError(f"{file} is damaged: a point has no costs; measure again with --remeasure.")
    return rows


def write_table(file: Path, key: Mapping[str, Any], rows: Rows) -> None:
    """Keep a table.

    Raises:
        UserError: it cannot be written.
    """
    measured = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(file, {"format_version": FORMAT_VERSION, "measured": measured, "key": key, "rows": rows})


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and {"latency_ms", "macs", "params", "delta_bytes"} <= row.keys()
        and all(isinstance(value, int | float) and value >= 0 for value in row.values())
    )
