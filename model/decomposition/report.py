"""What a decomposition lost and saved, as plain data and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from model.decomposition.stacking import StackOrder


@dataclass(frozen=True)
class BlockErrors:
    """Relative errors |B - approximation| / |B| (Frobenius) of a decomposition.

    Attributes:
        overall: of the whole stack.
        names: of the blocks of a layer, in stacking order (`query`, …, `ffn_in.0`, …).
        by_block: one row per layer, one column per name.
        dense_parameters: numbers in the matrices that were decomposed, biases not counted.
        bank_parameters: numbers in the factors that stand for them.
    """

    overall: float
    names: tuple[str, ...]
    by_block: tuple[tuple[float, ...], ...]
    dense_parameters: int
    bank_parameters: int

    @classmethod
    def of(cls, order: StackOrder, errors_N: Tensor, tensor_NDD: Tensor, bank_parameters: int) -> Self:
        """From the errors of the stacked blocks, the blocks themselves and the size of what replaced them."""
        squared = torch.linalg.vector_norm(tensor_NDD.detach().flatten(1), dim=1, dtype=torch.float64).square().cpu()
        errors = errors_N.double().cpu()
        overall = float((errors.square() * squared).sum().div(squared.sum()).sqrt())
        names = tuple(
            f"{role}.{j}" if order.count(role) > 1 else role for role in order.roles for j in range(order.count(role))
        )
        rows = tuple(tuple(row) for row in errors.view(-1, order.blocks).tolist())
        return cls(overall, names, rows, tensor_NDD.numel(), bank_parameters)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a JSON report."""
        return {
            "relative_error": self.overall,
            "block_errors": [dict(zip(self.names, row, strict=True)) for row in self.by_block],
            "dense_parameters": self.dense_parameters,
            "bank_parameters": self.bank_parameters,
        }

    def table(self) -> str:
        """The errors as text: a line per layer, the chunks of an FFN matrix pooled by their largest."""
        pooled = list(dict.fromkeys(name.partition(".")[0] for name in self.names))
        lines = ["layer " + " ".join(f"{name:>8}" for name in pooled)]
        for i, row in enumerate(self.by_block):
            largest = [
                max(error for name, error in zip(self.names, row, strict=True) if name.partition(".")[0] == pool)
                for pool in pooled
            ]
            lines.append(f"{i:>5} " + " ".join(f"{error:8.4f}" for error in largest))
        sizes = f"{self.dense_parameters:,} -> {self.bank_parameters:,} parameters"
        return "\n".join([*lines, f"overall {self.overall:.4f}, {sizes}"])
