"""Sizes of the factors of an embedding table, in whole numbers only (a root in floating point can be off by one)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch.nn.functional as F
from torch import Tensor

from model.errors import ModelError

#: Two to this power is more than any table has rows.
LARGEST_ORDER = 32


def leaf_size(total: int, order: int) -> int:
    """The smallest size whose `order`-th power is at least `total`: ⌈total^(1/order)⌉, exactly."""
    size = max(1, round(total ** (1 / order)))
    while size**order < total:
        size += 1
    while size > 1 and (size - 1) ** order >= total:
        size -= 1
    return size


@cache
def balanced_sizes(total: int, order: int) -> tuple[int, ...]:
    """`order` sizes near total^(1/order) whose product is `total`, or as little above it as possible.

    Example: 384 in three is (6, 8, 8); of several that fit equally well, the one with the smallest largest size.
    """
    if order == 1:
        return (total,)
    root = leaf_size(total, order)
    options = (
        (first, *balanced_sizes(-(-total // first), order - 1)) for first in range(max(1, -(-root // 2)), root + 1)
    )
    return min(options, key=lambda sizes: (math.prod(sizes), max(sizes)))


def check_settings(num_embeddings: int, embedding_dim: int, order: int, rank: int) -> None:
    """Refuse what no factorisation can have.

    Raises:
        ModelError: a size or the rank is below 1, or the order is below 2 or above 32.
    """
    for name, value, least in (
        ("number of embeddings", num_embeddings, 1),
        ("embedding width", embedding_dim, 1),
        ("order", order, 2),
        ("rank", rank, 1),
    ):
        if value < least:
            raise ModelError(f"A factorised embedding's {name} must be at least {least}, found {value}.")
    if order > LARGEST_ORDER:
        raise ModelError(f"A factorised embedding's order must be at most {LARGEST_ORDER}, found {order}.")


def four_sizes(leaves: Tensor) -> tuple[int, int, int, int]:
    """(order, rank, rows, leaf size) of leaves as the original stores them."""
    if leaves.dim() != 4:
        raise ModelError(f"Leaves have four dimensions (order, rank, rows, leaf size), found {tuple(leaves.shape)}.")
    order, rank, rows, leaf = leaves.shape
    return order, rank, rows, leaf


def fold_table(table: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """[V, D] -> [v₁·d₁, v₂·d₂, …]; rows and columns beyond the table are zero."""
    padded = F.pad(table, (0, math.prod(columns) - table.shape[1], 0, math.prod(rows) - table.shape[0]))
    order = len(rows)
    interleaved = [axis for k in range(order) for axis in (k, order + k)]
    sizes = [row * column for row, column in zip(rows, columns, strict=True)]
    return padded.view(*rows, *columns).permute(interleaved).reshape(sizes)
