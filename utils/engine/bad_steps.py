"""Steps whose loss or gradients are not finite: what is said of them, and their batches on disk for inspection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from utils.errors import WriteError
from utils.writing import atomic_file, write_json

FOLDER = "bad_batches"
#: fp16 halves its scale at each overflow, from 2^16: so many in a row cannot be the scale's doing.
FP16_MOST = 50


def not_finite(loss: float, norm: float) -> str | None:
    """What is not finite in a step, and how; None if all is well."""
    for what, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
            return f"The {what} became {value}"
    return None


def not_finite_metric(values: Mapping[str, float]) -> str | None:
    """What is not finite in an evaluation, and how; None if all is well."""
    found = next((f"{name} became {value}" for name, value in values.items() if not math.isfinite(value)), None)
    return found and f"The evaluation's {found}"


def how_to_go_on(precision: str, newest: Path | None) -> tuple[str, str]:
    """What helps against numbers that are not finite, and where a run can be gone on from."""
    exact = "" if precision == "fp32" else " or use --precision fp32"
    kept = f"the newest checkpoint is {newest}" if newest else "there is no checkpoint yet"
    return f"resume with a lower --learning_rate{exact}", kept


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
        with atomic_file(folder / f"rank{rank}.safetensors") as file:
            save_file(tensors, file)
        if rank == 0:
            write_json(folder / "step.json", {key: _named(value) for key, value in told.items()})
    except WriteError as error:
        return error.reason
    return None


def _named(value: Any) -> Any:
    """Here it matters which kind of number was not finite: JSON has no name for either."""
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
