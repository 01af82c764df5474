"""An FFN with a bank of plugins, and the padding that groups of k positions need."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from model.backbone import BackboneSpec
from model.errors import ModelError
from model.plugin.mux import MuxLayer
from model.plugin.state import PluginState
from model.plugin.tracing import cut, padded

#: Inputs of an encoder, beside its tokens, that have one whole number per position.
_BY_POSITION = ("token_type_ids", "position_ids")


class PluginFFN(nn.Module):
    """Wraps a dense FFN (kept as `base_layer`); the model's `PluginState` says which plugin of the bank is in use."""

    def __init__(self, base_layer: nn.Module, state: PluginState, masks_groups: bool) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bank = nn.ModuleDict()
        self.state = state
        self.masks_groups = masks_groups

    def add(self, key: str, plugin: MuxLayer, like: Tensor) -> None:
        """Put a plugin into the bank, on the FFN's device and in its dtype; of `like` where the FFN was pruned away."""
        reference = next(self.base_layer.parameters(), like)
        self.bank[key] = plugin.to(device=reference.device, dtype=reference.dtype).train(self.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        choice = self.state.choice
        if choice.ratio == 1:
            return self.base_layer(hidden_states)
        mask = self.state.mask if self.masks_groups else None
        return self.bank[choice.key](hidden_states, self.base_layer, mask)


class EncoderPadding:
    """Hooks on an encoder that let it take any length while plugins are on.

    Before the encoder runs, its input is padded (with the pad token, masked) to a multiple of the ratio in use;
    afterwards the added rows are cut off. In between, the batch's mask is at hand for the plugins, which leave padded
    positions out of their groups, and for `zero_rows`, which sets the self-attention output of padded rows to 0 as
    the original's attention does.
    """

    def __init__(self, model: Any, spec: BackboneSpec, state: PluginState, zero_rows: bool) -> None:
        self._state = state
        self._pad_id = model.config.pad_token_id or 0
        encoder = spec.encoder(model)
        self._names = tuple(inspect.signature(encoder.forward).parameters)
        self._handles: list[RemovableHandle] = [
            encoder.register_forward_pre_hook(self._pad, with_kwargs=True),
            encoder.register_forward_hook(self._cut, always_call=True),
        ]
        if zero_rows:
            for layer in spec.encoder_layers(model):
                self._handles.append(layer.attention.block.module.register_forward_hook(self._zero_rows))

    def remove(self) -> None:
        """Take all hooks off again."""
        for handle in self._handles:
            handle.remove()

    def _pad(self, encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._state.begin(None, None)
        ratio = self._state.choice.ratio
        if ratio == 1:
            return None
        kwargs = {**dict(zip(self._names, args, strict=False)), **kwargs}
        name = "input_ids" if kwargs.get("input_ids") is not None else "inputs_embeds"
        if name == "input_ids" and torch.compiler.is_exporting():
            made = padded(kwargs, ratio, self._pad_id, "position_ids" in self._names)
            self._state.begin(made.mask, made.length)
            return (), made.inputs
        given: Tensor = kwargs[name]
        batch, length = given.shape[:2]
        mask, missing = kwargs.get("attention_mask"), -length % ratio
        if mask is None and not missing:
            return None
        if mask is None:
            mask = torch.ones((batch, length), dtype=torch.long, device=given.device)
        if missing:
            if mask.dim() != 2:
                raise ModelError(
                    f"A mask of {mask.dim()} dimensions cannot be filled up from {length} positions to a multiple of "
                    f"the plugins' ratio, {ratio}: give one of (batch, length)."
                )
            mask = F.pad(mask, (0, missing), value=0)
            kwargs[name] = self._filled(encoder, given, missing)
            kwargs.update(self._filled_beside(kwargs, given, missing))
        kwargs["attention_mask"] = mask
        used = mask if mask.dim() == 2 else None
        # Reading the mask costs nothing on a CPU; on a GPU it would wait for the device.
        if used is not None and used.device.type == "cpu" and bool(used.all()):
            used = None
        self._state.begin(used, length if missing else None)
        return (), kwargs

    def _filled(self, encoder: Any, given: Tensor, missing: int) -> Tensor:
        """Ids (B, L) or embeddings (B, L, D) with pad tokens behind them."""
        pads = torch.full((given.shape[0], missing), self._pad_id, device=given.device)
        if given.dim() == 3:
            pads = encoder.get_input_embeddings()(pads)
        return torch.cat([given, pads.to(given.dtype)], dim=1)

    def _filled_beside(self, kwargs: dict[str, Any], given: Tensor, missing: int) -> dict[str, Tensor]:
        """The other inputs by position, (1 or B, L), that the encoder knows; the added ones are at position 0, for the
        table of positions may have no more than L."""
        beside = {name: kwargs[name] for name in _BY_POSITION if isinstance(kwargs.get(name), Tensor)}
        if "position_ids" in self._names and "position_ids" not in beside:
            beside["position_ids"] = torch.arange(given.shape[1], device=given.device).unsqueeze(0)
        return {name: F.pad(ids, (0, missing), value=0) for name, ids in beside.items()}

    def _cut(self, encoder: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        length = self._state.end()
        if length is None or output is None:
            return None
        if isinstance(output, tuple):
            return tuple(_cut_to(length, part) for part in output)
        for name, part in output.items():
            output[name] = _cut_to(length, part)
        return output

    def _zero_rows(self, attention: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if (mask := self._state.mask) is None:
            return None
        return (output[0] * mask.unsqueeze(-1).to(output[0].dtype), *output[1:])


def _cut_to(length: int, part: Any) -> Any:
    """Hidden states (B, L, D) and attention probabilities (B, heads, L, L), or tuples of them, without added rows; what
    is pooled, (B, D), stays."""
    if isinstance(part, tuple):
        return tuple(_cut_to(length, one) for one in part)
    if not isinstance(part, Tensor) or part.dim() < 3:
        return part
    if torch.compiler.is_exporting():
        return cut(length, part)
    return part[:, :length] if part.dim() == 3 else part[:, :, :length, :length]
