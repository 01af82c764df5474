"""One training step of MiniDisc's sandwich beside a plain distillation step of the grid's largest scale.

Behind `python -m benchmarks.pruned_speed --sandwich`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.arguments import SIDES, Side
from benchmarks.common import Settings, compare
from metric.cost import count_macs, peak_memory_bytes
from model import Importance, SparsityAxis, committed, sparsify
from model.pruning import places_of
from model.schedule import Sandwich
from model.variants import VariantDistillation
from notation import get_model_type
from utils.engine.optimisation import build_optimizer, trainable_parameters
from utils.measured import environment
from utils.pages import write_measured
from utils.writing import to_json, write_json

Batch = dict[str, Tensor]


def random_importance(model: Any, seed: int = 0) -> Importance:
    """Every head and neuron gets a number that was drawn evenly: all layers lose about the same share."""
    places, generator = places_of(model), torch.Generator().manual_seed(seed)
    heads, neurons = (
        tuple(torch.rand(place.kept, generator=generator) for place in kind)
        for kind in (places.attentions, places.ffns)
    )
    return Importance(heads, neurons)


def classifier(sizes: dict[str, int], device: torch.device) -> Any:
    """A BERT classifier in a drawn order of importance; without dropout, so that both sides compute the same."""
    torch.manual_seed(0)
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = BertForSequenceClassification(BertConfig(vocab_size=1000, **none, **sizes))
    sparsify(model, random_importance(model))
    return model.to(device)


def objective_of(side: Side, sizes: dict[str, int], grid: tuple[float, ...], device: torch.device) -> nn.Module:
    """What a trainer would fit: the sandwich over `grid`, or the distillation of its first, largest scale."""
    teacher = classifier(sizes, device)
    student = committed(teacher, grid[0])
    variant = VariantDistillation(teacher, student, get_model_type("sparsebert_cls"))
    if side == "plain":
        return variant.train()
    return Sandwich(variant, SparsityAxis(student, grid), grid, 0.2, grid[-1]).train()


def step_of(objective: nn.Module, batch: Batch, given: argparse.Namespace) -> Callable[[], None]:
    """One step as the trainer does it: a backward pass per piece, clipping, AdamW."""
    optimizer = build_optimizer(objective, 1e-6, 1e-4)
    pieces = int(getattr(objective, "pieces", 1))
    device = batch["input_ids"].device.type

    def step() -> None:
        for piece in range(pieces):
            with torch.autocast(device, torch.bfloat16, enabled=given.precision == "bf16"):
                loss, _ = objective(batch, piece) if pieces > 1 else objective(batch)
            loss.backward()
        nn.utils.clip_grad_norm_(trainable_parameters(objective).values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def step_macs(objective: nn.Module, batch: Batch) -> int:
    """Multiply-accumulates of a step: the teacher's forward pass, and three times that of each student (its backward
    pass is two products for each of the forward pass)."""
    variant = objective.objective if isinstance(objective, Sandwich) else objective
    assert isinstance(variant, VariantDistillation)
    targets = variant.targets(batch)
    total = count_macs(lambda: variant.targets(batch))
    if not isinstance(objective, Sandwich):
        return total + 3 * count_macs(lambda: variant.loss(batch, targets))
    for scale in objective.scales:
        objective.axis.select(scale)
        total += 3 * count_macs(lambda: variant.loss(batch, targets))
    return total


def memory_of(side: Side, sizes: dict[str, int], given: argparse.Namespace, settings: Settings) -> int:
    """Bytes that models, optimizer and two steps need at their peak, in this process, above what it had before."""
    before = 0 if settings.device.type == "cuda" else peak_memory_bytes(lambda: None)

    def train() -> None:
        step = step_of(objective_of(side, sizes, _fractions(given), settings.device), _batch(given, settings), given)
        step()
        step()

    return peak_memory_bytes(train, device=settings.device) - before


def sandwich_step(sizes: dict[str, int], given: argparse.Namespace, settings: Settings) -> None:
    """Time both steps in turns, measure the memory of each in a process of its own, print, and write where asked."""
    if given.memory_of is not None:
        print(to_json(memory_of(given.memory_of, sizes, given, settings)))
        return
    batch, grid = _batch(given, settings), _fractions(given)
    objectives = [objective_of(side, sizes, grid, settings.device) for side in SIDES]
    macs = [step_macs(objective, batch) for objective in objectives]
    steps = [step_of(objective, batch, given) for objective in objectives]
    rows, length = batch["input_ids"].shape
    row = compare("sandwich", rows, length, steps[0], steps[1], macs[0] / macs[1], settings, precision=given.precision)
    peaks = [_memory_in_fresh_process(side, given.precision) for side in SIDES]
    row |= {"macs": macs, "peak_bytes": peaks, "memory_ratio": peaks[0] / peaks[1], "grid": list(given.grid)}
    lines = _table(row, sizes)
    print("\n".join(lines))
    if settings.page is not None:
        note = f"{settings.threads} threads on {settings.device}, torch {environment()['versions']['torch']}"
        write_measured(settings.page, [*lines, "", f"{note}; medians over {row['pairs']} pairs A B A B …"], "sandwich")
        print(f"made: {settings.page}")
    if settings.json is not None:
        write_json(settings.json, [row])
        print(f"made: {settings.json}")


def _memory_in_fresh_process(side: Side, precision: str) -> int:
    """`memory_of`, with the same flags. Freed memory goes back to the system at once there: what is in use counts."""
    at_once = {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [
        sys.executable,
        "-m",
        "benchmarks.pruned_speed",
        *sys.argv[1:],
        "--memory_of",
        side,
        "--precision",
        precision,
    ]
    done = subprocess.run(command, env={**os.environ, **at_once}, check=True, stdout=subprocess.PIPE, text=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def _table(row: dict[str, Any], sizes: dict[str, int]) -> list[str]:
    """Markdown of both steps and their ratios."""
    peaks = [f"{peak / 2**20:.0f}" for peak in row["peak_bytes"]]
    grid = ", ".join(map(str, row["grid"]))
    macs_ratio, quartiles = row["macs_ratio"], f"{row['wall_ratio_p25']:.2f} - {row['wall_ratio_p75']:.2f}"
    return [
        f"| {sizes['num_hidden_layers']} layers, {row['batch']} x {row['length']} | ms | G MACs | peak memory, MiB |",
        "|---|---|---|---|",
        f"| MiniDisc over {grid} | {row['dense_ms']:.0f} | {row['macs'][0] / 1e9:.1f} | {peaks[0]} |",
        f"| distillation of {row['grid'][0]} | {row['compressed_ms']:.0f} | {row['macs'][1] / 1e9:.1f} | {peaks[1]} |",
        f"| ratio | {row['wall_ratio']:.2f} ({quartiles}) | {macs_ratio:.2f} | {row['memory_ratio']:.2f} |",
        f"| time ratio / MACs ratio | {row['quotient']:.2f} | | |",
    ]


def _fractions(given: argparse.Namespace) -> tuple[float, ...]:
    return tuple(percent / 100 for percent in given.grid)


def _batch(given: argparse.Namespace, settings: Settings) -> Batch:
    """Rows without padding, and labels of two classes."""
    ids = torch.randint(2, 1000, given.shapes[0], device=settings.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}
