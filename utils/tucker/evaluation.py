"""Evaluation of classifiers and of the distillation losses; every row counts once, however many processes there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from dataset import IGNORED, BatchSource, Task, TokenFeature
from dataset.tokens import NO_PIECE, OUTSIDE
from metric.glue import GLUE_METRICS, METRICS, compute
from metric.ner import entity_scores
from model.attention_scores import Batch
from model.distillation import IntermediateDistillation, classify
from model.finite import check_outputs, check_rows, check_weights
from utils.engine import Runtime
from utils.heartbeat import tracked
from utils.tucker.data import LabelledSet
from utils.tucker.tasks import is_tagged

#: Selection metric of the stages without labels: the loss with its sign changed, as larger is better.
NEGATIVE_LOSS = "negative_loss"


class ClassifierEvaluator:
    """A classifier's metrics on the development sets of its task.

    Args:
        selection: computed as well, if it is a measure of classes or scores that the task does not have by itself.
    """

    def __init__(self, runtime: Runtime, model: Any, sets: Sequence[LabelledSet], selection: str = "") -> None:
        self.runtime, self.model, self.sets = runtime, model, sets
        self._further = [selection] if selection in METRICS else []

    @property
    def sources(self) -> list[BatchSource]:
        """The rows of all sets."""
        return [rows.source for rows in self.sets]

    def __call__(self) -> dict[str, float]:
        """GLUE's metrics of the task and the mean loss; those of MNLI's second set end in `_mm`."""
        values: dict[str, float] = {}
        for rows in self.sets:
            values |= {f"{name}{rows.suffix}": value for name, value in self._of(rows).items()}
        return values

    def _of(self, rows: LabelledSet) -> dict[str, float]:
        found: list[tuple[int, float, float, float]] = []
        for batch, counted in batches_to_evaluate(self.runtime, self.model, rows.source):
            logits, labels = classify(self.model, batch).float(), batch["labels"]
            if rows.task.kind == "regression":
                predictions, losses = logits[:, 0], (logits[:, 0] - labels).square()
            else:
                predictions, losses = logits.argmax(-1), F.cross_entropy(logits, labels, reduction="none")
            columns = (batch["index"], predictions, labels, losses)
            found += list(zip(*(column.tolist() for column in columns), strict=True))[:counted]
        _, predicted, expected, row_losses = zip(*sorted(self.runtime.gather_rows(found)), strict=True)
        check_outputs(torch.tensor(row_losses), self.model)
        measures = dict.fromkeys([*GLUE_METRICS[rows.task.name], *self._further])
        values = compute(list(measures), list(predicted), list(expected))
        return values | {"loss": sum(row_losses) / len(row_losses)}


class TokenEvaluator(ClassifierEvaluator):
    """The entity scores of a model that tags words, sentence by sentence."""

    def _of(self, rows: LabelledSet) -> dict[str, float]:
        """F1, precision and recall of entities, and the mean loss of the words that the model sees.

        A word that it does not see, as it is cut off or has no pieces, is predicted O: its entity counts as missed.
        """
        names = rows.task.labels
        expected = [feature.tags or () for feature in rows.features if isinstance(feature, TokenFeature)]
        found = _tagged(self.runtime, self.model, rows)
        loss = sum(sentence.loss for sentence in found) / max(sum(sentence.words for sentence in found), 1)
        return {**entity_scores(_in_order(found, rows), expected, names), "loss": loss}


def evaluator_for(task: Task) -> type[ClassifierEvaluator]:
    """The evaluator of models for `task`."""
    return TokenEvaluator if is_tagged(task) else ClassifierEvaluator


class DistillationEvaluator:
    """Means over rows of the intermediate losses, the student without dropout.

    Args:
        source: the rows; equal ones at every evaluation.
        max_batches: take the first ones only; 0 takes all.
    """

    def __init__(
        self, runtime: Runtime, objective: IntermediateDistillation, source: BatchSource, max_batches: int = 0
    ) -> None:
        self.runtime, self.objective, self.source, self.max_batches = runtime, objective, source, max_batches

    @property
    def sources(self) -> list[BatchSource]:
        """The rows."""
        return [self.source]

    def __call__(self) -> dict[str, float]:
        """`hidden_loss`, `attention_loss`, `loss` and its negative."""
        found: list[tuple[int, float, float]] = []
        for batch, counted in batches_to_evaluate(self.runtime, self.objective, self.source, self.max_batches):
            part = {key: value[:counted] for key, value in batch.items() if value.dim()}
            if counted:
                hidden, attention = self.objective.compare(part)
                found.append((counted, float(hidden) * counted, float(attention) * counted))
        count, hidden_sum, attention_sum = (sum(c) for c in zip(*self.runtime.gather_rows(found), strict=True))
        hidden_mean, attention_mean = hidden_sum / count, attention_sum / count
        loss = hidden_mean + attention_mean
        check_outputs(torch.tensor(loss), self.objective)
        return {"loss": loss, "hidden_loss": hidden_mean, "attention_loss": attention_mean, NEGATIVE_LOSS: -loss}


def predict(runtime: Runtime, model: Any, task: Task, source: BatchSource) -> list[float]:
    """The predicted class id, or score, of every row, in the order of the file.

    Raises:
        NotFiniteError: the model gives what is no number for one.
    """
    found: list[tuple[int, float, bool]] = []
    for batch, counted in batches_to_evaluate(runtime, model, source):
        logits = classify(model, batch).float()
        predictions = logits[:, 0] if task.kind == "regression" else logits.argmax(-1)
        columns = (batch["index"], predictions, logits.isfinite().all(-1))
        found += list(zip(*(column.tolist() for column in columns), strict=True))[:counted]
    rows = sorted(runtime.gather_rows(found))
    check_rows((finite for *_, finite in rows), model)
    return [prediction for _, prediction, _ in rows]


def predict_tags(runtime: Runtime, model: Any, rows: LabelledSet) -> list[list[int]]:
    """The predicted label id of every word of every sentence, in the order of the file; unseen words are O."""
    return _in_order(_tagged(runtime, model, rows), rows)


class _Tagged(NamedTuple):
    """What a model makes of a sentence: a label id per word, and the sum of its loss over the labelled words.

    `finite` says whether all that it gives for the sentence are numbers.
    """

    row: int
    tags: list[int]
    loss: float
    words: int
    finite: bool


def _tagged(runtime: Runtime, model: Any, rows: LabelledSet) -> list[_Tagged]:
    """The sentences of all processes, in the order of the file, but those of which the model sees nothing."""
    found: list[_Tagged] = []
    for batch, counted in batches_to_evaluate(runtime, model, rows.source):
        logits = classify(model, batch).float()
        labels = batch.get("labels", torch.full_like(batch["input_ids"], IGNORED))
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED).sum(1)
        words = (labels != IGNORED).sum(1)
        finite = (logits.isfinite().all(-1) | (batch["attention_mask"] == 0)).all(-1)
        columns = (batch["index"], logits.argmax(-1), losses, words, finite)
        for index, tags, loss, number, is_finite in list(zip(*(c.tolist() for c in columns), strict=True))[:counted]:
            feature = rows.features[index]
            assert isinstance(feature, TokenFeature)
            own = [OUTSIDE if start == NO_PIECE else tags[start] for start in feature.starts]
            found.append(_Tagged(index, own, loss, number, is_finite))
    sentences = sorted(runtime.gather_rows(found))
    check_rows((sentence.finite for sentence in sentences), model)
    return sentences


def _in_order(found: Sequence[_Tagged], rows: LabelledSet) -> list[list[int]]:
    tags = {sentence.row: sentence.tags for sentence in found}
    features = [feature for feature in rows.features if isinstance(feature, TokenFeature)]
    return [tags.get(feature.index, [OUTSIDE] * len(feature.starts)) for feature in features]


def batches_to_evaluate(
    runtime: Runtime, module: Any, source: BatchSource, limit: int = 0
) -> Iterator[tuple[Batch, int]]:
    """Batches on the device with the number of their rows that count here; meanwhile `module` is in eval mode.

    Raises:
        NotFiniteError: a weight is no number, which some kernels let no output show.
    """
    check_weights(module)
    training = module.training
    module.eval()
    total = limit or source.batches_per_epoch
    batches = tracked(islice(source.batches(0), limit or None), "evaluating", total, silent=not runtime.is_main)
    with torch.no_grad(), runtime.accelerator.autocast():
        for batch in batches:
            yield runtime.to_device(batch), int(batch["num_rows"])
    module.train(training)
