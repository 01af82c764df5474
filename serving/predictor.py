"""A model with its tasks: texts in, class probabilities out, at any ratio of the model.

Shapes: B rows, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dataset import Feature, GlueExample, Task
from dataset.collate import Batch
from model import available_ratios, edits_of, use_ratio

#: Of an encoding that cuts nothing; larger than any text that the server takes.
_UNCUT = 1 << 30
#: Rows and tokens of the batches that the speed is measured with at the start.
MEASURED_ROWS, MEASURED_LENGTH, _REPEATS = 8, 64, 3


class Encoded(NamedTuple):
    """A row as the model reads it, and whether text was cut off for it."""

    feature: Feature
    truncated: bool


class Prediction(NamedTuple):
    """What a model says of a row: the label (None in regression), and class -> probability, or the score."""

    label: str | None
    scores: dict[str, float]


@dataclass(frozen=True)
class ServedTask:
    """A task that the model answers.

    Attributes:
        task: its columns and labels.
        bank: the name of its plugins in the model's bank.
        max_length: most tokens of a row; longer texts are cut as in training.
        encode: examples and most tokens -> features.
        collate: features -> a batch.
        logits: a model and a batch -> (B, C), or (B, 1) in regression.
    """

    task: Task
    bank: str
    max_length: int
    encode: Callable[[Sequence[GlueExample], int], Iterable[Feature]]
    collate: Callable[[Sequence[Feature]], Batch]
    logits: Callable[[Any, Batch], Tensor]


class Predictor:
    """Runs one model for one or several tasks.

    Args:
        model: in eval mode, on `device`.
        tasks: name -> task.
        precision: `fp32`, or `bf16` for autocast.

    Attributes:
        ratios: those it can run at, 1 among them; the same for all tasks, as a bank has them.
    """

    def __init__(
        self, model: Any, tasks: Mapping[str, ServedTask], device: torch.device, precision: str = "fp32"
    ) -> None:
        self.model, self.tasks, self.device, self.precision = model, dict(tasks), device, precision
        self.ratios = available_ratios(model, next(iter(tasks.values())).bank)

    def edits(self) -> list[dict[str, Any]]:
        """The model's edits, in stacking order."""
        return [edit.to_dict() for edit in edits_of(self.model)]

    def encode(self, name: str, rows: Sequence[Sequence[str]]) -> list[Encoded]:
        """Rows of texts, in the order of the task's columns, as the model reads them.

        Raises:
            DataError: the task's prompt alone is longer than the most tokens of a row.
        """
        served = self.tasks[name]
        examples = [_example(i, texts) for i, texts in enumerate(rows)]
        features = list(served.encode(examples, _UNCUT))
        long = [i for i, feature in enumerate(features) if len(feature.input_ids) > served.max_length]
        for i, cut in zip(long, served.encode([examples[i] for i in long], served.max_length), strict=True):
            features[i] = cut
        return [Encoded(feature, i in set(long)) for i, feature in enumerate(features)]

    def predict(self, name: str, ratio: int, features: Sequence[Feature]) -> list[Prediction]:
        """Predictions of encoded rows of one task."""
        served = self.tasks[name]
        with torch.inference_mode():
            logits = self._logits(served, ratio, served.collate(features)).float().cpu()
        if served.task.kind == "regression":
            return [Prediction(None, {"score": float(value)}) for value in logits[:, 0]]
        labels = served.task.labels
        rows = logits.softmax(-1).tolist()
        return [Prediction(labels[row.index(max(row))], dict(zip(labels, row, strict=True))) for row in rows]

    def seconds_per_token(self, clock: Callable[[], float] = time.perf_counter) -> dict[int, float]:
        """Ratio -> seconds for one padded token, the fastest of a few batches; also warms the model up.

        Raises:
            DataError: a row of some task cannot be encoded at all.
        """
        bare = {name: self.encode(name, [[""] * len(task.task.columns)])[0] for name, task in self.tasks.items()}
        name, served = next(iter(self.tasks.items()))
        length = min(served.max_length, max(MEASURED_LENGTH, 2 * len(bare[name].feature.input_ids)))
        (feature,) = served.encode([_example(0, ["a " * length] * len(served.task.columns))], length)
        batch = served.collate([feature] * MEASURED_ROWS)
        tokens = batch["input_ids"].numel()
        seconds: dict[int, list[float]] = {ratio: [] for ratio in self.ratios}
        with torch.inference_mode():
            for _ in range(_REPEATS + 1):  # in turns, so that a slow moment meets all of them; the first one warms up
                for ratio, times in seconds.items():
                    begin = clock()
                    self._logits(served, ratio, batch).float().cpu()
                    times.append(clock() - begin)
        return {ratio: min(times[1:]) / tokens for ratio, times in seconds.items()}

    def _logits(self, served: ServedTask, ratio: int, batch: Batch) -> Tensor:
        on_device = {key: value.to(self.device) for key, value in batch.items()}
        autocast: AbstractContextManager[Any] = torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bf16"
        )
        with use_ratio(self.model, ratio, served.bank if ratio > 1 else ""), autocast:
            return served.logits(self.model, on_device)


def _example(index: int, texts: Sequence[str]) -> GlueExample:
    return GlueExample(index, texts[0], texts[1] if len(texts) > 1 else None)
