"""BERT's feed-forward network as one module, for what wraps it as a whole.

BERT keeps it in two: `layer.intermediate` (matrix and activation) and `layer.output` (matrix, dropout, residual, norm).
Joined, both matrices hang at `layer.intermediate`, and `layer.output.dense` passes its input on, so dropout, residual
and norm stay the stock ones; whatever class the parts had (pruned, decomposed, packed), they keep it.

Shapes: B batch, L length, D width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class BertFeedForward(nn.Module):
    """dense(intermediate(x)): what BERT adds to the residual stream, before dropout."""

    def __init__(self, intermediate: nn.Module, dense: nn.Module) -> None:
        super().__init__()
        self.intermediate = intermediate
        self.dense = dense
        self.train(intermediate.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        joined: Tensor = self.dense(self.intermediate(hidden_states))
        return joined


def join(layer: Any) -> None:
    """Make the feed-forward network of a `BertLayer` one module, at `layer.intermediate`; it computes what it did."""
    layer.intermediate = BertFeedForward(layer.intermediate, layer.output.dense)
    layer.output.dense = nn.Identity()


def split(layer: Any) -> None:
    """Inverse of `join`: the parts hang where they hung."""
    joined = layer.intermediate
    assert isinstance(joined, BertFeedForward)
    layer.intermediate, layer.output.dense = joined.intermediate, joined.dense
