"""Reading a golden case: one npz of arrays and one JSON that explains them. Nothing about sizes is assumed."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from model.plugin.published import match_original_numerics

TOLERANCE = 4e-5


@cache
def load(directory: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON and the arrays (as tensors) of case `name`."""
    description = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(directory / f"{name}.npz") as arrays:
        tensors = {key: torch.from_numpy(arrays[key].copy()) for key in arrays.files}
    return description, {k: v.double() if v.is_floating_point() else v for k, v in tensors.items()}


def optional(golden: dict[str, Any], key: str) -> Any:
    """A part that a case may leave out or hold as null: then it is empty, and nothing is compared."""
    return golden.get(key) or {}


def part(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The arrays under `prefix/`, without it."""
    return {k.removeprefix(prefix + "/"): v for k, v in arrays.items() if k.startswith(prefix + "/")}


def close(found: Tensor | float, expected: Tensor | float, what: str, tolerance: float = TOLERANCE) -> None:
    """Assert equality within `tolerance`, relative to the largest expected value (at least 1)."""
    found_t, expected_t = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (found, expected))
    assert found_t.shape == expected_t.shape, (
        f"{what}: shape {tuple(found_t.shape)}, expected {tuple(expected_t.shape)}"
    )
    error = (found_t - expected_t).abs().max().item() / max(1.0, expected_t.abs().max().item())
    assert error <= tolerance, f"{what}: relative error {error:.2e}"


def build_t5(config: dict[str, Any], weights: dict[str, Tensor], original: bool) -> T5ForConditionalGeneration:
    """A float64 Hugging Face T5 with the case's weights; `original` gives it the original's layer-norm epsilon."""
    model = T5ForConditionalGeneration(
        T5Config(
            **{
                k: config[k]
                for k in (
                    "vocab_size",
                    "d_model",
                    "d_kv",
                    "num_heads",
                    "d_ff",
                    "num_layers",
                    "num_decoder_layers",
                )
            },
            relative_attention_num_buckets=config.get("relative_attention_num_buckets", 32),
            relative_attention_max_distance=config.get("relative_attention_max_distance", 128),
            feed_forward_proj=config.get("feed_forward_proj", "relu"),
            tie_word_embeddings=config.get("tie_word_embeddings", True),
            dropout_rate=0.0,
            decoder_start_token_id=0,
        )
    ).double()
    if "lm_head.weight" in weights:  # untie first, or loading it would overwrite the embedding
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    missing, superfluous = model.load_state_dict(weights, strict=False)
    assert not superfluous and all("embed_tokens" in key or key == "lm_head.weight" for key in missing), missing
    if original:
        match_original_numerics(model)
    return model.eval()
