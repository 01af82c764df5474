"""The decomposition's settings, which are the edit's entry in `config.json`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import nn
from transformers import PreTrainedModel

from model.compression import EditConfig, is_whole, register_edit
from model.decomposition.surgery import apply_decomposition, build_decomposition, own_modules
from model.errors import ModelError

Protocol = Literal["II", "III", "IV"]
Ops = Literal["san", "ffn", "san_ffn"]

#: The ranks that each protocol has.
RANKS: dict[str, tuple[str, ...]] = {
    "II": ("rank_dim",),
    "III": ("rank_condim", "rank_dim"),
    "IV": ("rank_layer", "rank_condim", "rank_dim"),
}
_EXPANSION = ("rank_left_expdim", "rank_right_expdim")


@register_edit
@dataclass(frozen=True)
class DecompositionConfig(EditConfig):
    """Encoder matrices as products of shared factors. A rank that the protocol does not have stays None.

    D is the model's width, N the number of D x D blocks that the encoder's matrices are cut into (12 per layer of a
    BERT whose FFN is 4 D wide).

    Attributes:
        protocol: "II", each block by itself: L (D, rank_dim) @ R (rank_dim, D). "III", outer factors that all blocks
            share, U (D, rank_condim) @ core (rank_condim, rank_dim) @ V (rank_dim, D). "IV", the cores are in turn
            mixtures of rank_layer ones: the matrix bank.
        ops: which matrices: the attention's, the feed-forward network's, or both.
        rank_layer: number of cores in the bank.
        rank_condim: columns of U.
        rank_dim: rows of V, or the rank of protocol II.
        is_expand: tanh([U u] @ core) @ [V; v], with columns u and rows v of each block's own; rank_layer is N.
        rank_left_expdim: columns of u.
        rank_right_expdim: rows of v.
    """

    kind: ClassVar[str] = "decomposition"

    protocol: Protocol = "IV"
    ops: Ops = "san_ffn"
    rank_layer: int | None = None
    rank_condim: int | None = None
    rank_dim: int | None = None
    is_expand: bool = False
    rank_left_expdim: int | None = None
    rank_right_expdim: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("protocol", get_args(Protocol)), ("ops", get_args(Ops))):
            if (found := getattr(self, name)) not in allowed:
                near = difflib.get_close_matches(str(found).lower().replace("-", "_"), allowed, n=1, cutoff=0.5)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ModelError(f"{name} is one of {', '.join(allowed)}, found {found!r}{hint}.")
        if not isinstance(self.is_expand, bool):
            raise ModelError(f"is_expand is true or false, found {self.is_expand!r}.")
        if self.is_expand and self.protocol != "IV":
            raise ModelError(f"is_expand goes with protocol IV, found protocol {self.protocol}.")
        self._check_ranks()

    def _check_ranks(self) -> None:
        needed = RANKS[self.protocol] + (_EXPANSION if self.is_expand else ())
        for name in (*RANKS["IV"], *_EXPANSION):
            rank = getattr(self, name)
            if name in needed and (not is_whole(rank) or rank < 1):
                raise ModelError(f"{name} must be a whole number of at least 1, found {rank!r}.")
            if name not in needed and rank is not None:
                without = "without is_expand" if name in _EXPANSION else f"in protocol {self.protocol}"
                raise ModelError(f"{name} has no meaning {without}: leave it out, found {rank!r}.")

    def apply(self, model: PreTrainedModel) -> None:
        """Decompose the encoder's matrices; `model.decomposition.relative_errors(model)` tells how well it went."""
        apply_decomposition(model, self)

    def build(self, model: PreTrainedModel) -> None:
        """The same structure with freshly drawn factors, which can train: none of them is zero."""
        build_decomposition(model, self)

    def own_modules(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """`matrix_bank` -> the factors; `layer.{i}.{query|…|ffn_out}` -> the decomposed layers with their biases."""
        return own_modules(model)
