"""MiniDisc's model types: which losses train a student, under the names of the release.

    loss = (hidden + soft + hard) / divisor  [+ weight · relation]

    hidden    mean of (hs - ht)² over compared layers and real tokens; pkdbert normalises each token's state first
    soft      T² · cross-entropy of softmax(t / T) and softmax(s / T), mean over rows; (s - t)² of one output
    hard      cross-entropy with the labels; (s - y)² in regression
    relation  see `model.relations`

    ftbert, ftenct5            hard
    kdbert                     (soft + hard) / 2
    pkdbert                    (hidden + soft + hard) / 3
    sparsebert, sparseenct5    (hidden + soft) / 2

Source: the formulas of case M3. Of tokens (`_ner`), only those with a label enter soft and hard.

Shapes: B batch, L length, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.distillation import FrozenTeacher, check_classes
from model.errors import ModelError
from model.inputs import model_inputs
from model.losses import IGNORE, labelled_cross_entropy, masked_mse, rowwise_soft_cross_entropy, task_loss
from model.relations import last_projections, relation_loss
from model.shares import share
from notation import ModelType

Batch = dict[str, Tensor]


class Targets(NamedTuple):
    """What a teacher says of a batch, without gradients.

    Attributes:
        logits: (B, C) or (B, L, C), None where nothing learns from them.
        hidden: all its hidden states (B, L, D), the embeddings first; empty where nothing learns from them.
        projections: see `model.relations.last_projections`; empty likewise.
    """

    logits: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()
    projections: Mapping[str, Tensor] = MappingProxyType({})


class VariantDistillation(nn.Module):
    """Trains a student as one of the model types.

    Teacher and student may differ in depth and in what is left inside their layers, not in width. They are called
    with `input_ids`, `attention_mask` and, if they know of them, `token_type_ids`; they give `logits` and, only where
    the type compares them, `hidden_states`.

    Attributes:
        student: the model that is trained.

    Args:
        teacher: None for a type that learns from labels alone (`ftbert`, `ftenct5`), which leaves a teacher unused.
        temperature: T.
        relation_heads: add MiniLM's relation loss, with so many heads.
        relation_weight: its factor.

    Raises:
        ModelError: the type needs a teacher, the two do not go together, or a number is out of range.
    """

    def __init__(
        self,
        teacher: PreTrainedModel | None,
        student: PreTrainedModel,
        model_type: ModelType,
        temperature: float = 1.0,
        relation_heads: int | None = None,
        relation_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ModelError(f"The temperature must be above 0, found {temperature}.")
        if relation_heads is not None and relation_heads < 1:
            raise ModelError(f"The number of relation heads must be at least 1, found {relation_heads}.")
        needs_teacher = model_type.needs_teacher or relation_heads is not None
        if needs_teacher and teacher is None:
            what = model_type.name if model_type.needs_teacher else "the relation loss"
            raise ModelError(f"Distilling with {what} needs a teacher.")
        if needs_teacher:
            _check_pair(teacher, student, model_type)
        self.teacher = FrozenTeacher(teacher) if needs_teacher and teacher is not None else None
        self.student, self.model_type, self.temperature = student, model_type, temperature
        self.relation_heads, self.relation_weight = relation_heads, relation_weight

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts (`hidden_loss`, `soft_loss`, `hard_loss`, `relation_loss`), each as in the formula."""
        return self.loss(batch, self.targets(batch))

    @torch.no_grad()
    def targets(self, batch: Batch) -> Targets:
        """What the teacher says: one forward pass of it, which can serve several students."""
        if self.teacher is None:
            return Targets()
        return self._run(self.teacher.model, batch)

    def loss(self, batch: Batch, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the student as it is now, against `targets`, and its parts."""
        kind, found = self.model_type, self._run(self.student, batch)
        assert found.logits is not None
        terms: dict[str, Tensor] = {}
        if kind.hidden is not None:
            hidden = self._hidden(targets.hidden, found.hidden, batch["attention_mask"])
            terms["hidden_loss"] = hidden * share(batch, "tokens")
        if kind.soft:
            assert targets.logits is not None
            terms["soft_loss"] = self._soft(found.logits, targets.logits, batch["labels"]) * share(batch, "labels")
        if kind.hard:
            hard = labelled_cross_entropy if kind.level == "token" else task_loss
            terms["hard_loss"] = hard(found.logits, batch["labels"]) * share(batch, "labels")
        loss = combine(kind, terms)
        if self.relation_heads is not None:
            mask, heads = batch["attention_mask"], self.relation_heads
            relation = relation_loss(targets.projections, found.projections, mask, heads)
            terms["relation_loss"] = relation * share(batch, "tokens")
            loss = loss + self.relation_weight * terms["relation_loss"]
        return loss, {name: term.detach() for name, term in terms.items()}

    def _run(self, model: Any, batch: Batch) -> Targets:
        """A forward pass that gives what the type compares."""
        inputs: dict[str, Any] = model_inputs(model, batch)
        if self.model_type.hidden is not None:
            inputs["output_hidden_states"] = True
        projections: dict[str, Tensor] = {}
        with nullcontext(projections) if self.relation_heads is None else last_projections(model) as projections:
            output = model(**inputs)
        hidden = () if self.model_type.hidden is None else tuple(output.hidden_states)
        return Targets(output.logits, hidden, projections)

    def _soft(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        counted = labels != IGNORE if self.model_type.level == "token" else None
        return soft_term(student, teacher, self.temperature, counted)

    def _hidden(self, teacher: tuple[Tensor, ...], student: tuple[Tensor, ...], mask_BL: Tensor) -> Tensor:
        normalized = self.model_type.hidden == "normalized"
        pairs = compared_layers(len(teacher) - 1, len(student) - 1)
        # Every layer has the same tokens, so this is the mean over the elements of all of them.
        return torch.stack([hidden_term(teacher[t], student[s], normalized, mask_BL) for s, t in pairs]).mean()


def combine(kind: ModelType, terms: Mapping[str, Tensor]) -> Tensor:
    """Sum of the terms over the type's divisor."""
    return torch.stack(list(terms.values())).sum() / kind.divisor


def soft_term(student_C: Tensor, teacher_C: Tensor, temperature: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """T² · cross-entropy of the teacher's and the student's class scores (..., C); (s - t)² where C is 1."""
    if student_C.shape[-1] == 1:
        return masked_mse(teacher_C, student_C, mask)
    return rowwise_soft_cross_entropy(student_C, teacher_C, temperature, mask)


def hidden_term(teacher_D: Tensor, student_D: Tensor, normalized: bool, mask: Tensor | None = None) -> Tensor:
    """Mean of (hs - ht)² over real tokens (..., D); `normalized` brings each token's state to length 1 before."""
    if normalized:
        teacher_D, student_D = (F.normalize(side.to(_float32(side)), dim=-1) for side in (teacher_D, student_D))
    return masked_mse(teacher_D, student_D, mask)


def compared_layers(teacher_depth: int, student_depth: int) -> list[tuple[int, int]]:
    """Pairs (student's, teacher's) of the hidden states that are compared; 0 are the embeddings.

    Of the student every max(1, L // 6)-th and the last, about seven; of the teacher those at the same share of its
    depth. The original had no layer below depth 6 and left the last one out where L // 6 does not divide L (M-3).
    """
    step = max(1, student_depth // 6)
    chosen = [*range(0, student_depth, step), student_depth]
    return [(layer, round(layer * teacher_depth / max(1, student_depth))) for layer in chosen]


def _check_pair(teacher: Any, student: Any, kind: ModelType) -> None:
    """Refuse a teacher whose classes or, where hidden states are compared, width are others."""
    check_classes(teacher.config, student.config)
    widths = teacher.config.hidden_size, student.config.hidden_size
    if kind.hidden is not None and widths[0] != widths[1]:
        raise ModelError(
            f"The student's width is {widths[1]}, the teacher's {widths[0]}: "
            f"{kind.name} compares hidden states, so they have to be equal."
        )


def _float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(torch.float32, tensor.dtype)
