"""Fitting `is_expand`, with the formula that its forward uses: tanh([U u] @ [[core, w12], [w21, w22]]) @ [V; v].

The start is the Tucker solution; each block's own columns u and rows v begin with the leading singular vectors of what
it leaves over. Then a quasi-Newton method lowers the squared error; the best parameters seen are kept, so the result is
never worse than the Tucker solution under tanh with nothing added.

Shapes: N blocks, D width, c, d the ranks, l and r the added columns and rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.decomposition.bank import ExpandedBank

#: Iterations of the fit; each costs a few products of all blocks.
ITERATIONS = 20


def fit_expansion(bank: ExpandedBank, tensor_NDD: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Fit all parameters of a bank whose core and outer factors hold a Tucker-2 solution.

    Returns:
        The relative error of every block, (N,) in float64.
    """
    target = tensor_NDD.detach()
    added = (bank.exp_left, bank.exp_right, bank.exp_core12, bank.exp_core21, bank.exp_core22)
    with torch.no_grad():
        for parameter in added:
            parameter.zero_()
    best = _Best(bank, target)
    best.look()
    with torch.no_grad():
        _start_from_residual(bank, target)
    best.look()
    optimizer = torch.optim.LBFGS(
        list(bank.parameters()), max_iter=iterations, history_size=5, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (bank.matrices(slice(None)) - target).square().sum() / best.total
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    optimizer.zero_grad(set_to_none=True)
    best.look()
    return best.restored()


class _Best:
    """The best parameters seen so far."""

    def __init__(self, bank: ExpandedBank, target: Tensor) -> None:
        self._bank, self._target = bank, target
        self._norms = torch.linalg.vector_norm(target.flatten(1), dim=1, dtype=torch.float64)
        self.total = float(self._norms.square().sum())
        self._loss = float("inf")
        self._kept: list[Tensor] = []
        self._errors = self._norms

    @torch.no_grad()
    def look(self) -> None:
        """Compare the bank as it is now with the best."""
        difference = (self._bank.matrices(slice(None)) - self._target).flatten(1)
        lost = torch.linalg.vector_norm(difference, dim=1, dtype=torch.float64)
        if (loss := float(lost.square().sum())) < self._loss:
            self._loss = loss
            self._kept = [parameter.detach().clone() for parameter in self._bank.parameters()]
            self._errors = torch.where(self._norms > 0, lost / self._norms, 0.0)

    @torch.no_grad()
    def restored(self) -> Tensor:
        """Put the best parameters back and give their errors."""
        for parameter, kept in zip(self._bank.parameters(), self._kept, strict=True):
            parameter.copy_(kept)
        return self._errors.cpu()


def _start_from_residual(bank: ExpandedBank, target: Tensor) -> None:
    """u and v from the singular vectors of what is left over, w22 the identity, w12 and w21 zero.

    Neither u nor v is zero, so gradients reach w12 and w21 too.
    """
    columns, rows = bank.exp_left.shape[2], bank.exp_right.shape[1]
    residual = target - bank.matrices(slice(None))
    for block, matrix in enumerate(residual):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        root = s.sqrt()
        bank.exp_left[block] = u[:, :columns] * root[:columns]
        bank.exp_right[block] = root[:rows, None] * v[:rows]
    bank.exp_core22.copy_(torch.eye(columns, rows).expand_as(bank.exp_core22))
