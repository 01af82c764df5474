"""Ranks that suit a model, for whoever names none."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from model.backbone import BERT, BackboneSizes
from model.decomposition.config import RANKS
from model.decomposition.stacking import StackOrder
from model.errors import ModelError

#: Share of each rank's largest value that leaves about so much of the matrices' parameters, by protocol. A bank of
#: ranks (a, c, d) has about a c d numbers for N blocks of D x D: halves of each are an eighth of them, two thirds are
#: 0.3. With cores of each block's own it is c d of D x D, and a matrix alone has 2 r D numbers.
THIRD: Mapping[str, float] = {"II": 1 / 6, "III": 0.57, "IV": 2 / 3}
SEVENTH: Mapping[str, float] = {"II": 1 / 14, "III": 0.38, "IV": 1 / 2}


def ranks_for(
    sizes: BackboneSizes, protocol: str = "IV", ops: str = "san_ffn", share: Mapping[str, float] = SEVENTH
) -> dict[str, int]:
    """The ranks of a decomposition that keeps a share of the matrices' parameters: a seventh, as the paper's smaller
    model, unless `share` says otherwise.

    Raises:
        ModelError: matrices of these sizes cannot be cut into blocks.
    """
    whole = {
        "rank_layer": StackOrder.of(ops, sizes.width, sizes.ffn).blocks * sizes.layers,
        "rank_condim": sizes.width,
        "rank_dim": sizes.width,
    }
    return {name: max(1, round(share[protocol] * whole[name])) for name in RANKS[protocol]}


def flags_for(sizes: BackboneSizes) -> list[str]:
    """Flags of both distillation scripts that decompose a BERT of these sizes to about a seventh of its matrices; where
    its FFN cannot be cut into blocks, of its attention alone."""
    try:
        ops, ranks = [], ranks_for(sizes)
    except ModelError:
        ops, ranks = ["--ops", "san"], ranks_for(sizes, ops="san")
    return ["--use_swap", *ops, *(word for name, rank in ranks.items() for word in (f"--{name}", str(rank)))]


def sizes_of(config: Mapping[str, Any]) -> BackboneSizes | None:
    """The sizes in a BERT's config.json; None where it does not say them."""
    try:
        return BERT.sizes(SimpleNamespace(**config))
    except AttributeError:
        return None
