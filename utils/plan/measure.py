"""What every point costs on this machine, measured in turns so that the machine's drift is shared."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from metric.cost import count_macs, delta_bytes, latency_ms, parameter_counts, peak_memory_bytes
from model import find_edit
from model.delta import delta_files, save_delta
from model.finite import check_outputs, check_weights
from model.plugin import PluginConfig
from model.plugin.surgery import plugin_modules
from utils.plan.load import Opened, check_length

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Shape:
    """What is run, and how often: `repeats` timed forwards of `batch` x `length` tokens per point."""

    batch: int
    length: int
    repeats: int
    precision: str = "fp32"


def measure(opened: Sequence[Opened], shape: Shape, device: torch.device) -> list[dict[str, float]]:
    """The costs of every point, in the order of `opened`; names and units as in `budget.QUANTITIES`.

    `memory_bytes` is there on a GPU only: in one process on a CPU, what one model takes cannot be told from the rest.
    """
    for one in opened:
        check_length(one, shape.length)
    costs = []
    for one in opened:
        with torch.inference_mode(), one.selected():
            check_weights(one.model)
            check_outputs(one.forward(1, shape.length)[0], one.model, one.point.name)
            costs.append(_counted(one, shape, device))
    for row, latency in zip(costs, _latencies(opened, shape, device), strict=True):
        row["latency_ms"] = latency
    return costs


def _latencies(opened: Sequence[Opened], shape: Shape, device: torch.device) -> list[float]:
    """The median milliseconds of one forward of every point.

    A round times every point once, each behind an untimed forward of its own, as another model has been run since.
    """

    def run(one: Opened, warmup: int) -> float:
        with one.selected(), _autocast(shape, device):
            forward = partial(one.forward, shape.batch, shape.length)
            return latency_ms(forward, warmup=warmup, repeats=1, device=device).p50_ms

    with torch.inference_mode():
        for one in opened:
            run(one, warmup=2)
        rounds = [[run(one, warmup=1) for one in opened] for _ in range(shape.repeats)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def _counted(one: Opened, shape: Shape, device: torch.device) -> dict[str, float]:
    example: Callable[[], Any] = partial(one.forward, 1, shape.length)
    count_macs(example)  # weights that are formed once per model are no cost of an example
    costs = {"macs": float(count_macs(example)), "params": float(_params(one)), "delta_bytes": float(_delta(one))}
    if device.type == "cuda":
        costs["memory_bytes"] = float(_memory(one, shape, device))
    return costs


def _params(one: Opened) -> int:
    """Of a model with plugins: the backbone's and those of the ratio in use."""
    total = parameter_counts(one.model).total
    if one.point.axis != "ratio":
        return total
    banked = sum(p.numel() for name, p in one.model.named_parameters() if ".bank." in name)
    return total - banked + sum(p.numel() for module in _plugins(one) for p in module.parameters())


def _plugins(one: Opened) -> list[Any]:
    ratio = int(one.point.value)
    return list(plugin_modules(one.model, ratio, one.point.source.plugin_task)) if ratio > 1 else []


def _delta(one: Opened) -> int:
    """Bytes on disk: of a ratio's plugins alone (none for ratio 1), of all weights for every other point."""
    point = one.point
    if point.axis == "ratio":
        return _plugin_bytes(one) if point.value > 1 else 0
    if point.is_saved:
        return sum(delta_bytes(file) for pattern in _WEIGHTS for file in point.source.directory.glob(pattern))
    with tempfile.TemporaryDirectory() as folder:
        one.model.save_pretrained(folder)
        return sum(delta_bytes(file) for file in Path(folder).glob(_WEIGHTS[0]))


def _plugin_bytes(one: Opened) -> int:
    edit = find_edit(one.model, PluginConfig)
    assert edit is not None
    wanted = (int(one.point.value), one.point.source.plugin_task)
    name = next(
        n for n, p in edit.parts().items() if isinstance(p, PluginConfig) and (p.ratios[0], p.tasks[0]) == wanted
    )
    with ExitStack() as stack:
        folder = one.point.source.plugins
        if folder is None:  # they lie within the model's own file
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            save_delta(one.model, PluginConfig.kind, folder)
        return delta_bytes(delta_files(folder, name)[0])


def _memory(one: Opened, shape: Shape, device: torch.device) -> int:
    """The point's own parameters and what a forward takes beside them; other models lie on the GPU meanwhile."""
    before = torch.cuda.memory_allocated(device)
    with _autocast(shape, device):
        peak = peak_memory_bytes(partial(one.forward, shape.batch, shape.length), device=device)
    return peak - before + _params(one) * next(one.model.parameters()).element_size()


def _autocast(shape: Shape, device: torch.device) -> Any:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=shape.precision == "bf16")
