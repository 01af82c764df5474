"""word2ket: every row of the table is a sum of Kronecker products of short vectors.

    row v = Σ_r w₁[r,v] ⊗ w₂[r,v] ⊗ …   cut to D columns, the first factor slowest

Source: Panahi, Saeedi and Arodz, "word2ket", ICLR 2020 (arXiv:1911.04975), section 3.1.
Legend: as in `base`; s leaf size, s^order >= D.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.decomposition.embeddings.base import FactorisedEmbedding
from model.decomposition.embeddings.fitting import fit_products
from model.decomposition.embeddings.shapes import four_sizes, leaf_size
from model.errors import ModelError

#: Rows fitted at once: bounds the memory of fitting a large vocabulary.
_ROWS_AT_ONCE = 1024


class EmbeddingKet(FactorisedEmbedding):
    """V·order·rank·s numbers instead of V·D. `leaves` is [order, R, V, s], the original's `weight_leafs`."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        order: int = 2,
        rank: int = 1,
        padding_idx: int | None = None,
        leaf: int | None = None,
    ) -> None:
        """`leaf` overrides s, which is ⌈D^(1/order)⌉ otherwise."""
        super().__init__(num_embeddings, embedding_dim, order, rank, padding_idx)
        self.leaf = leaf or leaf_size(embedding_dim, order)
        if self.leaf**order < embedding_dim:
            raise ModelError(f"Leaves of {self.leaf} at order {order} span fewer than {embedding_dim} columns.")
        self.leaves = nn.Parameter(torch.empty(order, rank, num_embeddings, self.leaf))
        self.reset_parameters()

    @classmethod
    def from_leaves(cls, leaves: Tensor, embedding_dim: int, padding_idx: int | None = None) -> Self:
        """The embedding of given leaves [order, R, V, s], as the original stores them."""
        order, rank, num_embeddings, leaf = four_sizes(leaves)
        module = cls(num_embeddings, embedding_dim, order, rank, padding_idx, leaf)
        module.leaves = nn.Parameter(leaves.detach().clone())
        return module

    @classmethod
    def from_weight(cls, table: Tensor, order: int = 2, rank: int = 1, padding_idx: int | None = None) -> Self:
        """Fitted to a pretrained table [V, D]; see `relative_error`. At order 2 and rank s nothing is lost."""
        module = cls(table.shape[0], table.shape[1], order, rank, padding_idx).to(table)
        module.fit(table)
        return module

    def reset_parameters(self, std: float = 0.02) -> None:
        """Draw the factors so that the table's entries have the standard deviation `std`."""
        nn.init.normal_(self.leaves, std=(std**2 / self.rank) ** (1 / (2 * self.order)))

    def largest_rank(self) -> int | None:
        """At order 2: the leaf size."""
        return self.leaf if self.order == 2 else None

    @property
    def weight(self) -> Tensor:
        """The table [V, D], computed from the present factors at every call; gradients reach the factors."""
        return self._multiply(self.leaves)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the table without the table: ids [N] -> [N, D]."""
        return self._multiply(self.leaves[:, :, ids])

    def _multiply(self, leaves: Tensor) -> Tensor:
        """leaves [order, R, N, s] -> [N, D]."""
        product = leaves[0]
        for leaf in leaves[1:-1]:
            product = torch.einsum("rna,rnb->rnab", product, leaf).flatten(2)
        table = torch.einsum("rna,rnb->nab", product, leaves[-1])
        return table.flatten(1)[:, : self.embedding_dim]

    @torch.no_grad()
    def fit(self, table: Tensor) -> None:
        """Each row's nearest sum of products: by SVD at order 2, by alternating least squares above."""
        target = self._check_table(table)
        sizes = (self.leaf,) * self.order
        superfluous = self.leaf**self.order - self.embedding_dim
        for start in range(0, self.num_embeddings, _ROWS_AT_ONCE):
            rows = F.pad(target[start : start + _ROWS_AT_ONCE], (0, superfluous)).view(-1, *sizes)
            factors = torch.stack(fit_products(rows, self.rank))  # [order, N, s, R]
            self.leaves[:, :, start : start + len(rows)] = factors.permute(0, 3, 1, 2).to(self.leaves)
        self._record_error(target)
