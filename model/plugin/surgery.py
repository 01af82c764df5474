"""Attaching, detaching and switching plugins on a Hugging Face model, in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from model.backbone import describe_stacks, spec_for
from model.errors import ModelError
from model.plugin.bank import EncoderPadding, PluginFFN

#: Attribute of a model under which its padding hooks are kept (not a module: it owns no parameters).
_PADDING = "_plugin_padding"


def plugin_layers(model: Any) -> list[PluginFFN]:
    """The wrapped FFNs of `model`, in layer order (empty when no plugins are attached)."""
    return [
        layer.ffn.module for layer in spec_for(model).encoder_layers(model) if isinstance(layer.ffn.module, PluginFFN)
    ]


def attach_modules(model: Any, ratios: tuple[int, ...], bottleneck: int, scale: float, zero_padded_rows: bool) -> None:
    """Wrap every encoder FFN of `model` in a `PluginFFN` on the FFN's device and in its dtype."""
    spec = spec_for(model)
    layers = spec.encoder_layers(model)
    if not layers:
        raise ModelError(f"No encoder FFN to attach a plugin to was found: {describe_stacks(model)}.")
    width = spec.sizes(model.config).width
    for layer in layers:
        ffn = layer.ffn.module
        reference = next(ffn.parameters())
        wrapped = PluginFFN(ffn, width, ratios, bottleneck, scale)
        wrapped.bank.to(device=reference.device, dtype=reference.dtype)
        wrapped.train(ffn.training)
        layer.ffn.replace(wrapped)
    setattr(model, _PADDING, EncoderPadding(model, spec, zero_padded_rows))


def detach_modules(model: Any) -> None:
    """Put the dense FFNs back and remove the padding hooks."""
    for layer in spec_for(model).encoder_layers(model):
        wrapped = layer.ffn.module
        assert isinstance(wrapped, PluginFFN)
        layer.ffn.replace(wrapped.base_layer)
    getattr(model, _PADDING).remove()
    delattr(model, _PADDING)


def available_ratios(model: Any) -> tuple[int, ...]:
    """The ratios that `set_ratio` accepts: 1 and those of the bank."""
    layers = plugin_layers(model)
    return (1, *(int(k) for k in layers[0].bank)) if layers else (1,)


def current_ratio(model: Any) -> int:
    """The ratio in use (1 when plugins are off or absent)."""
    layers = plugin_layers(model)
    return layers[0].ratio if layers else 1


def set_ratio(model: Any, ratio: int) -> None:
    """Use the plugins of `ratio` from now on; 1 switches them off. Nothing is copied.

    Raises:
        ModelError: the bank has no such ratio.
    """
    if ratio not in (allowed := available_ratios(model)):
        raise ModelError(f"The model has no plugins for ratio {ratio}; it has: {', '.join(map(str, allowed))}.")
    for ffn in plugin_layers(model):
        ffn.ratio = ratio
    if padding := getattr(model, _PADDING, None):
        padding.ratio = ratio


@contextmanager
def use_ratio(model: Any, ratio: int) -> Iterator[None]:
    """`set_ratio` for the duration of a block; the former ratio comes back even after an exception."""
    before = current_ratio(model)
    set_ratio(model, ratio)
    try:
        yield
    finally:
        set_ratio(model, before)


def plugin_modules(model: Any, ratio: int) -> list[nn.Module]:
    """The plugins of one ratio, in layer order."""
    return [ffn.bank[str(ratio)] for ffn in plugin_layers(model)]
