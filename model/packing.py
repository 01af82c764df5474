"""Weights in the layout that oneDNN's matrix products read, for evaluation in float32 on a CPU.

A plain product brings its weight into that layout every time. Weights that are kept anyway are brought into it once,
which makes the narrow products of factorised and pruned matrices faster, and a GELU or a sum behind them costs nothing
more. The operators are those that torch's own compiler uses for frozen weights; where they are missing, plain products
are used.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode


class PackedWeight:
    """A weight (in, out) in oneDNN's layout."""

    def __init__(self, weight: Tensor) -> None:
        self.shape = weight.shape
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.T.contiguous())

    def product(self, x: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
        """x (T, in) @ weight, plus the bias (out,); with `gelu`, the (exact) GELU of that."""
        if x.numel() == 0:
            return x.new_zeros(x.shape[0], self.shape[1])
        after: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), self._packed, bias, *after)
        return made

    def product_plus(self, x: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        """x (T, in) @ weight, plus the bias (out,), plus `other` (T, out)."""
        if x.numel() == 0:
            return other if bias is None else other + bias
        made: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x.contiguous(), other.contiguous(), self._packed, bias, "add"
        )
        return made


Weight = Tensor | PackedWeight


def usable_for(parameter: Tensor) -> bool:
    """Whether products with weights formed from `parameter` can be packed ones now.

    Not with gradients or autocast, not inside a counter or tracer (they would not know the operators).
    """
    return (
        parameter.device.type == "cpu"
        and parameter.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and _get_current_dispatch_mode() is None
        and not torch.compiler.is_compiling()
        and _works()
    )


@functools.cache
def _works() -> bool:
    """Whether this build of torch has the operators, tried once on a small product."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    x, weight, bias = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(3, 4), torch.ones(4)
    try:
        packed = PackedWeight(weight)
        found, activated = (packed.product(x, bias, gelu) for gelu in (False, True))
        doubled = packed.product_plus(x, bias, found)
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    expected = x @ weight + bias
    exact = torch.equal(found, expected) and torch.equal(doubled, 2 * expected)
    return exact and torch.allclose(activated, torch.nn.functional.gelu(expected))
