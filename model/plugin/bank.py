"""An FFN with a bank of plugins, one per ratio, and the padding that groups of k positions need."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from model.backbone import BackboneSpec
from model.plugin.mux import MuxLayer


class PluginFFN(nn.Module):
    """Wraps a dense FFN (kept as `base_layer`); `ratio` says which plugin of the bank is in use, 1 means none."""

    def __init__(
        self, base_layer: nn.Module, width: int, ratios: tuple[int, ...], bottleneck: int, scale: float
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bank = nn.ModuleDict({str(k): MuxLayer(width, k, bottleneck, scale) for k in ratios})
        self.ratio = 1

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        if self.ratio == 1:
            return self.base_layer(hidden_states)
        return self.bank[str(self.ratio)](hidden_states, self.base_layer)


class EncoderPadding:
    """Hooks on an encoder that let it take any length while plugins are on.

    Before the encoder runs, its input is padded (with the pad token, masked) to a multiple of the ratio in use;
    afterwards the added rows are cut off. The result on real tokens is the same for every amount of padding,
    as long as the length is a multiple of k. With `zero_padded_rows` the self-attention output of padded rows is
    set to 0, as it is in the original code; published plugins were trained so.
    """

    def __init__(self, model: Any, spec: BackboneSpec, zero_padded_rows: bool) -> None:
        self.ratio = 1
        self._pad_id = model.config.pad_token_id or 0
        self._length: int | None = None
        self._row_mask: Tensor | None = None
        encoder = spec.encoder(model)
        self._handles: list[RemovableHandle] = [
            encoder.register_forward_pre_hook(self._pad, with_kwargs=True),
            encoder.register_forward_hook(self._cut, always_call=True),
        ]
        if zero_padded_rows:
            for layer in spec.encoder_layers(model):
                self._handles.append(layer.attention.block.module.register_forward_hook(self._zero_rows))

    def remove(self) -> None:
        """Take all hooks off again."""
        for handle in self._handles:
            handle.remove()

    def _pad(self, encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._length = self._row_mask = None
        if self.ratio == 1:
            return None
        # The encoder's signature starts with (input_ids, attention_mask); make both keywords.
        kwargs = {**dict(zip(("input_ids", "attention_mask"), args, strict=False)), **kwargs}
        name = "input_ids" if kwargs.get("input_ids") is not None else "inputs_embeds"
        given: Tensor = kwargs[name]
        batch, length = given.shape[:2]
        mask, missing = kwargs.get("attention_mask"), -length % self.ratio
        if mask is None and not missing:
            return None
        if mask is None:
            mask = torch.ones((batch, length), dtype=torch.long, device=given.device)
        if missing:
            self._length = length
            mask = F.pad(mask, (0, missing), value=0)
            pads = torch.full((batch, missing), self._pad_id, device=given.device)
            if name == "inputs_embeds":
                pads = encoder.get_input_embeddings()(pads)
            kwargs[name] = torch.cat([given, pads.to(given.dtype)], dim=1)
        kwargs["attention_mask"] = mask
        if mask.dim() == 2:
            self._row_mask = mask.unsqueeze(-1)
        return (), kwargs

    def _cut(self, encoder: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        length, self._length, self._row_mask = self._length, None, None
        if length is None or output is None:
            return None
        if isinstance(output, tuple):
            return tuple(_cut_to(length, part) for part in output)
        for name, part in output.items():
            output[name] = _cut_to(length, part)
        return output

    def _zero_rows(self, attention: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._row_mask is None:
            return None
        return (output[0] * self._row_mask.to(output[0].dtype), *output[1:])


def _cut_to(length: int, part: Any) -> Any:
    """Hidden states (B, L, D) and attention probabilities (B, heads, L, L), or tuples of them, without added rows."""
    if isinstance(part, tuple):
        return tuple(_cut_to(length, one) for one in part)
    if not isinstance(part, Tensor):
        return part
    return part[:, :length] if part.dim() == 3 else part[:, :, :length, :length]
