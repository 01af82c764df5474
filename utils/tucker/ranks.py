"""Ranks that suit a model, for whoever names none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from model.backbone import BERT, BackboneSizes, family_of
from model.decomposition.config import RANKS, DecompositionConfig
from model.decomposition.stacking import StackOrder
from model.errors import ModelError
from utils.errors import UserError
from utils.tucker.arguments import DecompositionArguments

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
        "rank_layer": stacked_matrices(sizes, ops),
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


def stacked_matrices(sizes: BackboneSizes, ops: str) -> int:
    """How many matrices as wide as the model those of `ops` are cut into.

    Raises:
        ModelError: the feed-forward network's width is no multiple of the model's.
    """
    return StackOrder.of(ops, sizes.width, sizes.ffn).blocks * sizes.layers


def advice(config: Any, protocol: str, ops: str) -> str:
    """Ranks for a model whose student names none, as they are typed, and what comes of them."""
    if family_of(config) != BERT.family:
        return " ".join(f"--{name} N" for name in RANKS[protocol])
    sizes = BERT.sizes(config)
    typed = " ".join(f"--{name} {rank}" for name, rank in ranks_for(sizes, protocol, ops).items())
    return f"{typed} (about 1/7 of the parameters of its {stacked_matrices(sizes, ops)} matrices)"


def check_ranks(config: Any, edit: DecompositionConfig, flags: DecompositionArguments) -> None:
    """Refuse ranks above their dimension before anything is loaded.

    Raises:
        UserError: names the rank, where it was given, what `ops` has to do with it, and the cure.
    """
    if family_of(config) != BERT.family:
        return  # which the decomposition tells
    sizes = BERT.sizes(config)
    most = {"rank_condim": (sizes.width, "the model's width"), "rank_dim": (sizes.width, "the model's width")}
    if not flags.from_scratch:  # a bank that is drawn may be as large as one likes
        what = f"the number of matrices that ops {edit.ops!r} decomposes in this model"
        most["rank_layer"] = (stacked_matrices(sizes, edit.ops), what)
    for name in RANKS[edit.protocol]:
        rank, (limit, what) = getattr(edit, name), most.get(name, (math.inf, ""))
        if rank <= limit:
            continue
        given = f"--{name} {rank}"
        if getattr(flags, name) is None:
            given = f"{config.name_or_path or 'the student'}/config.json: {name} {rank}"
        cure = f"give --{name} {limit} or less"
        if name == "rank_layer" and edit.ops != "san_ffn" and rank <= stacked_matrices(sizes, "san_ffn"):
            cure += f", or --ops san_ffn, which has {stacked_matrices(sizes, 'san_ffn')}"
        raise UserError(f"{given} is above {limit}, {what}: {cure}.")
