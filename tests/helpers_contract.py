"""A tiny T5 that every engine trains alike: its objectives, its batches, and the plain loop that engines must equal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from model import PluginConfig, apply_edit
from model.heads import VerbalizerHead
from model.lora import LoraConfig
from model.plugin.objective import PluginObjective, freeze_for
from tests.helpers_engine import metrics_of
from utils.engine import RunDirectory, Runtime, Trainer, TrainerConfig
from utils.engine.engines import EngineName
from utils.engine.optimisation import trainable_parameters
from utils.engine.resume import Resume
from utils.lock import release_all

Batch = dict[str, Tensor]
#: What is trained: all weights, LoRA inside frozen layers, or plugins beside them.
VARIANTS = ("whole", "lora", "plugins")
LR, DECAY, CLIP, STEPS = 1e-2, 0.1, 0.5, 4
#: Odd sizes: a process's share ends in the middle of a parameter.
SIZES = {"vocab_size": 41, "d_model": 12, "d_kv": 3, "num_heads": 2, "d_ff": 23, "num_layers": 2}


def objective(variant: str) -> PluginObjective:
    """The same weights at every call."""
    torch.manual_seed(0)
    model: Any = T5ForConditionalGeneration(T5Config(dropout_rate=0.0, decoder_start_token_id=0, **SIZES))
    head = VerbalizerHead(token_ids=(5, 6), sentinel_id=7)
    if variant == "plugins":
        apply_edit(model, PluginConfig((2, 4)))
        freeze_for(model, "hidden", False, (2, 4))
        return PluginObjective(model, head, "hidden", (2, 4))
    if variant == "lora":
        apply_edit(model, LoraConfig(rank=2))
    freeze_for(model, "no", variant == "lora")
    return PluginObjective(model, head)


class Sentences:
    """Six batches of three rows, which differ in length."""

    batches_per_epoch = 6

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """From `start` on."""
        generator = torch.Generator().manual_seed(1)
        for number in range(self.batches_per_epoch):
            ids = torch.randint(8, 40, (3, 9), generator=generator)
            mask = (torch.arange(9) < torch.tensor([[9], [6], [4]])).long()
            labels = torch.randint(0, 2, (3,), generator=generator)
            if number >= start:
                yield {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def trainer_of(
    engine: EngineName,
    variant: str,
    path: Path,
    steps: int = STEPS,
    resume: Resume = False,
    cpu_offload: bool = False,
    **settings: Any,
) -> Trainer:
    """A trainer whose evaluation gives the mean of all weights, and whose best model is that number."""
    AcceleratorState._reset_state()
    release_all()
    runtime = Runtime("fp32", "t5", 0, engine=engine, cpu_offload=cpu_offload)
    trained = objective(variant)
    config = TrainerConfig(
        epochs=3, max_steps=steps, lr=LR, weight_decay=DECAY, clip_norm=CLIP, inspect_step=1, **settings
    )

    def mean() -> dict[str, float]:
        return {"mean": float(torch.cat([p.detach().flatten() for p in trained.parameters()]).mean())}

    def save(folder: Path) -> None:
        (folder / "mean.txt").write_text(str(mean()["mean"]))

    directory = RunDirectory(path, {"random_seed": 0}, resume=resume)
    trainer = Trainer(runtime, trained, Sentences(), config, directory, mean, "mean", save)
    trainer.given = trained  # type: ignore[attr-defined]
    return trainer


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    """Of the objective that the trainer was given."""
    return {name: p.detach().clone() for name, p in trainer.given.named_parameters()}  # type: ignore[attr-defined]


def losses_of(path: Path) -> list[float]:
    """By step."""
    return [row["loss"] for row in metrics_of(path, "train")]


def plain_loop(variant: str, accumulation: int = 1, steps: int = STEPS) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights of the same training without any engine: `accumulation` batches a step."""
    trained = objective(variant)
    parameters = list(trainable_parameters(trained).values())
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=DECAY)
    losses, batches = [], _for_ever()
    for _ in range(steps):
        total = 0.0
        for _ in range(accumulation):
            loss = trained(next(batches))[0] / accumulation
            loss.backward()
            total += float(loss.detach())
        losses.append(total)
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
    return losses, dict(trained.named_parameters())


def _for_ever() -> Iterator[Batch]:
    while True:
        yield from Sentences().batches(0)
