"""The edit that rounds weights to int8."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, get_args

from torch import nn
from transformers import PreTrainedModel

from model.backbone import Slot, describe_stacks, spec_for
from model.compression import EditConfig, register_edit
from model.errors import ModelError
from model.plugin.mux import MuxLayer
from model.quantization.layers import Activations, Int8Linear


@register_edit
@dataclass(frozen=True)
class QuantizationConfig(EditConfig):
    """int8 weights in every linear layer of the encoder and the decoder, whatever edits left them there.

    What stays in floating point: embeddings, norms, biases, poolers and heads; the matrices of plugins, which are read
    in pieces; those of LoRA; and the factors of a decomposition, from which weights are formed anew.

    Attributes:
        activations: `float` leaves them as they come; `int8` rounds them too, with one scale per position that is
            found at run time, so that integers are multiplied.
    """

    kind: ClassVar[str] = "quantization"

    activations: Activations = "float"

    def __post_init__(self) -> None:
        if self.activations not in get_args(Activations):
            raise ModelError(f"activations is one of {', '.join(get_args(Activations))}, found {self.activations!r}.")

    def apply(self, model: PreTrainedModel) -> None:
        """Round the weights; what they were cannot be had back."""
        self._replace(model, Int8Linear.of)

    def build(self, model: PreTrainedModel) -> None:
        """The same layers, whose int8 weights are to be loaded."""
        self._replace(model, Int8Linear.like)

    def own_modules(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """The int8 layers, by their names in the model."""
        return {name: module for name, module in model.named_modules() if isinstance(module, Int8Linear)}

    def parts(self) -> dict[str, EditConfig]:
        """Refused, for there is no delta: the weights themselves are rounded."""
        raise ModelError("A quantised model has no delta file: save it whole, with save_pretrained.")

    def _replace(self, model: PreTrainedModel, make: Callable[[nn.Linear, Activations], Int8Linear]) -> None:
        slots = list(_linear_slots(model))
        if not slots:
            raise ModelError(
                f"No linear layer to quantise was found: {describe_stacks(model)}, and the factors of decomposed "
                "matrices stay as they are."
            )
        for slot in slots:
            linear = slot.module
            assert isinstance(linear, nn.Linear)
            slot.replace(make(linear, self.activations))


def _linear_slots(model: PreTrainedModel) -> Iterator[Slot]:
    """Where linear layers hang in the layers of the model, plugins left out."""
    for stack in spec_for(model).layer_lists(model):
        plugins = {part for module in stack.modules() if isinstance(module, MuxLayer) for part in module.modules()}
        for parent in stack.modules():
            if parent not in plugins:
                yield from (
                    Slot(parent, name) for name, child in parent.named_children() if isinstance(child, nn.Linear)
                )
