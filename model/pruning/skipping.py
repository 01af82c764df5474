"""What stands around a sub-layer, once nothing of the sub-layer is left: no zeros are made and added.

A sub-layer without heads or neurons adds 0 to its input, so BERT's norm behind it gets the input alone, and T5's norm
before it is not needed. The classes here have the parts and attributes of Hugging Face's: a module becomes one of them
by its class alone, so that keys, hooks and whoever holds it notice nothing. In training with dropout they do what the
stock modules do, for the random numbers that come next depend on it.

Shapes: B batch, L length, D width.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertOutput, BertSelfOutput
from transformers.models.t5.modeling_t5 import T5LayerCrossAttention, T5LayerFF, T5LayerSelfAttention

from model.pruning.layers import NestedLinear, ZeroLinear


class _Skips:
    """Says whether the sub-layer can be left out now. `PROJECTION` is the path of its last matrix."""

    PROJECTION: str
    dropout: nn.Dropout

    def skips(self) -> bool:
        """Whether the last matrix has no column, and no random number is to be drawn."""
        last = _projection(self, self.PROJECTION)
        empty = isinstance(last, ZeroLinear) or (isinstance(last, NestedLinear) and not last.columns)
        return empty and not (self.dropout.training and self.dropout.p > 0)


class _SkipsDense(_Skips):
    PROJECTION = "dense"
    LayerNorm: nn.LayerNorm

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """(B, L, any) and the sub-layer's input (B, L, D) -> (B, L, D)."""
        if self.skips():
            return self.LayerNorm(input_tensor)
        made: Tensor = super().forward(hidden_states, input_tensor)  # type: ignore[misc]  # the stock class's
        return made


class SkippableSelfOutput(_SkipsDense, BertSelfOutput):
    """Behind BERT's attention."""


class SkippableOutput(_SkipsDense, BertOutput):
    """Behind BERT's feed-forward network."""


class _SkipsAttention(_Skips):
    """The block itself is called nevertheless: it passes the position bias on and counts the keys of a cache."""

    def forward(self, hidden_states: Tensor, *args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """As the stock class's: (B, L, D) -> the same shape, the position bias, the probabilities."""
        if self.skips() and not args:
            block = getattr(self, self.PROJECTION.split(".")[0])
            return hidden_states, *block(hidden_states, mask=attention_mask, **kwargs)[1:]
        return super().forward(hidden_states, *args, attention_mask=attention_mask, **kwargs)  # type: ignore[misc]


class SkippableSelfAttention(_SkipsAttention, T5LayerSelfAttention):
    """Around T5's self-attention."""

    PROJECTION = "SelfAttention.o"


class SkippableCrossAttention(_SkipsAttention, T5LayerCrossAttention):
    """Around T5's cross-attention."""

    PROJECTION = "EncDecAttention.o"


class SkippableFF(_Skips, T5LayerFF):
    """Around T5's feed-forward network."""

    PROJECTION = "DenseReluDense.wo"

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        if self.skips():
            return hidden_states
        made: Tensor = super().forward(hidden_states)
        return made


_SKIPPABLE: dict[type, type[_Skips]] = {
    BertSelfOutput: SkippableSelfOutput,
    BertOutput: SkippableOutput,
    T5LayerSelfAttention: SkippableSelfAttention,
    T5LayerCrossAttention: SkippableCrossAttention,
    T5LayerFF: SkippableFF,
}
_PLAIN: dict[type, type] = {skippable: plain for plain, skippable in _SKIPPABLE.items()}


def let_skip(model: nn.Module) -> None:
    """Give what stands around sub-layers that are empty, or can become so, a class that leaves them out; all others
    their stock class back. To be called whenever projections were cut, nested or made whole again.
    """
    for module in model.modules():
        plain = _PLAIN.get(type(module), type(module))
        skippable = _SKIPPABLE.get(plain)
        if skippable is not None:
            last = _projection(module, skippable.PROJECTION)
            may_be_empty = isinstance(last, ZeroLinear | NestedLinear)
            module.__class__ = cast(Any, skippable if may_be_empty else plain)


def _projection(module: object, path: str) -> object:
    """The module at `path`; None where something else, a plugin say, hangs on the way."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found
