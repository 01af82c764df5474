"""A linear layer with int8 weights. All arithmetic on them is torchao's; here is what lets them be saved and loaded.

torchao's quantised tensors are a type of their own, which safetensors cannot hold. So the layer keeps the two plain
tensors that such a tensor consists of as parameters, and hands them to torchao when it runs.

Shapes: O outputs, I inputs; leading dimensions are any.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

#: What the activations are multiplied as: as they come, or as int8 with one scale per position, found at run time.
Activations = Literal["float", "int8"]


class Int8Linear(nn.Module):
    """y = x @ (weight_int8 * weight_scale)^T + bias; with int8 activations, x is rounded likewise, row by row.

    Args:
        features: (I, O).
        bias: (O,), which stays as it is; or None.
        dtype: of the weights that the int8 ones stand for.

    Parameters: `weight_int8` (O, I), `weight_scale` (O, 1) in float32; neither can be trained.
    """

    def __init__(
        self,
        features: tuple[int, int],
        bias: nn.Parameter | None,
        activations: Activations,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = features
        self.activations = activations
        self.dtype = dtype
        data = torch.zeros(self.out_features, self.in_features, dtype=torch.int8, device=device)
        self.weight_int8 = nn.Parameter(data, requires_grad=False)
        scale = torch.ones(self.out_features, 1, dtype=torch.float32, device=device)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)
        self.bias = bias

    @classmethod
    def like(cls, linear: nn.Linear, activations: Activations) -> Int8Linear:
        """In the place of `linear`, whose bias it takes; its own weights are to be loaded."""
        weight = linear.weight
        made = cls((linear.in_features, linear.out_features), linear.bias, activations, weight.dtype, weight.device)
        return made.train(linear.training)

    @classmethod
    def of(cls, linear: nn.Linear, activations: Activations) -> Int8Linear:
        """`linear` with its weights rounded by torchao."""
        made = cls.like(linear, activations)
        rounded = _rounded(linear, activations)
        made.weight_int8.copy_(rounded.qdata)
        made.weight_scale.copy_(rounded.scale)
        return made

    @property
    def weight(self) -> Tensor:
        """torchao's tensor (O, I) of the two parts, which shares their memory."""
        from torchao.quantization import Int8Tensor, PerRow
        from torchao.quantization.quantize_.workflows import QuantizeTensorToInt8Kwargs

        rounding = QuantizeTensorToInt8Kwargs(granularity=PerRow()) if self.activations == "int8" else None
        made: Tensor = Int8Tensor(
            self.weight_int8.data,
            self.weight_scale.data,
            [1, self.in_features],
            self.dtype,
            act_quant_kwargs=rounding,
        )
        return made

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) -> (…, O)."""
        if self.activations == "int8" and x.device.type == "cpu" and not has_exact_integer_products():
            return self._by_floats(x)
        return F.linear(x, self.weight, self.bias)

    def _by_floats(self, x: Tensor) -> Tensor:
        """The same product of the same integers, worked out in float32, which holds them exactly."""
        from torchao.quantization import Int8Tensor, PerRow

        rounded: Any = Int8Tensor.from_hp(x, PerRow())
        with torch.autocast("cpu", enabled=False):
            product = rounded.qdata.float() @ self.weight_int8.float().T
            y = (product * rounded.scale.float() * self.weight_scale.T).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"{self.in_features}, {self.out_features}, activations={self.activations}"


@lru_cache
def has_exact_integer_products() -> bool:
    """Whether this CPU multiplies int8 matrices exactly.

    Processors with AVX2 alone add pairs of products in 16 bits, which is too few for large ones: the sums are cut off.
    """
    with _disable_current_modes(), torch.inference_mode():
        first = torch.full((32, 64), 127, dtype=torch.int8, device="cpu")
        second = torch.full((64, 32), 127, dtype=torch.int8, device="cpu")
        return bool((torch._int_mm(first, second) == 64 * 127**2).all())


@torch.no_grad()
def _rounded(linear: nn.Linear, activations: Activations) -> Any:
    """torchao's int8 tensor of a layer's weight."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

    kind = Int8DynamicActivationInt8WeightConfig if activations == "int8" else Int8WeightOnlyConfig
    holder = nn.ModuleList([copy.copy(linear)])  # shallow: torchao hangs its tensor into the copy
    holder[0]._parameters = dict(linear._parameters)
    quantize_(holder, kind(set_inductor_config=False))
    return holder[0].weight
