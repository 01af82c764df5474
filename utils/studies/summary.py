"""The README's table: a few rows of every study, which writes its own and leaves those of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.pages import read_measured, write_measured

#: In the order of the table.
METHODS = ("Variator", "Tucker", "MiniDisc")
_BLOCK = "results"
_HEAD = (
    "| method | task, metric, seeds | dense | compressed | kept | otherwise, at the same cost |",
    "|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class SummaryRow:
    """One compressed model beside the dense one.

    Attributes:
        size: how far it is compressed, such as `k = 4`.
        seeds: how many runs the means are of.
        kept: the metric over the dense one's, as the study's own page has it.
        others: name of a control at the same cost -> its metric.
    """

    size: str
    task: str
    metric: str
    seeds: int
    dense: float
    value: float
    kept: float
    others: Mapping[str, float]

    def cells(self, method: str) -> str:
        """The row as Markdown."""
        others = ", ".join(f"{name} {value:.3f}" for name, value in self.others.items())
        what = f"{self.task.upper()}, {self.metric}, {self.seeds}"
        return f"| {method}, {self.size} | {what} | {self.dense:.3f} | {self.value:.3f} | {self.kept:.1%} | {others} |"


def write_summary(page: Path, method: str, rows: Sequence[SummaryRow]) -> None:
    """Put a method's rows in the place of its old ones.

    Raises:
        UserError: the page has no such table.
    """
    kept = read_measured(page, _BLOCK)[len(_HEAD) :]
    parts = {name: [line for line in kept if line.startswith(f"| {name},")] for name in METHODS}
    parts[method] = [row.cells(method) for row in rows]
    write_measured(page, [*_HEAD, *(line for name in METHODS for line in parts[name])], _BLOCK)
