"""What is minimised when a BERT learns from another one: the encoder's inside, the predictions, or labels alone.

Source: Jiao et al. 2020 (TinyBERT, arXiv:1909.10351), as used by Xcompression. All objectives are modules whose
`forward(batch)` gives (loss, {name: detached scalar}) for the engine's training loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.attention_scores import Batch, Traced, trace, use_attention_scores
from model.errors import ModelError
from model.inputs import model_inputs
from model.losses import IGNORE, hidden_mse, score_mse, soft_cross_entropy, task_loss, token_accuracy
from model.shares import share

Layers = Literal["last", "all"]
Reduction = Literal["batch_sum", "mean"]


class FrozenTeacher(nn.Module):
    """The one place where a teacher is frozen: no gradients, never in training mode (so no dropout), no graph."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stays in evaluation mode whatever is asked of the module around it."""
        super().train(False)
        return self

    @torch.no_grad()
    def trace(self, batch: Batch, layers: Sequence[int]) -> Traced:
        """Hidden states and scores of `layers`; see `model.attention_scores.trace`."""
        return trace(self.model, batch, layers)

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Class scores (B, C)."""
        return classify(self.model, batch)


class IntermediateDistillation(nn.Module):
    """Hidden states and attention scores of the student's layers against those of the teacher's (X4; X7, stage 1).

        loss = Σ over layers of mse(hidden) + mse(scores)          `mean`
        loss · B                                                   `batch_sum`, the original

    B is the number of rows of a batch over all processes: the original's loop runs over the batch where layers were
    meant, so its loss, with which its learning rates go, is a sum over the batch of per-example means.

    Args:
        teacher, student: BERTs of equal width, number of heads and vocabulary.
        layers: `last` compares the last layers; `all` compares student layer i = 1 … Ls with teacher layer i · Lt / Ls.
        reduction: see above.

    Raises:
        ModelError: the two models do not go together.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        student: PreTrainedModel,
        layers: Layers = "last",
        reduction: Reduction = "batch_sum",
    ) -> None:
        super().__init__()
        self.pairs = matched_layers(teacher.config, student.config, layers)
        use_attention_scores(teacher)
        use_attention_scores(student)
        self.teacher, self.student = FrozenTeacher(teacher), student
        self.reduction = reduction
        freeze_outside_encoder(student)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts (`hidden_loss`, `attention_loss`), reduced alike."""
        hidden, attention = self.compare(batch)
        if self.reduction == "batch_sum":
            rows = batch.get("num_global_rows")
            factor = batch["input_ids"].shape[0] if rows is None else float(rows)
            hidden, attention = hidden * factor, attention * factor
        return hidden + attention, {"hidden_loss": hidden.detach(), "attention_loss": attention.detach()}

    def compare(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums over the compared layers of mse(hidden) and of mse(scores); means over the batch."""
        student_layers, teacher_layers = zip(*self.pairs, strict=True)
        teacher = self.teacher.trace(batch, teacher_layers)
        student = trace(self.student, batch, student_layers)
        hidden = [hidden_mse(t, s) for t, s in zip(teacher.hidden, student.hidden, strict=True)]
        attention = [score_mse(t, s) for t, s in zip(teacher.scores, student.scores, strict=True)]
        return torch.stack(hidden).sum(), torch.stack(attention).sum()


#: General distillation is the same loss, on text instead of on a task (X4).
GeneralDistillation = IntermediateDistillation


class PredictionDistillation(nn.Module):
    """The student's class scores against the teacher's; for regression its score against the labels (X7, stage 2).

    Args:
        temperature: divides both sides' scores.
    """

    def __init__(self, teacher: PreTrainedModel, student: PreTrainedModel, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ModelError(f"The temperature must be above 0, found {temperature}.")
        check_classes(teacher.config, student.config)
        self.teacher, self.student, self.temperature = FrozenTeacher(teacher), student, temperature

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and, for classes, the accuracy on the labels."""
        logits, labels = classify(self.student, batch), batch["labels"]
        if labels.is_floating_point():  # the original leaves the teacher out here
            return task_loss(logits, labels), {}
        targets = self.teacher.logits(batch)
        if labels.dim() > 1:  # of tagged words only those with a label
            counted = labels != IGNORE
            logits, targets, labels = logits[counted], targets[counted], labels[counted]
        of_labels = share(batch, "labels")
        loss = soft_cross_entropy(logits, targets, self.temperature) * of_labels
        return loss, {"accuracy": token_accuracy(logits.detach(), labels) * of_labels}


class Supervised(nn.Module):
    """A classifier on the labels alone: fine-tuning."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.student = model

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and, for classes, the accuracy."""
        logits, labels = classify(self.student, batch), batch["labels"]
        if labels.is_floating_point():
            return task_loss(logits, labels), {}
        of_labels = share(batch, "labels")
        return task_loss(logits, labels) * of_labels, {"accuracy": token_accuracy(logits.detach(), labels) * of_labels}


def classify(model: Any, batch: Batch) -> Tensor:
    """Class scores (B, C) of a sequence classifier."""
    logits: Tensor = model(**model_inputs(model, batch)).logits
    return logits


def matched_layers(teacher: Any, student: Any, layers: Layers) -> list[tuple[int, int]]:
    """Pairs (student layer, teacher layer), counted from 0, whose insides are compared.

    Raises:
        ModelError: depths do not divide, or sizes differ where the losses need them equal.
    """
    deep, shallow = teacher.num_hidden_layers, student.num_hidden_layers
    if deep % shallow:
        raise ModelError(
            f"The student's {shallow} layers do not divide the teacher's {deep}: each student layer learns from "
            f"the teacher layer at its share of the depth, so choose a student of {_divisors(deep)} layers."
        )
    for name, what in (
        ("hidden_size", "width"),
        ("num_attention_heads", "number of attention heads"),
        ("vocab_size", "vocabulary size"),
    ):
        if (found := getattr(student, name)) != (wanted := getattr(teacher, name)):
            raise ModelError(f"The student's {what} is {found}, the teacher's {wanted}: they have to be equal.")
    chosen = range(shallow) if layers == "all" else [shallow - 1]
    return [(layer, (layer + 1) * deep // shallow - 1) for layer in chosen]


def check_classes(teacher: Any, student: Any) -> None:
    """Refuse a teacher of another task.

    Raises:
        ModelError: other classes, or the same in another order.
    """
    names, wanted = ([model.id2label[i] for i in range(model.num_labels)] for model in (teacher, student))
    if len(names) != len(wanted):
        raise ModelError(
            f"The teacher has {len(names)} classes, the student {len(wanted)}: was it fine-tuned for this task?"
        )
    if names != wanted and set(names) == set(wanted):
        raise ModelError(f"The teacher orders its classes {', '.join(names)}, the student {', '.join(wanted)}.")


def freeze_outside_encoder(student: PreTrainedModel) -> None:
    """Train embeddings, layers and what edits added to them; pooler and head have no part in the loss."""
    base: Any = student.base_model
    trained = {id(p) for name, p in base.named_parameters() if not name.startswith("pooler.")}
    for parameter in student.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def _divisors(depth: int) -> str:
    return " or ".join(str(n) for n in range(1, depth + 1) if depth % n == 0)
