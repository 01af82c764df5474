"""Pieces of a sandwich share one backward pass of the student's embedding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import profile

from model import ModelError, PluginConfig, RatioAxis, SparsityAxis, apply_edit, sparsify
from model.schedule import Sandwich
from model.variants import VariantDistillation
from notation import MODEL_TYPES
from tests.helpers_decomposition import tiny_inputs
from tests.helpers_edits import scramble
from tests.helpers_enct5 import tiny_enct5
from tests.helpers_enct5 import tiny_inputs as t5_inputs
from tests.helpers_pruning import pruned_bert, random_importance

pytestmark = pytest.mark.usefixtures("single_thread")
SCALES = (0.0, 0.5, 0.8)


def sandwich(family: str) -> tuple[Sandwich, dict[str, Tensor]]:
    """Three scales of a tiny student, and a batch."""
    teacher = pruned_bert() if family == "bert" else tiny_enct5(d_kv=8, num_heads=4, d_ff=32).double()
    student = copy.deepcopy(teacher)
    sparsify(student, random_importance(student))
    batch = {**(tiny_inputs() if family == "bert" else t5_inputs())}
    batch["labels"] = torch.zeros(len(batch["input_ids"]), dtype=torch.long)
    kind = MODEL_TYPES["sparsebert_cls" if family == "bert" else "sparseenct5_cls"]
    axis: Any = SparsityAxis(student, SCALES)
    return Sandwich(VariantDistillation(teacher, student, kind), axis, SCALES, 0.2, 0.8), batch


def over_ratios() -> tuple[Sandwich, dict[str, Tensor]]:
    """The same with a BERT's plugins, over rows of a length that no ratio divides."""
    teacher = pruned_bert()
    student = copy.deepcopy(teacher)
    apply_edit(student, PluginConfig((2, 4), bottleneck=4))
    scramble(student, PluginConfig((2, 4), bottleneck=4))
    batch = {**tiny_inputs(), "labels": torch.zeros(2, dtype=torch.long)}
    assert batch["input_ids"].shape[1] % 2
    axis, scales = RatioAxis(student, (0.0, 0.5, 0.75)), (0.0, 0.5, 0.75)
    return Sandwich(
        VariantDistillation(teacher, student.double(), MODEL_TYPES["sparsebert_cls"]), axis, scales, 0.2, 0.75
    ), batch


def by_pieces(objective: Sandwich, batch: dict[str, Tensor]) -> None:
    """As the training loop does it."""
    for piece in range(objective.pieces):
        objective(batch, piece)[0].backward()


@pytest.mark.parametrize("kind", ["bert", "enct5", "bert-ratios"])
def test_gradients_are_those_of_the_whole_loss(kind: str) -> None:
    """Also over two micro-batches whose gradients add up."""
    objective, batch = over_ratios() if kind == "bert-ratios" else sandwich(kind)
    found = []
    for backward in (lambda: objective(batch)[0].backward(), lambda: by_pieces(objective, batch)):
        objective.zero_grad()
        backward()
        backward()
        found.append({name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and any("embed" in name or "shared" in name for name in found[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-10, atol=1e-12)


def test_the_table_of_gradients_is_made_once() -> None:
    """It is as large as the vocabulary; position and type tables, of which each scale makes its own, are small."""
    objective, batch = sandwich("bert")
    with profile() as recorded:
        by_pieces(objective, batch)
    made = {event.key: event.count for event in recorded.key_averages()}["aten::embedding_dense_backward"]
    assert made == 1 + 2 * len(SCALES)


def test_pieces_that_do_not_go_backwards_in_turn_are_refused() -> None:
    """Their gradients would be missing."""
    objective, batch = sandwich("bert")
    losses = [objective(batch, piece)[0] for piece in range(objective.pieces)]
    with pytest.raises(ModelError, match="must go backwards before the next"):
        losses[-1].backward()
