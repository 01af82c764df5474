"""The names of MiniDisc's model types, and which terms of the loss each has; the formulas are in `model.variants`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from notation.errors import NotationError


@dataclass(frozen=True)
class ModelType:
    """One variant.

    Attributes:
        name: as the release has it.
        family: `bert` or `enct5`, the kind of backbone that it was made for; any other does as well.
        level: whether there is a label per sequence or per token.
        hard, soft: whether labels and the teacher's predictions are learnt from.
        hidden: whether and how hidden states are compared.
        divisor: of the sum of these.
    """

    name: str
    family: Literal["bert", "enct5"]
    level: Literal["sequence", "token"]
    hard: bool
    soft: bool
    hidden: Literal["plain", "normalized"] | None
    divisor: float

    @property
    def needs_teacher(self) -> bool:
        """Whether a term looks at a teacher."""
        return self.soft or self.hidden is not None


def _model_types() -> Mapping[str, ModelType]:
    sequence = (
        ModelType("ftbert_cls", "bert", "sequence", hard=True, soft=False, hidden=None, divisor=1),
        ModelType("kdbert_cls", "bert", "sequence", hard=True, soft=True, hidden=None, divisor=2),
        ModelType("pkdbert_cls", "bert", "sequence", hard=True, soft=True, hidden="normalized", divisor=3),
        ModelType("sparsebert_cls", "bert", "sequence", hard=False, soft=True, hidden="plain", divisor=2),
        ModelType("ftenct5_cls", "enct5", "sequence", hard=True, soft=False, hidden=None, divisor=1),
        ModelType("sparseenct5_cls", "enct5", "sequence", hard=False, soft=True, hidden="plain", divisor=2),
    )
    token = (replace(kind, name=kind.name.replace("_cls", "_ner"), level="token") for kind in sequence)
    return MappingProxyType({kind.name: kind for kind in (*sequence, *token)})


MODEL_TYPES: Mapping[str, ModelType] = _model_types()


def get_model_type(name: str) -> ModelType:
    """The model type of that name.

    Raises:
        NotationError: there is none; names those that are near, or all.
    """
    if name in MODEL_TYPES:
        return MODEL_TYPES[name]
    near = difflib.get_close_matches(name, MODEL_TYPES, n=2) or list(MODEL_TYPES)
    raise NotationError(f"There is no model type {name!r}; did you mean {' or '.join(near)}?")
