"""The output layer of a language-model head whose weight is the word embedding's table."""

from __future__ import annotations

from torch import Tensor, nn

from model.decomposition.embeddings.base import FactorisedEmbedding


class TiedOutput(nn.Module):
    """logits = hidden · tableᵀ + bias, computed from the embedding's present factors at every call.

    Nothing of the table is kept between two calls: neither an old value nor its graph. The embedding is referred
    to, not owned, so that its factors have one place in the state dict.
    """

    def __init__(self, embedding: FactorisedEmbedding, bias: nn.Parameter | None) -> None:
        super().__init__()
        # A list hides the embedding from the module tree; a deep copy of the model still copies both as one.
        self._embedding = [embedding]
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """The table [V, D] as it is now."""
        return self._embedding[0].weight

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> logits [..., V]."""
        logits = self._embedding[0].project(hidden)
        return logits if self.bias is None else logits + self.bias

    def extra_repr(self) -> str:
        """Where the weight comes from."""
        return f"tied to {type(self._embedding[0]).__name__}, bias={self.bias is not None}"
