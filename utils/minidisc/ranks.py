"""The decomposition that a schedule over ranks begins with, where the flags leave its ranks open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from model.backbone import spec_for
from model.decomposition.config import RANKS
from model.errors import ModelError
from utils.tucker.arguments import DecompositionArguments
from utils.tucker.ranks import THIRD, ranks_for


def base_flags(flags: DecompositionArguments, teacher: Any) -> DecompositionArguments:
    """The flags with `--use_swap`, and with ranks that give about a third of the matrices' parameters if no rank is
    named, neither in the flags nor in the teacher's config."""
    asked = replace(flags, use_swap=True)
    if any(getattr(place, name, None) is not None for place in (flags, teacher.config) for name in RANKS["IV"]):
        return asked
    spec = spec_for(teacher)
    sizes = replace(spec.sizes(teacher.config), layers=len(spec.encoder_layers(teacher)))  # some may have been dropped
    try:
        ranks: dict[str, Any] = dict(ranks_for(sizes, flags.protocol or "IV", flags.ops or "san_ffn", THIRD))
    except ModelError:  # which the decomposition will tell with its own words
        return asked
    return replace(asked, **ranks)
