"""The optimizer of the first BERT releases, which Xcompression and TinyBERT train with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor


class BertAdam(torch.optim.Optimizer):
    """Adam without bias correction, with clipping per tensor and decoupled weight decay (X8):

        g = g · min(1, max_norm / (‖g‖ + 1e-6))        each parameter tensor for itself
        m = b1 · m + (1 - b1) · g,   v = b2 · v + (1 - b2) · g²
        p = p - lr · (m / (√v + eps) + weight_decay · p)

    The learning rate of a step is set from outside, as for every optimizer here (`schedule_factor`).

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: b1, b2.
        eps: added to √v.
        weight_decay: see above.
        max_norm: largest norm of one tensor's gradient.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_norm: float = 1.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "max_norm": max_norm}
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        b1, b2 = group["betas"]
        scale = (group["max_norm"] / (gradient.norm() + 1e-6)).clamp(max=1.0)
        gradient = gradient * scale
        m, v = state["exp_avg"], state["exp_avg_sq"]
        m.lerp_(gradient, 1 - b1)
        v.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        update = m / (v.sqrt() + group["eps"])
        parameter.sub_(group["lr"] * (update + group["weight_decay"] * parameter))
