"""AdamW with its state in the CPU's memory, by BMTrain's optimizer for that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_STATE = ("exp_avg", "exp_avg_sq")


class OffloadedAdamW(torch.optim.Optimizer):
    """AdamW, whose state by parameter is that of `torch.optim.AdamW`, so that checkpoints are.

    BMTrain's optimizer computes on the CPU and keeps copies of the parameters there. Of float32 parameters it takes the
    weight decay for a part of the gradient (L2), so none is told to it, and its copies decay here.

    Args:
        parameters: in float32.
        bmt: the module `bmtrain`.
        lr, weight_decay: see `build_optimizer`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], bmt: Any, lr: float, weight_decay: float) -> None:
        betas, eps = (0.9, 0.999), 1e-8
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self._inner = bmt.optim.AdamOffloadOptimizer(parameters, lr=lr, betas=betas, eps=eps, weight_decay=0.0)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        group = self.param_groups[0]
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if new := [parameter for parameter in parameters if parameter not in self._inner.state]:
            self._make_state(new)
        for parameter in parameters:
            _master(self._inner.state[parameter]).mul_(1 - group["lr"] * group["weight_decay"])
        self._step(group["lr"])
        for parameter in parameters:
            inner = self._inner.state[parameter]
            self.state[parameter] = {key: inner[key] for key in _STATE} | {"step": torch.tensor(float(inner["step"]))}

    def _make_state(self, parameters: Sequence[nn.Parameter]) -> None:
        """Let BMTrain make its state, in a step of length 0, then put in what a checkpoint brought, or nothing."""
        gradients = {p: p.grad for p in self.param_groups[0]["params"] if p not in set(parameters)}
        for parameter in gradients:
            parameter.grad = None
        self._step(0.0)
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        for parameter in parameters:
            inner, loaded = self._inner.state[parameter], self.state.get(parameter, {})
            for key in _STATE:
                inner[key].copy_(loaded[key]) if key in loaded else inner[key].zero_()
            inner["step"] = int(loaded["step"]) if "step" in loaded else 0

    def _step(self, lr: float) -> None:
        for group in self._inner.param_groups:
            group["lr"] = lr
        self._inner.step()


def _master(state: dict[str, Any]) -> Tensor:
    """The copy of the parameter that the CPU works on."""
    found = [value for key, value in state.items() if "param" in key and value.dtype == torch.float32]
    assert len(found) == 1, f"BMTrain's optimizer keeps {sorted(state)}, of which one was to be a float32 parameter"
    copy: Tensor = found[0]
    return copy
