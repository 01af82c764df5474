"""Factorised word embeddings: word2ket, word2ketXS, tensor train, tensor ring."""

from model.decomposition.embeddings.base import FactorisedEmbedding
from model.decomposition.embeddings.config import EmbeddingConfig, factorised_embedding
from model.decomposition.embeddings.ket import EmbeddingKet
from model.decomposition.embeddings.ketxs import EmbeddingKetXS
from model.decomposition.embeddings.tensor_train import EmbeddingTensorRing, EmbeddingTensorTrain

__all__ = [
    "EmbeddingConfig",
    "EmbeddingKet",
    "EmbeddingKetXS",
    "EmbeddingTensorRing",
    "EmbeddingTensorTrain",
    "FactorisedEmbedding",
    "factorised_embedding",
]
