"""One small training step with numbers, on this machine: its rate, and what the formulas are compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metric.cost import latency_ms
from utils.scaling.setups import Setup, plugin_training
from utils.scaling.trace import replace_tensors, trace_step

_SIZES = {"d_model": 512, "d_ff": 2048, "d_kv": 64, "num_heads": 8, "vocab_size": 1000}
#: A step of about a second on one core.
SMALL = Setup("plugins of a small T5", 2, (4, 128), 32, lambda layers: plugin_training(_SIZES, layers))


def with_numbers(objective: nn.Module) -> nn.Module:
    """`objective` of the meta device with random parameters on the CPU; its buffers are 0."""
    generator = torch.Generator().manual_seed(0)

    def number(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        return torch.randn(tensor.shape, generator=generator) * 0.02

    replace_tensors(objective, number)
    return objective


def numbers_for(setup: Setup) -> dict[str, Tensor]:
    """Full rows of one token."""
    return {name: torch.ones(value.shape, dtype=value.dtype) for name, value in setup.batch().items()}


def macs_per_second(setup: Setup = SMALL, repeats: int = 5) -> float:
    """Rate of a step in float32, forwards and backwards: the median over `repeats`."""
    objective, batch = with_numbers(setup.objective(setup.layers)), numbers_for(setup)

    def step() -> None:
        loss, _ = objective(batch)
        loss.backward()
        objective.zero_grad(set_to_none=True)

    milliseconds = latency_ms(step, warmup=1, repeats=repeats).p50_ms
    return trace_step(objective, batch).macs / milliseconds * 1e3
