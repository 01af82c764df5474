"""The decomposition that a schedule over ranks begins with, where the flags leave its ranks open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from model.backbone import spec_for
from model.decomposition.config import RANKS
from model.decomposition.stacking import StackOrder
from model.errors import ModelError
from utils.tucker.arguments import DecompositionArguments


def base_flags(flags: DecompositionArguments, teacher: Any) -> DecompositionArguments:
    """The flags with `--use_swap`, and with ranks that give about a third of the matrices' parameters if no rank is
    named, neither in the flags nor in the teacher's config.

    A bank of ranks (a, c, d) has about a c d numbers for N blocks of D x D: two thirds of each are 0.3 of them. With
    cores of each block's own c d are a third at c = d = 0.57 D, and a matrix alone has 2 r D numbers: r = D / 6.
    """
    asked = replace(flags, use_swap=True)
    if any(getattr(place, name, None) is not None for place in (flags, teacher.config) for name in RANKS["IV"]):
        return asked
    spec, protocol = spec_for(teacher), flags.protocol or "IV"
    sizes = spec.sizes(teacher.config)
    try:
        blocks = StackOrder.of(flags.ops or "san_ffn", sizes.width, sizes.ffn).blocks
    except ModelError:  # which the decomposition will tell with its own words
        return asked
    whole = {"rank_layer": blocks * len(spec.encoder_layers(teacher)), "rank_condim": sizes.width}
    whole["rank_dim"] = sizes.width
    share = {"II": 1 / 6, "III": 0.57, "IV": 2 / 3}[protocol]
    return replace(asked, **{name: max(1, round(share * whole[name])) for name in RANKS[protocol]})  # type: ignore[arg-type]
