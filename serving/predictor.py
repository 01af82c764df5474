"""A model with its tasks: texts in, class probabilities out, at any ratio of the model.

Shapes: B rows, L tokens, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dataset import Feature, Task
from dataset.collate import Batch
from dataset.tokens import NO_PIECE, OUTSIDE, TokenFeature
from model import available_ratios, edits_of, use_ratio
from model.finite import check_rows, check_weights
from utils.engine.precision import PrecisionChoice, choose_precision

#: Of an encoding that cuts nothing; larger than any text that the server takes.
_UNCUT = 1 << 30
#: Rows and tokens of the batches that the speed is measured with at the start.
MEASURED_ROWS, MEASURED_LENGTH, _REPEATS = 8, 64, 3


class Encoded(NamedTuple):
    """A row as the model reads it, and whether text was cut off for it."""

    feature: Feature
    truncated: bool


class Tag(NamedTuple):
    """The label of a word, and its probability."""

    label: str
    score: float


class Prediction(NamedTuple):
    """What a model says of a row: the label and class -> probability; in regression the score; of words their tags."""

    label: str | None = None
    scores: Mapping[str, float] = MappingProxyType({})
    tags: tuple[Tag, ...] | None = None


@dataclass(frozen=True)
class ServedTask:
    """A task that the model answers.

    Attributes:
        task: its columns and labels.
        bank: the name of its plugins in the model's bank.
        max_length: most tokens of a row; longer texts are cut as in training.
        encode: rows of texts, in the order of the task's columns, and most tokens -> features.
        collate: features -> a batch.
        logits: a model and a batch -> (B, C); (B, 1) in regression, (B, L, C) for tagged words.
    """

    task: Task
    bank: str
    max_length: int
    encode: Callable[[Sequence[Sequence[str]], int], Iterable[Feature]]
    collate: Callable[[Sequence[Feature]], Batch]
    logits: Callable[[Any, Batch], Tensor]


class Predictor:
    """Runs one model for one or several tasks.

    Args:
        model: in eval mode, on `device`.
        tasks: name -> task.
        choice: the precision of its products, and why; by default fp32.

    Attributes:
        ratios: those it can run at, 1 among them; the same for all tasks, as a bank has them.
    """

    def __init__(
        self,
        model: Any,
        tasks: Mapping[str, ServedTask],
        device: torch.device,
        choice: PrecisionChoice | None = None,
    ) -> None:
        self.model, self.tasks, self.device = model, dict(tasks), device
        self.choice = choice or choose_precision("fp32")
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
        features = list(served.encode(rows, _UNCUT))
        long = [i for i, feature in enumerate(features) if len(feature.input_ids) > served.max_length]
        for i, cut in zip(long, served.encode([rows[i] for i in long], served.max_length), strict=True):
            features[i] = cut
        return [Encoded(feature, i in set(long)) for i, feature in enumerate(features)]

    def predict(self, name: str, ratio: int, features: Sequence[Feature]) -> list[Prediction | None]:
        """Predictions of encoded rows of one task; None for a row whose scores are not finite."""
        served = self.tasks[name]
        with torch.inference_mode():
            logits = self._logits(served, ratio, served.collate(features)).float().cpu()
        return [_read(served.task, row, feature) for row, feature in zip(logits, features, strict=True)]

    def probe(self, name: str, ratio: int) -> None:
        """Predict a few rows of a task, to see whether the model works at a ratio.

        Raises:
            NotFiniteError: their scores are not finite.
            Exception: the model fails.
        """
        columns = len(self.tasks[name].task.columns)
        rows = [encoded.feature for encoded in self.encode(name, [[text] * columns for text in ("", "a", "a b " * 16)])]
        check_rows((row is not None for row in self.predict(name, ratio, rows)), self.model)

    def check(self) -> None:
        """Refuse a model that cannot answer, or not everything.

        Raises:
            NotFiniteError: it has weights that are not finite, or scores that are not.
        """
        check_weights(self.model)
        for name in self.tasks:
            for ratio in self.ratios:
                self.probe(name, ratio)

    def seconds_per_token(self, clock: Callable[[], float] = time.perf_counter) -> dict[int, float]:
        """Ratio -> seconds for one padded token, the fastest of a few batches; also warms the model up.

        Raises:
            DataError: a row of some task cannot be encoded at all.
        """
        bare = {name: self.encode(name, [[""] * len(task.task.columns)])[0] for name, task in self.tasks.items()}
        name, served = next(iter(self.tasks.items()))
        length = min(served.max_length, max(MEASURED_LENGTH, 2 * len(bare[name].feature.input_ids)))
        (feature,) = served.encode([["a " * length] * len(served.task.columns)], length)
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
            self.device.type, torch.bfloat16, enabled=self.choice.precision == "bf16"
        )
        with use_ratio(self.model, ratio, served.bank if ratio > 1 else ""), autocast:
            return served.logits(self.model, on_device)


def _read(task: Task, logits: Tensor, feature: Feature) -> Prediction | None:
    """What the logits of a row say: (C,), (1,) in regression, (L, C) for tagged words; None: they are not finite."""
    scores = logits if task.kind == "regression" else logits.softmax(-1)
    if isinstance(feature, TokenFeature):
        scores = scores[: len(feature.input_ids)]  # what is said of padding does not matter
    if not bool(scores.isfinite().all()):
        return None
    if task.kind == "regression":
        return Prediction(scores={"score": float(logits[0])})
    if isinstance(feature, TokenFeature):
        # A word that the model does not see, as it is cut off or has no pieces, counts as outside, as in evaluation.
        found = [(OUTSIDE, 1.0) if at == NO_PIECE else _largest(scores[at]) for at in feature.starts]
        return Prediction(tags=tuple(Tag(task.labels[label], score) for label, score in found))
    return Prediction(task.labels[_largest(scores)[0]], dict(zip(task.labels, scores.tolist(), strict=True)))


def _largest(scores: Tensor) -> tuple[int, float]:
    score, at = scores.max(-1)
    return int(at), float(score)
