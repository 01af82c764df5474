"""A linear model, rows to fit it to, and trainers made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.engine import RunDirectory, Runtime, Trainer, TrainerConfig
from utils.engine.optimisation import trainable_parameters
from utils.engine.resume import Resume

Batch = dict[str, Tensor]


class Regression(nn.Module):
    """Least squares, with a frozen parameter that must neither change nor be saved; uses dropout's randomness."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error."""
        loss = (self.linear(self.dropout(batch["x"] * self.frozen)).squeeze(-1) - batch["y"]).square().mean()
        return loss, {"error": loss.detach()}


class Rows:
    """32 rows in batches, the same in every epoch."""

    def __init__(self, batch_size: int, known: bool = True) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(32, 3, generator=generator)
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5]) + 3
        self.size, self.known = batch_size, known

    @property
    def batches_per_epoch(self) -> int | None:
        """Number of batches."""
        return 32 // self.size if self.known else None

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches from `start` on."""
        for at in range(start * self.size, 32, self.size):
            x = self.x[at : at + self.size]
            yield {"x": x, "y": self.y[at : at + self.size], "attention_mask": torch.ones(len(x), 2)}


class Bench:
    """Builds trainers in one run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.evaluated: list[int] = []
        self.saved: list[int] = []

    def trainer(
        self,
        config: TrainerConfig,
        scores: Sequence[float] = (0.0,),
        batch_size: int = 4,
        resume: Resume = False,
        dropout: float = 0.0,
        known: bool = True,
    ) -> Trainer:
        """A trainer whose n-th evaluation gives the n-th score (the last one from then on)."""
        made: list[Trainer] = []

        def evaluate() -> dict[str, float]:
            step = made[0].progress.step
            self.evaluated.append(step)
            return {"accuracy": scores[min(len(self.evaluated), len(scores)) - 1]}

        def save(directory: Path) -> None:
            self.saved.append(made[0].progress.step)
            (directory / "config.json").write_text(str(made[0].progress.step))

        runtime = Runtime("fp32", "", 0)
        directory = RunDirectory(self.path, {"random_seed": 0}, resume=resume)
        trainer = Trainer(
            runtime, Regression(dropout), Rows(batch_size, known), config, directory, evaluate, "accuracy", save
        )
        made.append(trainer)
        return trainer


def weights(trainer: Trainer) -> Tensor:
    """The trained parameters in one vector."""
    return torch.cat([p.detach().flatten() for p in trainable_parameters(trainer.module).values()])


def metrics_of(path: Path, split: str) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == split]


def names(directory: Path) -> set[str]:
    """What lies in a directory, hidden files too."""
    return {path.name for path in directory.iterdir()}
