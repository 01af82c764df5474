"""Training all scales of an axis at once, with one teacher (MiniDisc's sandwich; M3).

    loss = mean over scales s of objective(teacher, student at s)

Each scale is a summand with a graph of its own: a training loop that honours `pieces` goes backwards after each, so
the memory is that of the largest sub-model alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.errors import ModelError
from model.schedule.axis import ScaleAxis, find_scale
from model.schedule.lookup import SharedLookup
from model.schedule.tradeoff import Choice, choose

Batch = dict[str, Tensor]


class TwoPartObjective(Protocol):
    """An objective whose teacher's part is worked out once and serves several students."""

    def targets(self, batch: Batch) -> Any:
        """What the teacher says, without gradients."""

    def loss(self, batch: Batch, targets: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the student as it is now, and its detached parts."""


class Sandwich(nn.Module):
    """Trains the scales of an axis together, and keeps the best metric of each.

    Attributes:
        pieces: number of summands of the loss, for training loops that take them one by one.
        best_metric: (S,), float64, the best metric of each scale so far, NaN before its first; a buffer, and in
            checkpoints (`progress_state`), so that a resumed run chooses as an uninterrupted one.

    Args:
        objective: a module with `targets` and `loss`; it holds the student that the axis scales.
        axis: selects a scale of the student.
        scales: which ones are trained; those of the axis' grid.
        lam, target, teacher_scale, last: see `choose`.
        number: of a scale in its axis' unit, which stands behind the names of what is told of it; without, percent.

    Raises:
        ModelError: a scale or the target is not in the grid, or lambda is not a number from 0 upwards.
    """

    best_metric: Tensor

    def __init__(
        self,
        objective: nn.Module,
        axis: ScaleAxis,
        scales: Sequence[float],
        lam: float,
        target: float,
        teacher_scale: float = 0.0,
        last: bool = False,
        number: Callable[[float], float] | None = None,
    ) -> None:
        super().__init__()
        if not scales:
            raise ModelError("No scale is left to train: every one is below where training was to start.")
        if not (lam >= 0 and math.isfinite(lam)):
            raise ModelError(f"Lambda must be a number of at least 0, found {lam}.")
        self.objective, self.axis = objective, axis
        self.scales = tuple(sorted({find_scale(axis.grid, scale, axis.name) for scale in scales}))
        self.target = find_scale(self.scales, target, f"target {axis.name}")
        self.lam, self.teacher_scale, self.last, self._number = lam, teacher_scale, last, number
        self.register_buffer("best_metric", torch.full((len(self.scales),), math.nan, dtype=torch.float64))
        self._targets: Any = None
        self._lookup: SharedLookup | None = None

    @property
    def pieces(self) -> int:
        """Number of summands of the loss."""
        return len(self.scales)

    def forward(self, batch: Batch, piece: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of all scales, or with `piece` its summand of one; the parts are `loss@NUMBER` of each scale.

        The pieces of a batch are asked for in their order, from 0: the first runs the teacher for all of them. Each
        goes backwards before the next: the last one's gradients of the student's embedding are those of all.

        Raises:
            ModelError: without `piece`, several scales under gradient checkpointing: layers that run again would all
                be of the last scale.
        """
        if piece is None:
            if self.pieces > 1 and torch.is_grad_enabled() and _runs_layers_again(self.objective):
                raise ModelError(
                    f"With gradient checkpointing, {self.pieces} scales need a backward pass each: "
                    "ask for forward(batch, piece) one by one."
                )
            targets, losses, parts = self._parts().targets(batch), [], {}
            for scale in reversed(self.scales):
                loss, part = self._at(scale, batch, targets)
                losses.append(loss)
                parts.update(part)
            return torch.stack(losses).sum(), parts
        if piece == 0:
            self._targets, self._lookup = self._parts().targets(batch), self._shared_lookup()
        is_last = piece + 1 == self.pieces
        # The largest sub-model comes last: the pass in which gradients are exchanged should reach all parameters.
        with nullcontext() if self._lookup is None else self._lookup.forward_pass(is_last):
            result = self._at(self.scales[-1 - piece], batch, self._targets)
        if is_last:
            self._targets = self._lookup = None
        return result

    def told(self, name: str, scale: float) -> str:
        """What a value at a scale is called: `loss@90`, `accuracy@90`."""
        return f"{name}@{100 * scale if self._number is None else self._number(scale):g}"

    def update(self, metrics: Mapping[float, float]) -> Choice:
        """Take in the metrics of an evaluation (scale -> fraction) and choose.

        Raises:
            ModelError: a scale is not among those trained, a metric is not a fraction, or nothing was measured.
        """
        for wanted, metric in metrics.items():
            scale = find_scale(self.scales, wanted, f"evaluated {self.axis.name}")
            if abs(metric) > 1:
                raise ModelError(
                    f"The metric at {self.axis.name} {scale:g} is {metric:g}: lambda belongs to fractions, "
                    "from -1 to 1."
                )
            place = self.scales.index(scale)
            self.best_metric[place] = torch.fmax(self.best_metric[place], self.best_metric.new_tensor(metric))
        return self.choice()

    def choice(self) -> Choice:
        """The choice by the best metrics so far; see `choose`."""
        best = dict(zip(self.scales, self.best_metric.tolist(), strict=True))
        return choose(best, self.lam, self.target, self.teacher_scale, self.last)

    def progress_state(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        best = zip(self.scales, self.best_metric.tolist(), strict=True)
        return {"best_metric": [[scale, None if math.isnan(metric) else metric] for scale, metric in best]}

    def load_progress_state(self, values: dict[str, Any]) -> None:
        """Inverse of `progress_state`.

        Raises:
            ModelError: it is that of other scales, or none.
        """
        rows = values.get("best_metric")
        if not isinstance(rows, list) or not all(map(_is_row, rows)):
            raise ModelError("The checkpoint's best metrics are no list of scales and numbers.")
        for scale, metric in rows:
            place = self.scales.index(find_scale(self.scales, scale, "recorded scale"))
            # A whole number may be beyond the 64 bits that a tensor takes.
            self.best_metric[place] = math.nan if metric is None else float(metric)

    def _shared_lookup(self) -> SharedLookup | None:
        if self.axis.name == "ratio":
            return None  # rows are filled up to a multiple of the ratio before they are looked up
        student = getattr(self.objective, "student", None)
        return SharedLookup(student.get_input_embeddings()) if isinstance(student, PreTrainedModel) else None

    def _parts(self) -> TwoPartObjective:
        return cast(TwoPartObjective, self.objective)

    def _at(self, scale: float, batch: Batch, targets: Any) -> tuple[Tensor, dict[str, Tensor]]:
        self.axis.select(scale)
        loss, _ = self._parts().loss(batch, targets)
        return loss / self.pieces, {self.told("loss", scale): loss.detach()}


def _is_row(row: Any) -> bool:
    """Whether a value is a scale and its metric (None before the first)."""
    if not isinstance(row, list) or len(row) != 2 or row[0] is None:
        return False
    return all(value is None or (isinstance(value, int | float) and abs(value) <= sys.float_info.max) for value in row)


def _runs_layers_again(module: nn.Module) -> bool:
    """Whether a backward pass through `module` runs Transformers' layers again (gradient checkpointing)."""
    return any(part.training and getattr(part, "gradient_checkpointing", False) for part in module.modules())
