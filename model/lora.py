"""LoRA on the query and value projections of self-attention: the original's `--delta_tuning`.

Source: Hu et al. 2021 (arXiv:2106.09685); placement and sizes as in Variator's code: encoder and decoder
self-attention, not cross-attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.backbone import LayerSlots, Slot, describe_stacks, spec_for
from model.compression import EditConfig, is_positive, is_whole, register_edit
from model.errors import ModelError


class LoraLinear(nn.Module):
    """y = base(x) + (alpha / r) · B(A(x)), with A (r, in) and B (out, r)."""

    def __init__(self, base_layer: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.scaling = alpha / rank
        weight = base_layer.weight
        self.lora_A = nn.Parameter(torch.empty(rank, base_layer.in_features, device=weight.device, dtype=weight.dtype))
        self.lora_B = nn.Parameter(torch.zeros(base_layer.out_features, rank, device=weight.device, dtype=weight.dtype))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    @property
    def weight(self) -> Tensor:
        """The frozen weight; T5's attention reads its dtype."""
        return self.base_layer.weight

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        return self.base_layer(x) + self.scaling * F.linear(F.linear(x, self.lora_A), self.lora_B)


class LoraWeights(nn.Module):
    """View of a `LoraLinear` that holds only its own two matrices, for delta files."""

    def __init__(self, layer: LoraLinear) -> None:
        super().__init__()
        self.lora_A, self.lora_B = layer.lora_A, layer.lora_B


@register_edit
@dataclass(frozen=True)
class LoraConfig(EditConfig):
    """Low-rank updates of q and v in every self-attention block.

    Attributes:
        rank: r.
        alpha: numerator of the scaling alpha / r.
    """

    kind: ClassVar[str] = "lora"

    rank: int = 16
    alpha: float = 32.0

    def __post_init__(self) -> None:
        if not is_whole(self.rank) or self.rank < 1:
            raise ModelError(f"LoRA's rank must be a whole number of at least 1, found {self.rank!r}.")
        if not is_positive(self.alpha):
            raise ModelError(f"LoRA's alpha must be a number above 0, found {self.alpha!r}.")

    def apply(self, model: PreTrainedModel) -> None:
        """Wrap q and v; B starts at 0, so the model's output does not change."""
        slots = _projection_slots(model)
        if not slots:
            raise ModelError(f"No self-attention to put LoRA on was found: {describe_stacks(model)}.")
        for name, slot in slots.items():
            linear = slot.module
            if not isinstance(linear, nn.Linear):
                raise ModelError(f"LoRA expects a linear projection at {name}, found {type(linear).__name__}.")
            slot.replace(LoraLinear(linear, self.rank, self.alpha))

    def undo(self, model: PreTrainedModel) -> None:
        """Hang the plain projections back."""
        for slot in _projection_slots(model).values():
            layer = slot.module
            assert isinstance(layer, LoraLinear)
            slot.replace(layer.base_layer)

    def own_modules(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """`project_{q,v}_lora[_dec].{layer}` -> its two matrices; the original's key names."""
        modules: dict[str, nn.Module] = {}
        for name, slot in _projection_slots(model).items():
            layer = slot.module
            if not isinstance(layer, LoraLinear):
                raise ModelError(f"The model carries no LoRA: {name} is a {type(layer).__name__}.")
            modules[name] = LoraWeights(layer)
        return modules


def _projection_slots(model: PreTrainedModel) -> dict[str, Slot]:
    spec = spec_for(model)
    stacks: dict[str, list[LayerSlots]] = {"": spec.encoder_layers(model), "_dec": spec.decoder_layers(model)}
    return {
        f"project_{letter}_lora{suffix}.{i}": slot
        for suffix, layers in stacks.items()
        for i, layer in enumerate(layers)
        for letter, slot in (("q", layer.attention.query), ("v", layer.attention.value))
    }
