"""What pruning makes of MACs: wall-clock of a BERT-base encoder, dense against students cut to four sparsities.

python -m benchmarks.pruned_speed --json pruned_speed.json
python -m benchmarks.pruned_speed --sandwich --num-hidden-layers 4
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch

from benchmarks.common import add_shape_flags, compare, parser, report, settings_from, sizes_from
from benchmarks.decomposed_speed import BASE, build, forward_of
from benchmarks.sandwich import GRID, SIDES, random_importance, sandwich_step
from metric.cost import count_macs
from model import committed, optimize_for_inference, sparsify
from utils.errors import run_as_script

SPARSITIES = (50, 70, 90, 95)


def sorted_copy(dense: Any) -> Any:
    """The model with its heads and neurons in a drawn order of importance."""
    model = copy.deepcopy(dense)
    sparsify(model, random_importance(model))
    return model


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    flags = parser("pruned_speed", "Wall-clock of pruned BERT encoders against the dense one.", repeats=15)
    add_shape_flags(flags, BASE)
    flags.add_argument(
        "--sparsities", nargs="+", type=int, default=list(SPARSITIES), help="in percent (default: 50 70 90 95)"
    )
    flags.add_argument("--optimize", action="store_true", help="pack the students by optimize_for_inference first")
    flags.add_argument(
        "--sandwich", action="store_true", help="time one training step of MiniDisc instead, and its memory"
    )
    flags.add_argument(
        "--grid", nargs="+", type=int, default=list(GRID), help="its sparsities in percent, rising (default: 50 … 95)"
    )
    flags.add_argument("--memory_of", choices=SIDES, help="with --sandwich: only print the peak memory of one step")
    given = flags.parse_args(arguments)
    settings = settings_from(given)
    sizes = sizes_from(given, BASE)
    if given.sandwich:
        sandwich_step(sizes, given, settings)
        return
    dense, rows = build(sizes).to(settings.device), []
    whole = sorted_copy(dense)
    for percent in given.sparsities:
        model = committed(whole, percent / 100).eval()
        for batch, length in given.shapes:
            ids = torch.randint(2, 1000, (batch, length), device=settings.device)
            before, after = (forward_of(ids, given.precision, side) for side in (dense, model))
            ratio = count_macs(before) / count_macs(after)
            if given.optimize:
                optimize_for_inference(model, batch, length)
                after()  # packs the weights, which is done once
            extra = {"precision": given.precision, "optimized": given.optimize}
            rows.append(compare(f"{percent} % pruned", batch, length, before, after, ratio, settings, **extra))
    report(rows, settings, "optimized" if given.optimize else "")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
