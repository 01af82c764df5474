"""Optimizer and learning-rate schedules.

Both are stated so that step n (counted from 0) uses the schedule's value at n, as the original does: with a
warm-up the first step has learning rate 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from utils.engine.bertadam import BertAdam
from utils.engine.names import OptimizerName, Schedule

#: Devices with a fused AdamW.
_FUSED = ("cpu", "cuda")


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, by name (tied ones once)."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def build_optimizer(
    module: nn.Module, lr: float, weight_decay: float, name: OptimizerName = "adamw", loss_scaling: bool = False
) -> torch.optim.Optimizer:
    """The optimizer of every trainable parameter.

    adamw     betas 0.9, 0.999; eps 1e-8; decoupled decay on all, biases included
    bertadam  see `BertAdam`; as in its scripts, biases and layer norms (one-dimensional tensors) do not decay

    Args:
        loss_scaling: gradients will be scaled, as in fp16; a fused step would skip overflows without telling.
    """
    parameters = list(trainable_parameters(module).values())
    if name == "adamw":
        # One pass over each tensor instead of a dozen: on a CPU several times faster, as embeddings are large.
        fused = not loss_scaling and all(parameter.device.type in _FUSED for parameter in parameters)
        return torch.optim.AdamW(
            parameters, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay, fused=fused
        )
    decayed = {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay}
    kept = {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}
    return BertAdam([group for group in (decayed, kept) if group["params"]], lr=lr)


def schedule_factor(schedule: Schedule, warmup_steps: float, total_steps: float) -> Callable[[int], float]:
    """Factor on the learning rate by step number.

    linear    n / warmup, then falling linearly to 0 at `total_steps`
    constant  n / warmup, then 1
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        if schedule == "constant" or math.isinf(total_steps):
            return 1.0
        return max(0.0, (total_steps - step) / max(1.0, total_steps - warmup_steps))

    return factor
