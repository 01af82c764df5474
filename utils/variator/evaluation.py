"""Validation at one ratio or several; every row counts exactly once, however many processes there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from metric.glue import compute
from metric.squad import squad_scores
from model import available_ratios, use_ratio
from model.finite import check_outputs, check_weights
from model.heads import Batch, generate_answers
from model.losses import IGNORE
from utils.engine import Runtime
from utils.heartbeat import tracked
from utils.ratios import over_ratios
from utils.variator.data import TaskData


class Evaluator:
    """Gives a model's validation metrics.

    Args:
        max_batches: stop after this many batches (0: never); for corpora only, whose metrics need no exact end.
    """

    def __init__(self, runtime: Runtime, model: Any, tokenizer: Any, data: TaskData, max_batches: int = 0) -> None:
        self.runtime, self.model, self.tokenizer, self.data = runtime, model, tokenizer, data
        self.max_batches = max_batches

    def at_ratios(self, ratios: Sequence[int]) -> dict[str, float]:
        """Metrics at every ratio (`accuracy_k4`) and their means over the ratios (`accuracy`)."""
        if not ratios:
            return self.at_ratio(1)
        return over_ratios(ratios, self.at_ratio)

    def at_ratio(self, ratio: int) -> dict[str, float]:
        """Metrics with the plugins of `ratio`; 1 is the dense model."""
        check_weights(self.model)  # some kernels, and generated tokens, let no output show it
        training = self.model.training
        self.model.eval()
        assert ratio in available_ratios(self.model)
        methods: dict[str, Callable[[], dict[str, float]]] = {
            "span_corruption": self._corpus,
            "question_answering": self._squad,
        }
        with torch.no_grad(), use_ratio(self.model, ratio), self.runtime.accelerator.autocast():
            values = methods.get(self.data.task.kind, self._classification)()
        self.model.train(training)
        return values

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        """Batches on the device, with the number of their rows that count on this process."""
        batches: Iterable[Batch] = self.data.valid.batches(0)
        limit = self.max_batches if self.data.task.kind == "span_corruption" else 0
        batches = islice(batches, limit or None)
        for batch in tracked(batches, "validating", silent=not self.runtime.is_main):
            yield self.runtime.to_device(batch), int(batch["num_rows"])

    def _classification(self) -> dict[str, float]:
        rows: list[tuple[int, int, int, float]] = []
        for batch, counted in self._batches():
            scores = self.data.head(self.model, batch).scores.float()
            losses = torch.nn.functional.cross_entropy(scores, batch["labels"], reduction="none")
            columns = (batch["index"], scores.argmax(-1), batch["labels"], losses)
            rows += list(zip(*(column.tolist() for column in columns), strict=True))[:counted]
        rows = self.runtime.gather_rows(rows)
        _, predictions, labels, row_losses = zip(*sorted(rows), strict=True)
        check_outputs(torch.tensor(row_losses), self.model)
        values = compute(self.data.task.metrics, list(predictions), list(labels))
        return values | {"loss": sum(row_losses) / len(row_losses)}

    def _corpus(self) -> dict[str, float]:
        totals: list[Tensor] = []
        for batch, counted in self._batches():
            part = {key: value[:counted] for key, value in batch.items() if value.dim() and counted}
            if not part:
                continue
            scores = self.data.head(self.model, part).scores.float()
            wanted = part["labels"] != IGNORE
            loss = torch.nn.functional.cross_entropy(
                scores.flatten(0, 1), part["labels"].flatten(), ignore_index=IGNORE, reduction="sum"
            )
            correct = ((scores.argmax(-1) == part["labels"]) & wanted).sum()
            totals.append(torch.stack([loss.double(), correct.double(), wanted.sum().double()]))
        rows = self.runtime.gather_rows([t.tolist() for t in totals])
        loss_sum, correct_sum, count = (sum(column) for column in zip(*rows, strict=True))
        check_outputs(torch.tensor(loss_sum), self.model)
        return {"accuracy": correct_sum / count, "loss": loss_sum / count}

    def _squad(self) -> dict[str, float]:
        vocabulary = self.tokenizer.get_vocab()
        sentinels = [vocabulary[name] for i in range(100) if (name := f"<extra_id_{i}>") in vocabulary]
        found: list[tuple[str, str]] = []
        for batch, counted in self._batches():
            eos, start = self.tokenizer.eos_token_id, self.data.decoder_start
            ids = generate_answers(self.model, batch, sentinels, eos, start)
            texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            names = [self.data.examples[i].id for i in batch["index"].tolist()[:counted]]
            found += list(zip(names, (text.strip() for text in texts), strict=False))
        predictions = dict(self.runtime.gather_rows(found))
        return squad_scores(predictions, {e.id: list(e.answers) for e in self.data.examples})
