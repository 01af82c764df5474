"""Parity of optimizer, clipping and schedule."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.parity.cases import close, load
from utils.engine.optimisation import build_optimizer, schedule_factor


def check(directory: Path, name: str) -> None:
    """AdamW with clipping and the linear schedule, step by step, and the learning rates of a long run."""
    case, arrays = load(directory, name)
    parameter = torch.nn.Parameter(arrays["p0"].clone())
    module = torch.nn.ParameterList([parameter])
    optimizer = build_optimizer(module, case["lr"], case["weight_decay"])
    factor = schedule_factor("linear", case["warmup"], case["end"])
    for step, gradient in enumerate(arrays["grads"]):
        lr = case["lr"] * factor(step)
        close(lr, arrays["lr_used"][step], f"learning rate of step {step}")
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_([parameter], case["clip"])
        close(norm, arrays["grad_norm"][step], f"gradient norm of step {step}")
        optimizer.step()
        close(parameter, arrays["params_after"][step], f"parameters after step {step}", 1e-9)
    wiki = schedule_factor("linear", 50, 60000)
    for step, expected in zip(
        (0, 1, 49, 50, 51, 30000, 59999, 60000, 60001), arrays["linear_wiki_lr_by_step"], strict=True
    ):
        close(1e-3 * wiki(step), expected, f"wiki learning rate at {step}", 1e-12)
