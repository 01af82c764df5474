"""Sizes of the embedded backbones; importing it costs nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneSize:
    """Sizes of a T5 v1.0 (relu, tied embeddings) without dropout, and of its tokenizer."""

    d_model: int
    d_ff: int
    num_heads: int
    d_kv: int
    num_layers: int
    num_decoder_layers: int
    vocab_size: int


BACKBONE_SIZES = {
    "tiny": BackboneSize(
        d_model=128, d_ff=512, num_heads=4, d_kv=32, num_layers=4, num_decoder_layers=2, vocab_size=3000
    ),
    "mini": BackboneSize(
        d_model=256, d_ff=1024, num_heads=4, d_kv=64, num_layers=4, num_decoder_layers=2, vocab_size=8000
    ),
}
