"""A T5 of a few numbers whose plugins show, and rows of any length for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from model import PluginConfig, apply_edit, use_ratio
from model.plugin.config import Compat
from model.plugin.surgery import plugin_layers

VOCABULARY = 40
RATIOS = (2, 3, 4, 8)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def tiny_t5(attention: str = "sdpa", **sizes: Any) -> Any:
    """A random T5 of two layers and width 12, unless `sizes` say otherwise."""
    torch.manual_seed(3)
    config = T5Config(
        **{
            **{"vocab_size": VOCABULARY, "d_model": 12, "d_kv": 5, "num_heads": 2, "d_ff": 18},
            **{"num_layers": 2, "num_decoder_layers": 2, "dropout_rate": 0.0},
            **sizes,
        },
        decoder_start_token_id=0,
        attn_implementation=attention,
    )
    return T5ForConditionalGeneration(config).eval()


def with_plugins(
    ratios: tuple[int, ...] = RATIOS, compat: Compat = "native", scale: float = 100.0, seed: int = 4, **sizes: Any
) -> Any:
    """A tiny T5 whose plugins are far from doing nothing."""
    model = tiny_t5(**sizes)
    apply_edit(model, PluginConfig(ratios, 6, scale, compat=compat))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for ffn in plugin_layers(model):
            for parameter in ffn.bank.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def rows(*lengths: int, to: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask of rows of these lengths, padded to `to`."""
    ids, mask = torch.zeros(len(lengths), to, dtype=torch.long), torch.zeros(len(lengths), to, dtype=torch.long)
    for i, length in enumerate(lengths):
        ids[i, :length] = torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(10 + i))
        mask[i, :length] = 1
    return ids, mask


@torch.no_grad()
def encode(model: Any, ratio: int, ids: Tensor, mask: Tensor | None, task: str = "") -> Tensor:
    """The encoder's output at `ratio`."""
    with use_ratio(model, ratio, task):
        return model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state


def close(found: Tensor, expected: Tensor, tolerance: float = 4e-5) -> None:
    """Equal up to `tolerance`, absolute and relative."""
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
