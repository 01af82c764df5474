"""Files of the original release: published plugins (`.pkl`) and full checkpoints (`best_model.pt`).

The original ran T5 in ModelCenter, whose residual stream is 1/100 of Hugging Face's. Plugins keep their
published numbers and get `residual_scale=100`, so files round-trip unchanged. Backbone tensors are converted.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, T5Config

from model.compression import apply_edit, delta_state, find_edit
from model.delta import load_delta_state
from model.errors import ModelError
from model.plugin.config import PluginConfig
from model.weights import read_torch_file

#: Hugging Face residual stream / ModelCenter residual stream.
PUBLISHED_SCALE = 100.0
#: Epsilon of the original's layer norm (1e-6 on a stream of 1/100) in Hugging Face units.
ORIGINAL_EPSILON = 1e-2
#: Decoder start of the original's classification tasks: `<unk>`, where T5 was pre-trained with `<pad>` (0).
ORIGINAL_DECODER_START = 2

_PLUGIN_KEY = re.compile(r"^mux_layer\.(\d+)\.(.+)$")
_PLUGIN_TENSORS = tuple(
    f"{part}.{kind}"
    for part in ("mux_layer", "demux_adapter.w_in", "demux_adapter.w_out")
    for kind in ("weight", "bias")
)
_ATTENTION_NAMES = {"project_q": "q", "project_k": "k", "project_v": "v", "attention_out": "o"}


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
    return int(state["mux_layer.0.mux_layer.bias"].numel()), state


def load_published_plugin(model: PreTrainedModel, path: Path, match_attention: bool = True) -> PluginConfig:
    """Attach the plugin of an original file to `model` with `residual_scale=100`, or load it into such a plugin.

    Args:
        match_attention: zero the attention output of padded rows, as the plugin saw in training.

    Raises:
        ModelError: the plugin was made for another width or depth (both named).
    """
    ratio, state = read_published_plugin(path)
    width = model.config.d_model
    found_width = state["mux_layer.0.mux_layer.weight"].shape[1] // ratio
    found_depth = len(state) // len(_PLUGIN_TENSORS)
    if (found_width, found_depth) != (width, model.config.num_layers):
        raise ModelError(
            f"{path}: the plugin was made for {found_depth} layers of width {found_width}, "
            f"the model has {model.config.num_layers} of width {width}."
        )
    edit = find_edit(model, PluginConfig)
    if edit is None:
        bottleneck = state["mux_layer.0.demux_adapter.w_in.bias"].numel()
        edit = PluginConfig((ratio,), bottleneck, PUBLISHED_SCALE, zero_padded_rows=match_attention)
        apply_edit(model, edit)
    if ratio not in edit.ratios or edit.residual_scale != PUBLISHED_SCALE:
        raise ModelError(
            f"{path}: a published plugin of ratio {ratio} needs a bank with that ratio and residual scale 100, "
            f"the model's has ratios {list(edit.ratios)} and residual scale {edit.residual_scale:g}."
        )
    prefix = f"ratio_{ratio}."
    load_delta_state(model, edit, {prefix + k: v for k, v in state.items()}, str(path), (prefix,))
    return edit


def save_published_plugin(model: PreTrainedModel, ratio: int, path: Path) -> None:
    """Write one ratio's plugin in the original's format (fp16, `torch.save`), for use with the original's loader."""
    edit = find_edit(model, PluginConfig)
    if edit is None or ratio not in edit.ratios or edit.residual_scale != PUBLISHED_SCALE:
        raise ModelError(f"Only a plugin of residual scale 100 can be written as a published file (ratio {ratio}).")
    prefix = f"ratio_{ratio}."
    state = delta_state(model, edit)
    torch.save(
        OrderedDict((k.removeprefix(prefix), v.half()) for k, v in state.items() if k.startswith(prefix)),
        path,
    )


def convert_modelcenter(state: dict[str, Tensor], source: str = "the checkpoint") -> dict[str, Tensor]:
    """ModelCenter's T5 tensors (with or without the `t5.` prefix) under Hugging Face's names and units.

    Plugin and LoRA tensors are left out. Half tensors become float32 first: times 100 they would lose bits.

    Raises:
        ModelError: a backbone tensor whose name is not known.
    """
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.startswith(("mux_layer.", "project_")):
            continue
        name, factor = _hugging_face_name(key.removeprefix("t5."), source)
        wide = tensor if tensor.dtype == torch.float64 else tensor.float()
        converted[name] = wide * factor
    return converted


def _hugging_face_name(key: str, source: str) -> tuple[str, int]:
    fixed = {
        "input_embedding.weight": ("shared.weight", 100),
        "output_projection.weight": ("lm_head.weight", 1),
        "encoder.output_layernorm.weight": ("encoder.final_layer_norm.weight", 1),
        "decoder.output_layernorm.weight": ("decoder.final_layer_norm.weight", 1),
    }
    if key in fixed:
        return fixed[key]
    if match := re.fullmatch(r"position_bias_(enc|dec)\.relative_attention_bias", key):
        return f"{match[1]}oder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 1
    match = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(self_att|cross_att|ffn)\.(.+)", key)
    if match is None:
        raise ModelError(f"{source}: {key} is not a tensor of a ModelCenter T5.")
    stack, layer, part, rest = match.groups()
    position = {"self_att": 0, "cross_att": 1, "ffn": 1 if stack == "encoder" else 2}[part]
    prefix = f"{stack}.block.{layer}.layer.{position}"
    if rest.startswith("layernorm_before_"):
        return f"{prefix}.layer_norm.weight", 1
    if attention := re.fullmatch(r"self_attention\.(project_[qkv]|attention_out)\.weight", rest):
        letter = _ATTENTION_NAMES[attention[1]]
        module = "SelfAttention" if part == "self_att" else "EncDecAttention"
        return f"{prefix}.{module}.{letter}.weight", 100 if letter == "o" else 1
    ffn = {
        "ffn.w_in.w.weight": ("wi", 10),
        "ffn.w_in.w_0.weight": ("wi_0", 1),
        "ffn.w_in.w_1.weight": ("wi_1", 10),
        "ffn.w_out.weight": ("wo", 10),
    }
    if rest not in ffn:
        raise ModelError(f"{source}: {key} is not a tensor of a ModelCenter T5.")
    name, factor = ffn[rest]
    return f"{prefix}.DenseReluDense.{name}.weight", factor


def config_from_modelcenter(values: dict[str, Any]) -> T5Config:
    """A Hugging Face config from ModelCenter's `config.json`."""
    gated = str(values.get("ffn_activate_fn", "relu")).startswith("gated")
    return T5Config(
        vocab_size=values["vocab_size"],
        d_model=values["dim_model"],
        d_kv=values["dim_head"],
        d_ff=values["dim_ff"],
        num_heads=values["num_heads"],
        num_layers=values["num_encoder_layers"],
        num_decoder_layers=values["num_decoder_layers"],
        relative_attention_num_buckets=values.get("position_bias_num_buckets", 32),
        relative_attention_max_distance=values.get("position_bias_max_distance", 128),
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=values.get("tied", not gated),
        dropout_rate=values.get("dropout_p", 0.0),
        decoder_start_token_id=0,
    )


def match_original_numerics(model: Any) -> None:
    """Give every layer norm the original's epsilon (1e-2 in Hugging Face units).

    For real T5 checkpoints the difference is negligible; the golden arrays need it.
    """
    model.config.layer_norm_epsilon = ORIGINAL_EPSILON
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = ORIGINAL_EPSILON


def original_logit_scale(config: Any) -> float:
    """Factor from Hugging Face's logits to the raw ones that the original's classification and SQuAD losses saw.

    sqrt(D)/100 for tied embeddings (T5 v1.0), 1 for v1.1. It acts as a temperature; predictions do not change.
    """
    return float(config.d_model**0.5 / PUBLISHED_SCALE) if config.scale_decoder_outputs else 1.0
