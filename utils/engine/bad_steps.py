"""Steps whose loss or gradients are not finite: what is said of them, and their batches on disk for inspection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from utils.engine.files import is_write_failure, write_failure_reason, write_json

FOLDER = "bad_batches"
#: fp16 halves its scale at each overflow, from 2^16: so many in a row cannot be the scale's doing.
FP16_MOST = 50


def not_finite(loss: float, norm: float) -> str | None:
    """What is not finite in a step, and how; None if all is well."""
    for what, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
            return f"The {what} became {value}"
    return None


def save_batches(folder: Path, rank: int, group: Sequence[Mapping[str, Tensor]], told: Mapping[str, Any]) -> str | None:
    """Write a step's micro-batches of one process to `rankR.safetensors` (names `0.input_ids`, …), and `step.json`.

    Args:
        told: position and numbers of the step; the first process writes them.

    Returns:
        Why that failed, None if it did not: the error behind it must be told in any case.
    """
    tensors = {
        f"{i}.{key}": value.detach().cpu().clone() for i, batch in enumerate(group) for key, value in batch.items()
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / f"rank{rank}.safetensors")
        if rank == 0:
            write_json(folder / "step.json", {key: _strict(value) for key, value in told.items()})
    except Exception as error:
        if not is_write_failure(error) and not is_write_failure(error.__cause__ or error):
            raise
        return write_failure_reason(error)
    return None


def _strict(value: Any) -> Any:
    """JSON has no name for what is not finite."""
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
