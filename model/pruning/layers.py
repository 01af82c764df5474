"""The modules that pruning leaves where something is gone, and those that compute with a part of a matrix.

Shapes: B batch, L length, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def zeros(x: Tensor, width: int) -> Tensor:
    """(…, any) -> (…, width) of zeros that take no memory."""
    return x.new_zeros(()).expand(*x.shape[:-1], width)


def linear_of(weight: Tensor, bias: Tensor | None, like: nn.Module) -> nn.Linear:
    """A linear layer with these parameters, in the training mode of `like`."""
    with torch.device("meta"):
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
    if bias is not None:
        made.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias)
    return made.train(like.training)


class ZeroLinear(nn.Module):
    """The projection (…, in) -> (…, out) without weights: all of its rows, or all of its columns, are gone."""

    weight = None
    bias = None

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out), all 0."""
        return zeros(x, self.out_features)

    def extra_repr(self) -> str:
        """As a linear layer shows its sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class SkippedAttention(nn.Module):
    """An attention block without heads, for families whose output projection stands behind the block (BERT)."""

    num_attention_heads = 0

    def __init__(self, width: int, layer_idx: int | None) -> None:
        super().__init__()
        self.query, self.key, self.value = (ZeroLinear(width, 0) for _ in range(3))
        self.layer_idx = layer_idx

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """(B, L, D) -> the context (B, L, 0), and no probabilities."""
        return zeros(hidden_states, 0), None


class NestedAttention(nn.Module):
    """An attention block that is left out while `num_attention_heads` is 0, else `base_layer`."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.num_attention_heads = int(getattr(base_layer, "num_attention_heads", 1))

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the block, or as `SkippedAttention`."""
        if not self.num_attention_heads:
            return zeros(hidden_states, 0), None
        return self.base_layer(hidden_states, *args, **kwargs)


class NestedLinear(nn.Module):
    """y = W[:rows, :columns] x + b[:rows], on views of the whole parameters; without columns y = 0, as in `ZeroLinear`.

    Rows beyond `rows` do not take part and get a gradient of 0. The parameters are those of the dense layer, under
    the same names.
    """

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = dense.weight, dense.bias
        self.rows, self.columns = dense.out_features, dense.in_features
        self.train(dense.training)

    @property
    def in_features(self) -> int:
        """Columns in use."""
        return self.columns

    @property
    def out_features(self) -> int:
        """Rows in use."""
        return self.rows

    def plain(self) -> nn.Linear:
        """The whole layer again, with the same parameters."""
        return linear_of(self.weight, self.bias, self)

    def forward(self, x: Tensor) -> Tensor:
        """(…, columns) -> (…, rows)."""
        if not self.columns:
            return zeros(x, self.rows)
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if self.rows < weight.shape[0]:
            weight, bias = weight[: self.rows], None if bias is None else bias[: self.rows]
        if self.columns < weight.shape[1]:
            weight = weight[:, : self.columns]
        return F.linear(x, weight, bias)
