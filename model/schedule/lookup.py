"""One backward pass of an embedding for several passes over the same rows.

The gradient of an embedding is as large as its table, however few rows were looked up. Where a batch goes through
several sub-models one after the other, each with a backward pass of its own, that would be made and added up anew for
each of them. Here all but the last leave their gradient at the rows that were looked up, and the last one takes these
with it. The sum is the same.

Shapes: B batch, L length, D width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from model.errors import ModelError


class SharedLookup:
    """What the passes over one batch have left so far.

    Args:
        embedding: gives rows (B, L, D); called equally often in each pass.
    """

    def __init__(self, embedding: nn.Module) -> None:
        self._embedding = embedding
        self._left: defaultdict[int, list[Tensor]] = defaultdict(list)

    @contextmanager
    def forward_pass(self, is_last: bool) -> Iterator[None]:
        """Around the forward pass of a sub-model; its backward pass has to come before the next one."""
        calls = iter(range(2**31))

        def share(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            if not output.requires_grad:
                return None
            left = self._left[next(calls)]
            if is_last:
                output.register_hook(lambda gradient: _sum(gradient, left))
                return None
            left.append(output.detach().requires_grad_())
            return left[-1]

        handle = self._embedding.register_forward_hook(share)
        try:
            yield
        finally:
            handle.remove()


def _sum(gradient: Tensor, left: list[Tensor]) -> Tensor:
    for rows in left:
        if rows.grad is None:
            raise ModelError("Each piece of the loss must go backwards before the next piece is asked for.")
        gradient = gradient + rows.grad
    return gradient
