"""Students with fewer layers: the encoder's other layers are gone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from torch import nn
from transformers import PreTrainedModel

from model.backbone import describe_stacks, spec_for
from model.compression import EditConfig, is_whole, register_edit
from model.errors import ModelError

#: Where T5's first block keeps the position biases of the whole stack.
_BIAS = "relative_attention_bias"


@register_edit
@dataclass(frozen=True)
class LayerDropConfig(EditConfig):
    """Some of the encoder's layers. The config keeps the original number of layers.

    Attributes:
        layers: the numbers of those that stay, rising.
    """

    kind: ClassVar[str] = "layer_drop"

    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        given: Any = self.layers
        if not isinstance(given, tuple | list) or not given or not all(is_whole(i) and i >= 0 for i in given):
            raise ModelError(f"layers must be a list of the layers that stay, counted from 0, found {given!r}.")
        if any(low >= high for low, high in pairwise(given)):
            raise ModelError(f"layers must rise, found {list(given)}.")
        object.__setattr__(self, "layers", tuple(given))  # a list and the tuple are equal settings

    def apply(self, model: PreTrainedModel) -> None:
        """Take the other layers out of the encoder and number those that stay anew."""
        spec = spec_for(model)
        depth = len(spec.encoder_layers(model))
        if not depth:
            raise ModelError(f"No encoder layer to keep was found: {describe_stacks(model)}.")
        if self.layers[-1] >= depth:
            raise ModelError(f"Layer {self.layers[-1]} cannot be kept: the encoder's layers are 0 to {depth - 1}.")
        if spec.relative_bias:
            _keep_bias(*(spec.encoder_layers(model)[i].attention.block.module for i in (0, self.layers[0])))
        slot = spec.layer_list(model)
        kept = nn.ModuleList([slot.module.get_submodule(str(i)) for i in self.layers])
        for i, layer in enumerate(kept):
            for module in layer.modules():
                if hasattr(module, "layer_idx"):
                    setattr(module, "layer_idx", i)  # noqa: B010  # a module's own numbers have no declared type
        slot.replace(kept.train(slot.module.training))

    def own_modules(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """None: what is left are the backbone's own weights."""
        return {}

    def parts(self) -> dict[str, EditConfig]:
        """Refused, for there is no delta: what was trained are the backbone's weights."""
        raise ModelError("A model with fewer layers has no delta file: save it whole, with save_pretrained.")


def first_layers(count: int) -> LayerDropConfig:
    """The edit that keeps the first `count` layers.

    Raises:
        ModelError: it is no whole number of at least 1.
    """
    if not is_whole(count) or count < 1:
        raise ModelError(f"A model has a whole number of layers, at least 1, found {count!r}.")
    return LayerDropConfig(tuple(range(count)))


def _keep_bias(first: Any, new_first: Any) -> None:
    """Give the position biases to the block that is the first from now on."""
    if new_first is not first:
        setattr(new_first, _BIAS, getattr(first, _BIAS))
        new_first.has_relative_attention_bias = True
