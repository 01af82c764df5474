"""ModelCenter's T5 and Hugging Face's: names, units and configs, both ways.

ModelCenter's residual stream is 1/100 of Hugging Face's: what writes to it (embeddings, attention outputs, FFN
outputs) is divided, what reads from it (behind a layer norm) is not.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from transformers import T5Config

from model.errors import ModelError
from model.weights import check_floats

_ATTENTION_NAMES = {"project_q": "q", "project_k": "k", "project_v": "v", "attention_out": "o"}
_FFN_NAMES = {
    "ffn.w_in.w.weight": ("wi", 10),
    "ffn.w_in.w_0.weight": ("wi_0", 1),
    "ffn.w_in.w_1.weight": ("wi_1", 10),
    "ffn.w_out.weight": ("wo", 10),
}
_SIZES = (
    *("vocab_size", "dim_model", "dim_head", "dim_ff"),
    *("num_heads", "num_encoder_layers", "num_decoder_layers"),
)
_FIXED_NAMES = {
    "input_embedding.weight": ("shared.weight", 100),
    "output_projection.weight": ("lm_head.weight", 1),
    "encoder.output_layernorm.weight": ("encoder.final_layer_norm.weight", 1),
    "decoder.output_layernorm.weight": ("decoder.final_layer_norm.weight", 1),
    "position_bias_enc.relative_attention_bias": (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        1,
    ),
    "position_bias_dec.relative_attention_bias": (
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        1,
    ),
}


def convert_modelcenter(state: dict[str, Tensor], source: str = "the checkpoint") -> dict[str, Tensor]:
    """ModelCenter's T5 tensors (with or without the `t5.` prefix) under Hugging Face's names and units.

    Plugin and LoRA tensors are left out. Half tensors become float32 first: times 100 they would lose bits.

    Raises:
        ModelError: a backbone tensor whose name is not known, or which holds no floats.
    """
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.startswith(("mux_layer.", "project_")):
            continue
        name, factor = _hugging_face_name(key.removeprefix("t5."), source)
        check_floats(key, tensor, source)
        wide = tensor if tensor.dtype == torch.float64 else tensor.float()
        converted[name] = wide * factor
    return converted


def _hugging_face_name(key: str, source: str) -> tuple[str, int]:
    if key in _FIXED_NAMES:
        return _FIXED_NAMES[key]
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
    if rest not in _FFN_NAMES:
        raise ModelError(f"{source}: {key} is not a tensor of a ModelCenter T5.")
    name, factor = _FFN_NAMES[rest]
    return f"{prefix}.DenseReluDense.{name}.weight", factor


def to_modelcenter(state: dict[str, Tensor], tied: bool = True, prefix: str = "t5.") -> dict[str, Tensor]:
    """Hugging Face's T5 tensors under ModelCenter's names and units: the inverse of `convert_modelcenter`.

    Args:
        tied: leave out the output projection, which then is the embedding.
        prefix: what an original full checkpoint puts before its backbone's names.

    Raises:
        ModelError: a tensor that ModelCenter's T5 has no place for.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("embed_tokens.weight") or (tied and name == "lm_head.weight"):
            continue
        key = _modelcenter_name(name)
        converted[prefix + key] = tensor / _hugging_face_name(key, name)[1]
    return converted


def _modelcenter_name(name: str) -> str:
    for key, (fixed, _) in _FIXED_NAMES.items():
        if name == fixed:
            return key
    match = re.fullmatch(r"(encoder|decoder)\.block\.(\d+)\.layer\.(\d)\.(\w+)(?:\.(\w+))?\.weight", name)
    if match is None:
        raise ModelError(f"{name} has no place in a ModelCenter T5.")
    stack, layer, position, module, letter = match.groups()
    part = ("self_att", "ffn" if stack == "encoder" else "cross_att", "ffn")[int(position)]
    prefix = f"{stack}.layers.{layer}.{part}"
    if module == "layer_norm":
        return f"{prefix}.layernorm_before_{'ffn' if part == 'ffn' else 'attention'}.weight"
    attention = {v: k for k, v in _ATTENTION_NAMES.items()}
    ffn = {v: k for k, (v, _) in _FFN_NAMES.items()}
    if part != "ffn" and letter in attention:
        return f"{prefix}.self_attention.{attention[letter]}.weight"
    if part == "ffn" and letter in ffn:
        return f"{prefix}.{ffn[letter]}"
    raise ModelError(f"{name} has no place in a ModelCenter T5.")


def config_from_modelcenter(values: dict[str, Any]) -> T5Config:
    """A Hugging Face config from ModelCenter's `config.json`.

    Raises:
        ModelError: a size is missing.
    """
    if missing := [name for name in _SIZES if name not in values]:
        raise ModelError(f"The ModelCenter config lacks {', '.join(missing)}.")
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


def config_to_modelcenter(config: T5Config) -> dict[str, Any]:
    """ModelCenter's `config.json` for a Hugging Face config."""
    return {
        "vocab_size": config.vocab_size,
        "dim_model": config.d_model,
        "dim_head": config.d_kv,
        "dim_ff": config.d_ff,
        "num_heads": config.num_heads,
        "num_encoder_layers": config.num_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "position_bias_num_buckets": config.relative_attention_num_buckets,
        "position_bias_max_distance": config.relative_attention_max_distance,
        "ffn_activate_fn": "gated_gelu_new" if config.is_gated_act else "relu",
        "tied": bool(config.scale_decoder_outputs),
        "dropout_p": 0.0,
        "norm_eps": 1e-6,
        "norm_bias": False,
        "attn_scale": False,
        "length_scale": False,
        "att_mask_value": "-inf",
        "half": True,
    }
