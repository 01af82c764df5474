"""Golden cases of the factorised embeddings: Ket and KetXS of any order, rank and size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from model.decomposition.embeddings import EmbeddingKet, EmbeddingKetXS
from tests.parity.cases import close, load, part

#: The original's padding row.
_PADDING = 0


def check(directory: Path, name: str) -> None:
    """Table, lookup and gradients of every embedding in the case, both by row and by table, in two precisions."""
    _, arrays = load(directory, name)
    embeddings = sorted({key.rpartition("/")[0] for key in arrays})
    assert embeddings, f"{name} holds no embeddings"
    for embedding in embeddings:
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 4e-4)):
            _check_one(embedding, part(arrays, embedding), dtype, tolerance)


def _check_one(name: str, case: dict[str, Tensor], dtype: torch.dtype, tolerance: float) -> None:
    module = _build(name, case["weight_leafs"].to(dtype), *case["weights"].shape)
    close(module.weight, case["weights"], f"{name}: table", tolerance)
    looked_up = module(case["ids"])
    close(looked_up, case["forward"], f"{name}: lookup", tolerance)
    looked_up.square().sum().backward()
    close(_gradient(module), case["grad_leafs"], f"{name}: gradient", tolerance)
    rows = module.rows(case["ids"].flatten()).view_as(looked_up)
    close(rows, case["forward"], f"{name}: rows", tolerance)


def _build(name: str, leaves: Tensor, num_embeddings: int, width: int) -> EmbeddingKet | EmbeddingKetXS:
    order, rank = leaves.shape[:2]
    fresh: EmbeddingKet | EmbeddingKetXS
    if name.startswith("EmbeddingKetXS"):
        fresh = EmbeddingKetXS(num_embeddings, width, order, rank)
        given: EmbeddingKet | EmbeddingKetXS = EmbeddingKetXS.from_leaves(leaves, num_embeddings, width, _PADDING)
    else:
        fresh = EmbeddingKet(num_embeddings, width, order, rank)
        given = EmbeddingKet.from_leaves(leaves, width, _PADDING)
    # From order 5 on, the original's root in floating point can be one too large.
    if order < 5:
        assert fresh.leaves.shape == given.leaves.shape, f"{name}: leaf sizes"
    return given


def _gradient(module: EmbeddingKet | EmbeddingKetXS) -> Tensor:
    assert module.leaves.grad is not None
    return module.leaves.grad
