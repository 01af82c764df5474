"""Embeddings as a tensor train or a tensor ring: a chain of small cores, one slice of each per row.

    table[(i₁,i₂,…), (j₁,j₂,…)] = trace( G₁[:,i₁,j₁,:] · G₂[:,i₂,j₂,:] · … )   cut to V rows and D columns

A train's first and last rank are 1; a ring closes with a rank of its own. Cores have tensorly's layout of a
tensor-train matrix, (rank, row size, column size, next rank). They are fitted by successive truncated SVDs
from Gram matrices: for 30,522 x 384 in three cores a fraction of the time of `tensorly.decomposition`'s
`tensor_train` and `tensor_ring`, with the same error (tested).

Sources: Khrulkov et al., "Tensorized embedding layers", 2019 (arXiv:1901.10787); Zhao et al. 2016
(arXiv:1606.05535). Legend: as in `base`; v_k and d_k the sizes into which rows and columns are split.
"""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from model.decomposition.embeddings.base import Halves, TwoHalves
from model.decomposition.embeddings.fitting import fit_ring, ring_ranks
from model.decomposition.embeddings.shapes import balanced_sizes, fold_table


class EmbeddingTensorTrain(TwoHalves):
    """`rank` bounds the inner ranks; where it allows all of them, nothing is lost."""

    closed: ClassVar[bool] = False

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        order: int = 3,
        rank: int = 32,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, order, rank, padding_idx)
        self.row_sizes = balanced_sizes(num_embeddings, order)
        self.column_sizes = balanced_sizes(embedding_dim, order)
        sizes = [row * column for row, column in zip(self.row_sizes, self.column_sizes, strict=True)]
        self.ranks = ring_ranks(sizes, rank, self.closed)
        following = (*self.ranks[1:], self.ranks[0])
        shapes = zip(self.ranks, self.row_sizes, self.column_sizes, following, strict=True)
        self.cores = nn.ParameterList(torch.empty(shape) for shape in shapes)
        self.reset_parameters()

    @classmethod
    def from_weight(cls, table: Tensor, order: int = 3, rank: int = 32, padding_idx: int | None = None) -> Self:
        """Fitted to a pretrained table [V, D]; see `relative_error`."""
        module = cls(table.shape[0], table.shape[1], order, rank, padding_idx).to(table)
        module.fit(table)
        return module

    def largest_rank(self) -> int | None:
        """The rank from which on no inner rank is cut."""
        sizes = [row * column for row, column in zip(self.row_sizes, self.column_sizes, strict=True)]
        return max(ring_ranks(sizes, math.prod(sizes), closed=False))

    def reset_parameters(self, std: float = 0.02) -> None:
        """Draw the factors so that the table's entries have the standard deviation `std`."""
        terms = math.prod(self.ranks)  # an entry is a sum of so many products
        for core in self.cores:
            nn.init.normal_(core, std=(std**2 / terms) ** (1 / (2 * self.order)))

    def halves(self) -> Halves:
        """The chain cut in the middle; a ring's closing rank is one more index to sum over."""
        middle = (self.order + 1) // 2
        cores = list(self.cores)
        left, right = _chain(cores[:middle]), _chain(cores[middle:])
        return Halves(left.permute(1, 2, 0, 3).flatten(2), right.permute(3, 0, 1, 2).flatten(0, 1))

    @torch.no_grad()
    def fit(self, table: Tensor) -> None:
        """By successive truncated SVDs."""
        target = self._check_table(table)
        fitted = fit_ring(fold_table(target, self.row_sizes, self.column_sizes), self.ranks)
        for core, found in zip(self.cores, _equal_sizes(fitted), strict=True):
            core.copy_(found.reshape(core.shape))
        self._record_error(target)


class EmbeddingTensorRing(EmbeddingTensorTrain):
    """A train whose ends meet: the closing rank is what the first core's size leaves room for."""

    closed: ClassVar[bool] = True


def _chain(cores: list[Tensor]) -> Tensor:
    """Consecutive cores [R, v, d, R'] as one [R, v₁·v₂·…, d₁·d₂·…, R']."""
    product = cores[0]
    for core in cores[1:]:
        product = torch.einsum("aijr,rklb->aikjlb", product, core).flatten(3, 4).flatten(1, 2)
    return product


def _equal_sizes(cores: list[Tensor]) -> list[Tensor]:
    """The same chain with cores of equal root mean squares: equal sizes train best."""
    sizes = [core.square().mean().sqrt().item() for core in cores]
    if not all(sizes):
        return cores
    mean = math.prod(sizes) ** (1 / len(sizes))
    return [core * (mean / size) for core, size in zip(cores, sizes, strict=True)]
