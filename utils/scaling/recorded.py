"""The training step whose time stands on a results page: the rate that docs/scaling.md is worked out at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.pages import read_measured

#: `| distillation of 50 | 3098 | 223.5 | 1303 |`, as `python -m benchmarks.pruned_speed --sandwich` writes it.
_BLOCK = "sandwich"
_ROW = re.compile(r"\| distillation of [\d.]+ \| (?P<ms>[\d.]+) \| (?P<gmacs>[\d.]+) \|")


@dataclass(frozen=True)
class Step:
    """A step as its page prints it: milliseconds, and 10^9 multiply-accumulates."""

    ms: str
    gmacs: str

    @property
    def macs_per_second(self) -> float:
        """The rate."""
        return float(self.gmacs) * 1e12 / float(self.ms)


def recorded_step(page: Path) -> Step:
    """The plain distillation step of the page's block `sandwich`.

    Raises:
        UserError: the page has no such block, or no such row in it.
    """
    if not page.is_file():
        raise UserError(f"--recorded {page}: there is no such page.")
    for line in read_measured(page, _BLOCK):
        if (found := _ROW.match(line)) and float(found["ms"]) > 0 and float(found["gmacs"]) > 0:
            return Step(found["ms"], found["gmacs"])
    raise UserError(f"{page} has no row '| distillation of … | ms | G MACs |' in its block {_BLOCK!r}.")
