"""BERT's projections on packed weights, for evaluation in float32 on a CPU; in any other case the stock modules' work.

The classes here have the parts and parameters of the stock ones: a module becomes one of them, and a stock one again,
by its class alone. So the state dict is the plain model's; copies and pickles are made of stock modules.

Shapes: D width, F neurons; leading dimensions are any.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation
from transformers.models.bert.modeling_bert import BertIntermediate, BertOutput, BertSelfOutput

from model.packing import PackedWeight, usable_for

#: Values looked at to notice a change that bypassed autograd (`parameter.data`).
_PROBED = 64


class _Kept(NamedTuple):
    """A packed weight, and what tells whether it is still the parameter's."""

    packed: PackedWeight
    marks: tuple[Any, ...]
    sample: Tensor  # a view of the parameter
    values: Tensor  # what it showed


class _Optimized:
    """Base: a copy (or pickle) is a module of the stock class."""

    STOCK: ClassVar[type[nn.Module]]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if key != "_kept"}
        return _empty, (self.STOCK,), state


class PackedLinear(_Optimized, nn.Linear):
    """A linear layer that keeps its weight packed as well, until the parameter changes or is trained."""

    STOCK = nn.Linear
    _kept: _Kept | None = None

    def packed(self, x: Tensor) -> PackedWeight | None:
        """The packed weight where it can be multiplied with `x` now, else None."""
        if self.training or x.dtype != torch.float32 or not usable_for(self.weight) or self.weight.is_inference():
            return None  # of a tensor made in inference mode nobody knows whether it was written to
        marks, kept = (self.weight, self.weight._version, self.weight.data_ptr()), self._kept
        if kept is None or kept.marks[0] is not marks[0] or kept.marks[1:] != marks[1:] or not _same(kept):
            # Packed inside inference mode it could never be used outside it.
            with torch.inference_mode(False), torch.no_grad():
                sample = self.weight.detach().view(-1)[:: max(1, self.weight.numel() // _PROBED)]
                self._kept = kept = _Kept(PackedWeight(self.weight.detach().T), marks, sample, sample.clone())
        return kept.packed

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        packed = self.packed(x)
        if packed is None:
            return super().forward(x)
        return packed.product(x.reshape(-1, self.in_features), self.bias).view(*x.shape[:-1], self.out_features)

    def train(self, mode: bool = True) -> Self:
        """Training changes the weight: the packed one is dropped."""
        if mode:
            self._kept = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._kept = None  # moved or cast
        return super()._apply(*args, **kwargs)


class PackedIntermediate(_Optimized, BertIntermediate):
    """BERT's FFN up to its activation: the GELU is a part of the product."""

    STOCK = BertIntermediate

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, D) -> (…, F)."""
        dense, act = self.dense, self.intermediate_act_fn
        packed = _packed_of(dense, hidden_states) if _is_exact_gelu(act) else None
        if packed is None:
            made: Tensor = super().forward(hidden_states)
            return made
        x = hidden_states.reshape(-1, dense.in_features)
        return packed.product(x, dense.bias, gelu=True).view(*hidden_states.shape[:-1], dense.out_features)


class _PackedSum(_Optimized):
    """A projection whose result is added to the sub-layer's input: the sum is a part of the product."""

    dense: nn.Module
    LayerNorm: nn.LayerNorm
    dropout: nn.Dropout

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """(…, any) and (…, D) -> (…, D)."""
        dense = self.dense
        fits = input_tensor.dtype == torch.float32 and hidden_states.shape[:-1] == input_tensor.shape[:-1]
        packed = _packed_of(dense, hidden_states) if fits and not self.dropout.training else None
        if packed is None:
            made: Tensor = super().forward(hidden_states, input_tensor)  # type: ignore[misc]  # the stock class's
            return made
        assert isinstance(dense, PackedLinear)
        other = input_tensor.reshape(-1, dense.out_features)
        summed = packed.product_plus(hidden_states.reshape(-1, dense.in_features), dense.bias, other)
        return self.LayerNorm(summed.view(input_tensor.shape))


class PackedSelfOutput(_PackedSum, BertSelfOutput):
    """What follows BERT's attention."""

    STOCK = BertSelfOutput


class PackedOutput(_PackedSum, BertOutput):
    """BERT's FFN behind its activation."""

    STOCK = BertOutput


_PACKED: dict[type, type[_Optimized]] = {
    kind.STOCK: kind for kind in (PackedLinear, PackedIntermediate, PackedSelfOutput, PackedOutput)
}


def pack(module: nn.Module) -> None:
    """Let a stock module, and the projection `dense` in it, use packed weights; other classes stay as they are."""
    for part in _with_dense(module):
        part.__class__ = cast(Any, _PACKED.get(type(part), type(part)))


def unpack(module: nn.Module) -> None:
    """Take back what `pack` did."""
    for part in _with_dense(module):
        if isinstance(part, _Optimized):
            part.__class__ = cast(Any, part.STOCK)
            part.__dict__.pop("_kept", None)


def _empty(kind: type[nn.Module]) -> nn.Module:
    """A module that a copy's or a pickle's state is written into."""
    return kind.__new__(kind)


def _with_dense(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    dense = getattr(module, "dense", None)
    if isinstance(dense, nn.Module):
        yield dense


def _packed_of(dense: nn.Module, x: Tensor) -> PackedWeight | None:
    """The packed weight of a projection; None as well where hooks want to see its own input and result."""
    if not isinstance(dense, PackedLinear) or dense._forward_hooks or dense._forward_pre_hooks:
        return None
    return dense.packed(x)


def _is_exact_gelu(activation: nn.Module) -> bool:
    hooked = activation._forward_hooks or activation._forward_pre_hooks
    return type(activation) is GELUActivation and activation.act is nn.functional.gelu and not hooked


def _same(kept: _Kept) -> bool:
    return torch.equal(kept.sample, kept.values)
