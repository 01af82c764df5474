"""The edit that attaches compression plugins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from transformers import PreTrainedModel

from model.compression import EditConfig, is_positive, is_whole, register_edit
from model.errors import ModelError
from model.plugin.surgery import attach_modules, detach_modules, plugin_layers


@register_edit
@dataclass(frozen=True)
class PluginConfig(EditConfig):
    """A bank of compression plugins in front of every encoder FFN (Variator, section 3).

    Attributes:
        ratios: the ratios k of the bank, each at least 2. Ratio 1 (the dense model) is always there.
        bottleneck: hidden size of the adapter that undoes the compression; 64 in the paper.
        residual_scale: S, the backbone's residual stream over the one that the parameters are made for: 100 for
            published plugins and for the original's training dynamics on a Hugging Face T5, 1 for native units.
        zero_padded_rows: set the attention output of padded rows to 0, as the original's attention does.
    """

    kind: ClassVar[str] = "plugin"

    ratios: tuple[int, ...] = (4,)
    bottleneck: int = 64
    residual_scale: float = 100.0
    zero_padded_rows: bool = False

    def __post_init__(self) -> None:
        given: Any = self.ratios
        if not isinstance(given, tuple | list) or not given or not all(is_whole(k) and k > 1 for k in given):
            raise ModelError(f"Plugin ratios must be whole numbers of at least 2, found {given!r}.")
        object.__setattr__(self, "ratios", tuple(given))  # a list and the tuple are equal settings
        if len(set(self.ratios)) < len(self.ratios):
            raise ModelError(f"Each plugin ratio may be named once, found {list(self.ratios)}.")
        if not is_whole(self.bottleneck) or self.bottleneck < 1:
            raise ModelError(f"The bottleneck must be a whole number of at least 1, found {self.bottleneck!r}.")
        if not is_positive(self.residual_scale):
            raise ModelError(f"The residual scale must be a number above 0, found {self.residual_scale!r}.")

    def apply(self, model: PreTrainedModel) -> None:
        """Wrap every encoder FFN; `base_layer` keeps the dense one. The ratio in use is 1 afterwards."""
        attach_modules(model, self.ratios, self.bottleneck, self.residual_scale, self.zero_padded_rows)

    def undo(self, model: PreTrainedModel) -> None:
        """Hang the dense FFNs back; logits are bit-identical to those before `apply`."""
        detach_modules(model)

    def own_modules(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """`ratio_{k}.mux_layer.{layer}` -> plugin; the part behind the first dot is the published name."""
        return {
            f"ratio_{k}.mux_layer.{i}": ffn.bank[str(k)]
            for k in self.ratios
            for i, ffn in enumerate(plugin_layers(model))
        }
