"""Sizes of the embedded backbones; importing it costs nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneSize:
    """Sizes of a T5 v1.0 (relu, tied embeddings) without dropout, and of its tokenizer.

    `embedding_deviation` is what the embeddings start with; T5's own is 1. Adam moves an entry by about the learning
    rate per step in which its word occurs, so with 1 a rare word keeps its random vector. The grammar has no rare
    words, and learns faster with 1; on real text 0.1 is better (docs/results/variator.md). `matching_head`: one head in
    four of every encoder layer starts by looking at the same word elsewhere, which tasks on pairs need.
    """

    d_model: int
    d_ff: int
    num_heads: int
    d_kv: int
    num_layers: int
    num_decoder_layers: int
    vocab_size: int
    embedding_deviation: float = 1.0
    matching_head: bool = False


BACKBONE_SIZES = {
    "tiny": BackboneSize(
        d_model=128,
        d_ff=512,
        num_heads=4,
        d_kv=32,
        num_layers=4,
        num_decoder_layers=2,
        vocab_size=3000,
        matching_head=True,
    ),
    "mini": BackboneSize(
        d_model=256,
        d_ff=1024,
        num_heads=4,
        d_kv=64,
        num_layers=4,
        num_decoder_layers=2,
        vocab_size=8000,
        embedding_deviation=0.1,
    ),
}
