"""What a decomposition makes of MACs: wall-clock of a BERT-base encoder, dense against four sets of ranks.

python -m benchmarks.decomposed_speed --json decomposed_speed.json
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.arguments import BERT_BASE, parse_decomposed_speed

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse_decomposed_speed)  # before the libraries load

import torch
from transformers import BertConfig, BertModel

from benchmarks.common import compare, report, settings_from, sizes_from
from metric.cost import count_macs
from model import DecompositionConfig, apply_edit, optimize_for_inference
from utils.errors import run_as_script


def build(sizes: dict[str, int]) -> Any:
    """A dense BERT encoder without pooler."""
    torch.manual_seed(0)
    return BertModel(BertConfig(vocab_size=1000, **sizes), add_pooling_layer=False).eval()


def decomposed(dense: Any, rank_layer: int, rank_dim: int) -> Any:
    """The same encoder with a matrix bank that was drawn, not computed."""
    model = copy.deepcopy(dense)
    apply_edit(model, DecompositionConfig("IV", "san_ffn", rank_layer, rank_dim, rank_dim), from_scratch=True)
    return model


def forward_of(ids: torch.Tensor, precision: str, model: Any) -> Callable[[], Any]:
    """One forward without gradients, to be timed."""

    def forward() -> Any:
        with torch.inference_mode(), torch.autocast(ids.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return model(input_ids=ids, attention_mask=torch.ones_like(ids))

    return forward


def macs_bound(sizes: dict[str, int], length: int, rank: int) -> float:
    """Dense MACs over those of the shared-factor path, per position, with attention.

    Outer factors that projections share are applied once; of the cores, those of the attention are applied by
    themselves (r² each) and those of the FFN are multiplied into an outer factor beforehand. The plans used here
    multiply all of them in, so what they do is a little less; the JSON has it as `counted_macs_ratio`.
    """
    width, chunks = sizes["hidden_size"], sizes["intermediate_size"] // sizes["hidden_size"]
    attention = 2 * length * width
    dense = (4 + 2 * chunks) * width**2
    # Query, key and value: one factor in, three out; the output projection: one each; each FFN matrix: 1 and F.
    sides = (1 + 3) + (1 + 1) + 2 * (1 + chunks)
    return (dense + attention) / (sides * width * rank + 4 * rank**2 + attention)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    given = parse_decomposed_speed(arguments)
    settings = settings_from(given)
    sizes = sizes_from(given, BERT_BASE)
    dense, rows = build(sizes).to(settings.device), []
    for rank_layer, rank_dim in given.ranks:
        model = decomposed(dense, rank_layer, rank_dim)
        for batch, length in given.shapes:
            ids = torch.randint(2, 1000, (batch, length), device=settings.device)
            before, after = (forward_of(ids, given.precision, side) for side in (dense, model))
            if given.optimize:
                optimize_for_inference(model, batch, length)
            after()  # forms the weights, which is done once
            row = compare(
                f"{rank_layer}, {rank_dim}",
                batch,
                length,
                before,
                after,
                macs_bound(sizes, length, rank_dim),
                settings,
                counted_macs_ratio=count_macs(before) / count_macs(after),
                precision=given.precision,
                optimized=given.optimize,
            )
            rows.append(row)
    report(rows, settings)


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
