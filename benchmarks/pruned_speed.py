"""What pruning makes of MACs: wall-clock of a BERT-base encoder, dense against students cut to four sparsities.

python -m benchmarks.pruned_speed --json pruned_speed.json
python -m benchmarks.pruned_speed --sandwich --num-hidden-layers 4
"""

from __future__ import annotations

import copy
import sys
from typing import Any

from benchmarks.arguments import BERT_BASE, parse_pruned_speed

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse_pruned_speed)  # before the libraries load

import torch

from benchmarks.common import compare, report, settings_from, sizes_from
from benchmarks.decomposed_speed import build, forward_of
from benchmarks.sandwich import random_importance, sandwich_step
from metric.cost import count_macs
from model import committed, optimize_for_inference, sparsify
from utils.errors import run_as_script


def sorted_copy(dense: Any) -> Any:
    """The model with its heads and neurons in a drawn order of importance."""
    model = copy.deepcopy(dense)
    sparsify(model, random_importance(model))
    return model


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    given = parse_pruned_speed(arguments)
    settings = settings_from(given)
    sizes = sizes_from(given, BERT_BASE)
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
