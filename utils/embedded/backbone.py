"""Untrained T5 backbones of the embedded default."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from utils.embedded.sizes import BackboneSize


def build_backbone(size: BackboneSize, tokenizer: PreTrainedTokenizerFast, seed: int) -> T5ForConditionalGeneration:
    """A T5 of this size with random weights; the generator of the caller is left as it was."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=size.d_model,
        d_kv=size.d_kv,
        d_ff=size.d_ff,
        num_layers=size.num_layers,
        num_decoder_layers=size.num_decoder_layers,
        num_heads=size.num_heads,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return T5ForConditionalGeneration(config)


def write_backbone(folder: Path, size: BackboneSize, tokenizer: PreTrainedTokenizerFast, seed: int) -> int:
    """Saves an untrained T5 with its tokenizer; returns its number of parameters."""
    model = build_backbone(size, tokenizer, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
