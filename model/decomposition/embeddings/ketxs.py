"""word2ketXS: the whole table is a sum of Kronecker products of small matrices.

    table = Σ_r W₁[r] ⊗ W₂[r] ⊗ …   cut to V rows and D columns, the first factor slowest

Source: Panahi, Saeedi and Arodz, "word2ket", ICLR 2020 (arXiv:1911.04975), section 3.2.
Legend: as in `base`; u and s leaf sizes, u^order >= V and s^order >= D.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from model.decomposition.embeddings.base import Halves, TwoHalves
from model.decomposition.embeddings.fitting import fit_products
from model.decomposition.embeddings.shapes import fold_table, four_sizes, leaf_size
from model.errors import ModelError


class EmbeddingKetXS(TwoHalves):
    """order·rank·u·s numbers instead of V·D. `leaves` is [order, R, u, s], the original's `weight_leafs`."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        order: int = 4,
        rank: int = 1,
        padding_idx: int | None = None,
        leaf: tuple[int, int] | None = None,
    ) -> None:
        """`leaf` overrides (u, s), which are ⌈V^(1/order)⌉ and ⌈D^(1/order)⌉ otherwise."""
        super().__init__(num_embeddings, embedding_dim, order, rank, padding_idx)
        self.leaf = leaf or (leaf_size(num_embeddings, order), leaf_size(embedding_dim, order))
        if self.leaf[0] ** order < num_embeddings or self.leaf[1] ** order < embedding_dim:
            raise ModelError(f"Leaves of {self.leaf} at order {order} span less than {num_embeddings}x{embedding_dim}.")
        self.leaves = nn.Parameter(torch.empty(order, rank, *self.leaf))
        self.reset_parameters()

    @classmethod
    def from_leaves(
        cls, leaves: Tensor, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None
    ) -> Self:
        """The embedding of given leaves [order, R, u, s], as the original stores them."""
        order, rank, rows, columns = four_sizes(leaves)
        module = cls(num_embeddings, embedding_dim, order, rank, padding_idx, (rows, columns))
        module.leaves = nn.Parameter(leaves.detach().clone())
        return module

    @classmethod
    def from_weight(cls, table: Tensor, order: int = 4, rank: int = 1, padding_idx: int | None = None) -> Self:
        """Fitted to a pretrained table [V, D]; see `relative_error`. At order 2 and rank u·s nothing is lost."""
        module = cls(table.shape[0], table.shape[1], order, rank, padding_idx).to(table)
        module.fit(table)
        return module

    def reset_parameters(self, std: float = 0.02) -> None:
        """Draw the factors so that the table's entries have the standard deviation `std`."""
        nn.init.normal_(self.leaves, std=(std**2 / self.rank) ** (1 / (2 * self.order)))

    def largest_rank(self) -> int | None:
        """At order 2: the number of entries of a leaf."""
        return self.leaf[0] * self.leaf[1] if self.order == 2 else None

    def halves(self) -> Halves:
        """left [V₁, D₁, R] of the first half of the factors, right [R, V₂, D₂] of the others."""
        middle = (self.order + 1) // 2
        left, right = (_kronecker(part) for part in (self.leaves[:middle], self.leaves[middle:]))
        return Halves(left.permute(1, 2, 0), right)

    @torch.no_grad()
    def fit(self, table: Tensor) -> None:
        """The nearest sum of Kronecker products: by SVD of the rearranged table at order 2 (Van Loan and
        Pitsianis), by alternating least squares above."""
        target = self._check_table(table)
        rows, columns = ((size,) * self.order for size in self.leaf)
        factors = torch.stack(fit_products(fold_table(target, rows, columns)[None], self.rank))[:, 0]  # [order, u·s, R]
        self.leaves.copy_(factors.movedim(-1, 1).reshape(self.leaves.shape))
        self._record_error(target)


def _kronecker(leaves: Tensor) -> Tensor:
    """leaves [order, R, u, s] -> their Kronecker products [R, u^order, s^order]."""
    product = leaves[0]
    for leaf in leaves[1:]:
        product = torch.einsum("rij,rkl->rikjl", product, leaf).flatten(3, 4).flatten(1, 2)
    return product
