"""The lambda-tradeoff: which scale is the best assistant (Zhang et al., MiniDisc, arXiv:2205.14570; rules: M4).

    tradeoff(s) = best metric at s + λ · s,    s the fraction that is gone

The candidate with the largest tradeoff is the assistant: as small as possible, as good as possible. Metrics are
fractions, so one λ means the same for every task; with an F1 in percent, λ · s would vanish beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from model.errors import ModelError
from model.schedule.axis import find_scale
from notation import SCALE_TOLERANCE


@dataclass(frozen=True)
class Choice:
    """The scale to go on with.

    Attributes:
        scale: the chosen one.
        score: what to compare between evaluations; it rises only when the chosen scale has just improved. Any sign:
            the first score of a run counts, even if it is not above 0.
        reason: why, in a sentence.
        table: scale -> (best metric, tradeoff) of every measured scale.
    """

    scale: float
    score: float
    reason: str
    table: dict[float, tuple[float, float]]


def tradeoff(metric: float, scale: float, lam: float) -> float:
    """metric + λ · scale. `metric` and `scale` are fractions."""
    return metric + scale * lam


def choose(
    best: Mapping[float, float],
    lam: float,
    target: float,
    teacher_scale: float = 0.0,
    last: bool = False,
    drop_clamped_term: bool = False,
) -> Choice:
    """Choose an assistant, or in the last iteration the target itself.

    Candidates are the scales from the teacher's own upwards; the first of the largest tradeoffs (in the order of
    `best`) wins. One above the target is replaced by the target, with the target's tradeoff as the score. In the last
    iteration the target is chosen, with its plain metric as the score.

    Args:
        best: scale -> best metric so far; NaN where nothing was measured.
        lam: λ, at least 0; any real number.
        target: the scale that the schedule leads to.
        teacher_scale: of the present teacher.
        last: whether this is the last iteration.
        drop_clamped_term: leave λ out of the score of a replaced choice, as the original does (M-12). Its scores
            then compare a plain metric with tradeoffs.

    Raises:
        ModelError: nothing was measured, or the target was not where it is needed.
    """
    measured = {scale: metric for scale, metric in best.items() if not math.isnan(metric)}
    table = {scale: (metric, tradeoff(metric, scale, lam)) for scale, metric in measured.items()}
    if last:
        aim = find_scale(table, target, "target")
        return Choice(aim, table[aim][0], f"last iteration: the target {aim:g}", table)
    candidates = [scale for scale in table if scale > teacher_scale - SCALE_TOLERANCE]
    if not candidates:
        raise ModelError(f"No scale from the teacher's {teacher_scale:g} upwards has been evaluated.")
    winner = max(candidates, key=lambda scale: table[scale][1])  # the first of equals
    if winner <= target + SCALE_TOLERANCE:
        return Choice(winner, table[winner][1], f"largest tradeoff at λ = {lam:g}", table)
    aim = find_scale(table, target, "target")
    reason = f"the target {aim:g}: the largest tradeoff at λ = {lam:g} is above it, at {winner:g}"
    return Choice(aim, table[aim][0 if drop_clamped_term else 1], reason, table)
