"""Files of the original release: published plugins (`.pkl`) and full checkpoints (`best_model.pt`).

The original ran T5 in ModelCenter, whose residual stream is 1/100 of Hugging Face's. Plugins keep their
published numbers and get `residual_scale=100`, so files round-trip unchanged. The backbone of a full checkpoint is
converted by `model.modelcenter`.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from model.backbone import spec_for
from model.compression import delta_state, find_edit
from model.delta import put_delta
from model.errors import ModelError
from model.plugin.config import Compat, PluginConfig, prefix_of
from model.plugin.state import Choice
from model.plugin.surgery import ORIGINAL_EPSILON, set_epsilon
from model.weights import read_torch_file

#: Hugging Face residual stream / ModelCenter residual stream.
PUBLISHED_SCALE = 100.0
#: Decoder start of the original's classification tasks: `<unk>`, where T5 was pre-trained with `<pad>` (0).
ORIGINAL_DECODER_START = 2

_PLUGIN_KEY = re.compile(r"^mux_layer\.(\d+)\.(.+)$")
_PLUGIN_TENSORS = tuple(
    f"{part}.{kind}"
    for part in ("mux_layer", "demux_adapter.w_in", "demux_adapter.w_out")
    for kind in ("weight", "bias")
)


def read_published_plugin(path: Path) -> tuple[int, dict[str, Tensor]]:
    """The ratio and the `mux_layer.*` tensors of a `.pkl` or of a full original checkpoint.

    Raises:
        ModelError: no plugin tensors in it, some are missing, or the file is not one to trust.
    """
    state = {k: v for k, v in read_torch_file(path).items() if _PLUGIN_KEY.match(k)}
    if "mux_layer.0.mux_layer.bias" not in state:
        raise ModelError(f"{path} holds no plugin: no tensor mux_layer.0.mux_layer.bias in it.")
    layers = {key.split(".")[1] for key in state}
    if missing := sorted({f"mux_layer.{i}.{name}" for i in layers for name in _PLUGIN_TENSORS} - set(state)):
        raise ModelError(f"{path} holds an incomplete plugin: {len(missing)} tensors are missing, first {missing[0]}.")
    ratio, weight = state["mux_layer.0.mux_layer.bias"].numel(), state["mux_layer.0.mux_layer.weight"]
    if ratio < 2 or weight.dim() != 2:
        raise ModelError(f"{path} holds no plugin: its tensor mux_layer.0.mux_layer.weight is {list(weight.shape)}.")
    return ratio, state


def load_published_plugin(
    model: PreTrainedModel, path: Path, compat: Compat = "grouping", task: str = ""
) -> PluginConfig:
    """Attach the plugin of an original file to `model` with `residual_scale=100`, or put it into such a bank.

    Args:
        compat: `grouping` keeps the original's groups; `original` also its padded rows and epsilon.
        task: the name under which the plugin joins the bank.

    Raises:
        ModelError: the plugin was made for another width or depth (both named).
    """
    ratio, state = read_published_plugin(path)
    spec = spec_for(model)
    if spec.stream_scale != PUBLISHED_SCALE:
        raise ModelError(f"{path}: published plugins are made for a T5, and the model is a {spec.family}.")
    sizes = spec.sizes(model.config)
    found_width = state["mux_layer.0.mux_layer.weight"].shape[1] // ratio
    found_depth = len(state) // len(_PLUGIN_TENSORS)
    if (found_width, found_depth) != (sizes.width, sizes.layers):
        raise ModelError(
            f"{path}: the plugin was made for {found_depth} layers of width {found_width}, "
            f"the model has {sizes.layers} of width {sizes.width}."
        )
    bottleneck = state["mux_layer.0.demux_adapter.w_in.bias"].numel()
    edit = PluginConfig((ratio,), bottleneck, PUBLISHED_SCALE, (task,), compat)
    prefix = prefix_of(Choice(ratio, task))
    put_delta(model, edit, {prefix + k: v for k, v in state.items()}, str(path))
    return edit


def save_published_plugin(model: PreTrainedModel, ratio: int, path: Path) -> None:
    """Write one ratio's plugin in the original's format (fp16, `torch.save`), for use with the original's loader."""
    edit = find_edit(model, PluginConfig)
    if edit is None or ratio not in edit.ratios or edit.residual_scale != PUBLISHED_SCALE:
        raise ModelError(f"Only a plugin of residual scale 100 can be written as a published file (ratio {ratio}).")
    prefix = prefix_of(Choice(ratio))
    state = delta_state(model, replace(edit, ratios=(ratio,), tasks=("",)))
    torch.save(OrderedDict((k.removeprefix(prefix), v.half()) for k, v in state.items()), path)


def match_original_numerics(model: Any) -> None:
    """Give every layer norm the original's epsilon (1e-2 in Hugging Face units), for good.

    For real T5 checkpoints the difference is negligible; the golden arrays need it. Plugins attached with
    `compat="original"` bring it along and take it back when they are detached.
    """
    model.config.layer_norm_epsilon = ORIGINAL_EPSILON
    set_epsilon(model, ORIGINAL_EPSILON)


def original_logit_scale(config: Any) -> float:
    """Factor from Hugging Face's logits to the raw ones that the original's classification and SQuAD losses saw.

    sqrt(D)/100 for tied embeddings (T5 v1.0), 1 for v1.1. It acts as a temperature; predictions do not change.
    """
    return float(config.d_model**0.5 / PUBLISHED_SCALE) if config.scale_decoder_outputs else 1.0
