"""What all factorised word embeddings share: lookup, the table on demand, and the tied output layer's product.

Legend: V embeddings (rows of the table), D width (its columns), B, L batch and length, N number of ids looked up,
R rank. The table is cut to V rows and D columns from what the factors span; the first factor is the slowest.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.decomposition.embeddings.shapes import check_settings
from model.decomposition.tucker import relative_error
from model.errors import ModelError


class FactorisedEmbedding(nn.Module, ABC):
    """A word embedding [V, D] whose table is a product of small factors.

    Attributes:
        relative_error: ‖table - original‖ / ‖original‖ of the table that the factors were fitted to, or None.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, order: int, rank: int, padding_idx: int | None = None
    ) -> None:
        super().__init__()
        check_settings(num_embeddings, embedding_dim, order, rank)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ModelError(f"padding_idx {padding_idx} is outside the table of {num_embeddings} embeddings.")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.order, self.rank = order, rank
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.relative_error: float | None = None

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """The table [V, D], computed from the present factors at every call; gradients reach the factors."""

    @abstractmethod
    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the table without the table: ids [N] -> [N, D]."""

    @abstractmethod
    def reset_parameters(self, std: float = 0.02) -> None:
        """Draw the factors so that the table's entries have the standard deviation `std`."""

    @abstractmethod
    def fit(self, table: Tensor) -> None:
        """Set the factors to those whose table is near `table` [V, D]; the distance is kept in `relative_error`."""

    def forward(self, ids: Tensor) -> Tensor:
        """ids [B, L] (any shape) -> [B, L, D]. The row `padding_idx` gets no gradient from here."""
        self._check_ids(ids)
        # Otherwise rows would be computed more than once. An exported graph is for any number of ids: rows alone.
        if not torch.compiler.is_exporting() and ids.numel() >= self.num_embeddings:
            return F.embedding(ids, self.weight, self.padding_idx)
        found = self.rows(ids.flatten()).view(*ids.shape, self.embedding_dim)
        if self.padding_idx is None:
            return found
        return torch.where((ids == self.padding_idx).unsqueeze(-1), found.detach(), found)

    def project(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> hidden · tableᵀ [..., V], as a tied output layer needs it."""
        return F.linear(hidden, self.weight)

    def largest_rank(self) -> int | None:
        """The rank at which the factors hold any table exactly, None where that is not known."""
        return None

    def num_parameters(self) -> int:
        """Numbers that the factors hold."""
        return sum(parameter.numel() for parameter in self.parameters())

    def summary(self) -> dict[str, float | int | None]:
        """Plain data for a report: relative error (None after loading), numbers held and numbers of the dense table."""
        return {
            "relative_error": self.relative_error,
            "num_params": self.num_parameters(),
            "dense_params": self.num_embeddings * self.embedding_dim,
        }

    def extra_repr(self) -> str:
        """The sizes, as `nn.Embedding` shows them."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}, order={self.order}, rank={self.rank}{padding}"

    def _check_ids(self, ids: Tensor) -> None:
        # Factors span more rows than V, so a wrong id would find one. Looking at values of a GPU would wait for it.
        if ids.device.type != "cpu" or torch.compiler.is_compiling() or not ids.numel():
            return
        least, most = (value.item() for value in torch.aminmax(ids))
        if least < 0 or most >= self.num_embeddings:
            raise IndexError(f"Ids from {least} to {most} do not lie in a table of {self.num_embeddings} embeddings.")

    def _check_table(self, table: Tensor) -> Tensor:
        if table.shape != (self.num_embeddings, self.embedding_dim):
            raise ModelError(
                f"The table has shape {tuple(table.shape)}, this embedding is "
                f"{self.num_embeddings} x {self.embedding_dim}."
            )
        if not bool(torch.isfinite(table).all()):
            raise ModelError("The embedding table holds numbers that are not finite.")
        return table.detach().double()

    @torch.no_grad()
    def _record_error(self, table: Tensor) -> None:
        self.relative_error = relative_error(table, self.weight.double()) if table.any() else 0.0


class Halves(NamedTuple):
    """A table as a sum of R Kronecker products of two: table[(i,k), (j,l)] = Σ_r left[i,j,r] · right[r,k,l]."""

    left: Tensor
    right: Tensor


class TwoHalves(FactorisedEmbedding):
    """Embeddings whose rows too are factorised: the table is a product of two halves, however many factors it has."""

    @abstractmethod
    def halves(self) -> Halves:
        """left [V₁, D₁, R], right [R, V₂, D₂] with V₁·V₂ >= V and D₁·D₂ >= D, from the present factors."""

    @property
    def weight(self) -> Tensor:
        """The table [V, D], computed from the present factors at every call; gradients reach the factors."""
        left, right = self.halves()
        (rows_1, columns_1, _), (_, rows_2, columns_2) = left.shape, right.shape
        table = left.flatten(0, 1) @ right.flatten(1, 2)
        table = table.view(rows_1, columns_1, rows_2, columns_2).transpose(1, 2)
        table = table.reshape(rows_1 * rows_2, columns_1 * columns_2)
        return table[: self.num_embeddings, : self.embedding_dim]

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the table without the table: ids [N] -> [N, D]."""
        left, right = self.halves()
        rows_2 = right.shape[1]
        found = torch.bmm(left[ids // rows_2], right[:, ids % rows_2].transpose(0, 1))
        return found.flatten(1)[:, : self.embedding_dim]

    def project(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> hidden · tableᵀ [..., V], through the halves where that takes fewer multiplications."""
        if torch.compiler.is_exporting():  # which way is shorter depends on a number of vectors that is not known yet
            return F.linear(hidden, self.weight)
        left, right = self.halves()
        count = math.prod(hidden.shape[:-1])
        through_left, through_right, dense = self._project_macs(left, right, count)
        if dense <= min(through_left, through_right):
            return F.linear(hidden, self.weight)
        (rows_1, columns_1, _), (_, rows_2, columns_2) = left.shape, right.shape
        padded = F.pad(hidden.reshape(count, -1), (0, columns_1 * columns_2 - self.embedding_dim))
        padded = padded.view(count, columns_1, columns_2)
        if through_right <= through_left:
            product = torch.einsum("njl,rkl->njrk", padded, right)
            logits = torch.einsum("njrk,ijr->nik", product, left)
        else:
            product = torch.einsum("njl,ijr->nlir", padded, left)
            logits = torch.einsum("nlir,rkl->nik", product, right)
        return logits.reshape(count, rows_1 * rows_2)[:, : self.num_embeddings].view(*hidden.shape[:-1], -1)

    def _project_macs(self, left: Tensor, right: Tensor, count: int) -> tuple[int, int, int]:
        """Multiply-accumulates of the three ways to `project` `count` vectors: left first, right first, the table."""
        (rows_1, columns_1, rank), (_, rows_2, columns_2) = left.shape, right.shape
        width, height = columns_1 * columns_2, rows_1 * rows_2
        through_left = count * rank * (width * rows_1 + height * columns_2)
        through_right = count * rank * (width * rows_2 + height * columns_1)
        return through_left, through_right, height * width * rank + count * self.num_embeddings * self.embedding_dim
