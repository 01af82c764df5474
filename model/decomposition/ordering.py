"""Bringing the components of a matrix bank into the order of their importance, without changing a matrix.

A fresh decomposition has its components in order, as long as it is no basis of the whole space; training mixes them.
Norms of trained components do not say what leaving one out costs, as they are not orthogonal. So the factors are made
orthonormal, what that takes goes into the core, and the core gets its higher-order SVD at full rank: rotations that
make its slices orthogonal to each other, the largest first (De Lathauwer, De Moor and Vandewalle 2000, "A multilinear
singular value decomposition", theorem 2). Leaving out the last slices of the modes then costs at most the root of the
sum of their squared norms (property 10 there). Of a matrix alone (protocol II) this is its SVD.

Shapes: N stacked blocks, D width, a, c, d the ranks, r the rank of a matrix alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.decomposition.bank import ExpandedBank, MatrixBank, PairBank, TuckerBank
from model.decomposition.surgery import matrix_bank
from model.errors import ModelError


@torch.no_grad()
def sort_components(model: Any) -> None:
    """Sort the components of a decomposed model's bank, in place; its matrices stay what they are, up to rounding.

    Raises:
        ModelError: the model is not decomposed, is so with `is_expand`, or has more cores than blocks.
    """
    bank = matrix_bank(model)
    _sort_pairs(bank) if isinstance(bank, PairBank) else _sort_core(_shared(bank))
    bank.forget()


def _shared(bank: MatrixBank) -> TuckerBank:
    assert isinstance(bank, TuckerBank)
    if isinstance(bank, ExpandedBank):
        raise ModelError("With is_expand, tanh mixes the components: they cannot be sorted.")
    if bank.factor_layer is not None and bank.factor_layer.shape[1] > bank.factor_layer.shape[0]:
        blocks, layer = bank.factor_layer.shape
        raise ModelError(f"The bank has {layer} cores for {blocks} blocks: more than the blocks cannot be sorted.")
    return bank


def _sort_pairs(bank: PairBank) -> None:
    """left[b] right[b] = U S V with U, V from the small matrix between the orthonormal parts; S is split evenly."""
    q_NDr, upper = torch.linalg.qr(bank.left.double())
    p_NDr, lower = torch.linalg.qr(bank.right.double().mT)
    u, s, v = torch.linalg.svd(upper @ lower.mT)
    root = s.sqrt()
    bank.left.copy_(q_NDr @ u * root[:, None, :])
    bank.right.copy_(root[:, :, None] * (v @ p_NDr.mT))


def _sort_core(bank: TuckerBank) -> None:
    core = bank.core.double()
    left, upper = torch.linalg.qr(bank.factor_left.double())
    right, lower = torch.linalg.qr(bank.factor_right.double().T)
    core = upper @ core @ lower.T
    if bank.factor_layer is not None:
        layer, mixing = torch.linalg.qr(bank.factor_layer.double())
        core = (mixing @ core.flatten(1)).view_as(core)
        turn = _leading(core.flatten(1))
        bank.factor_layer.copy_(layer @ turn)
        core = (turn.T @ core.flatten(1)).view_as(core)
    turn_left, turn_right = _leading(core.transpose(0, 1).flatten(1)), _leading(core.permute(2, 0, 1).flatten(1))
    bank.factor_left.copy_(left @ turn_left)
    bank.factor_right.copy_((right @ turn_right).T)
    bank.core.copy_(turn_left.T @ core @ turn_right)


def _leading(unfolding: Tensor) -> Tensor:
    """All left singular vectors of an unfolding, largest first."""
    return torch.linalg.eigh(unfolding @ unfolding.T).eigenvectors.flip(1)
