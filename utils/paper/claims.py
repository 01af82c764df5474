"""What the papers announce, as numbers that a grid can be held against.

Only what is announced is here: the papers' tables were not at hand, so that no number of a single task is. Tolerances
are ours, as the papers give none.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Form = Literal["percent", "times"]

_VARIATOR = "announced, arXiv:2310.15724"
_TUCKER = "announced, arXiv:2205.10036"
_MINIDISC = "announced, arXiv:2205.14570"


@dataclass(frozen=True)
class Claim:
    """One number of a paper.

    Attributes:
        key: of the measurement that it is compared with.
        bound: on which side of the number the method stays.
        tolerance: how far on the other side still counts as reached.
        source: where the number is from; with what it leaves open.
    """

    key: str
    text: str
    bound: Literal["at most", "at least"]
    value: float
    tolerance: float
    form: Form
    source: str

    def is_reached(self, found: float) -> bool:
        """Whether a measured value bears the claim out."""
        if self.bound == "at most":
            return found <= self.value + self.tolerance
        return found >= self.value - self.tolerance


CLAIMS: Mapping[str, Sequence[Claim]] = {
    "variator": (
        Claim("drop", "metric lost at k = 4, share of the dense model's", "at most", 0.02, 0.0, "percent", _VARIATOR),
        Claim("added", "parameters added at k = 4", "at most", 0.009, 0.0005, "percent", f"{_VARIATOR}; t5-base"),
        Claim(
            "saved",
            "MACs of the encoder saved at k = 4",
            "at least",
            0.53,
            0.01,
            "percent",
            f"{_VARIATOR}; no full account gives it at k = 4, see docs/variator.md",
        ),
    ),
    "tucker": (
        Claim("kept 1/7", "share of the teacher's metric kept at 1/7", "at least", 1.0, 0.01, "percent", _TUCKER),
        Claim("size 1/7", "encoder parameters, dense over student, at 1/7", "at least", 7, 0.7, "times", _TUCKER),
        Claim("kept 1/48", "share of the teacher's metric kept at 1/48", "at least", 0.967, 0.01, "percent", _TUCKER),
        Claim(
            "size 1/48",
            "encoder parameters, dense over student, at 1/48",
            "at least",
            48,
            4.8,
            "times",
            f"{_TUCKER}; which parameters count is not said",
        ),
        Claim("speed 1/48", "latency, dense over student, at 1/48", "at least", 2.7, 0.27, "times", _TUCKER),
    ),
    "minidisc": (
        Claim(
            "gap 90",
            "metric of MiniDisc less that of the best assistant's student, at 90 % sparsity",
            "at least",
            0.0,
            0.01,
            "percent",
            _MINIDISC,
        ),
    ),
}

HEAD = ("claim", "paper", "tolerance", "ours", "reached")


def verdicts(paper: str, found: Mapping[str, Sequence[float]]) -> list[tuple[str, ...]]:
    """One line per claim of a paper, in the order of `HEAD`.

    Args:
        found: by key the measured values, one per task and seed; their mean is compared.
    """
    lines: list[tuple[str, ...]] = []
    for claim in CLAIMS[paper]:
        values = found.get(claim.key, ())
        reached = "not measured"
        if values:
            reached = "yes" if claim.is_reached(statistics.mean(values)) else "no"
        ours = f"{_shown(statistics.mean(values), claim.form)} (n = {len(values)})" if values else "not measured"
        bound = f"{claim.bound} {_shown(claim.value, claim.form)} ({claim.source})"
        lines.append((claim.text, bound, _shown(claim.tolerance, claim.form), ours, reached))
    return lines


def _shown(value: float, form: Form) -> str:
    return f"{100 * value:.4g} %" if form == "percent" else f"{value:.3g} times"
