"""MiniLM's relation loss against its definition, written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from model import ModelError
from model.pruning import Importance, SparsityAxis, sparsify
from model.relations import last_projections, relation_loss
from model.variants import VariantDistillation
from notation import get_model_type
from tests.tiny_bert import bert_config

INNER = 12


def sides(teacher_inner: int = INNER, student_inner: int = INNER, rows: int = 3) -> list[dict[str, Tensor]]:
    """Queries, keys and values of both sides, five tokens each."""
    generator = torch.Generator().manual_seed(0)
    return [
        {name: torch.randn(rows, 5, inner, generator=generator) for name in ("query", "key", "value")}
        for inner in (teacher_inner, student_inner)
    ]


def mask() -> Tensor:
    return torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])


def by_definition(teacher: dict[str, Tensor], student: dict[str, Tensor], heads: int) -> float:
    """Example by example, without any padding, head by head, token by token."""
    total = 0.0
    for name in teacher:
        divergences = []
        for row, length in enumerate(mask().sum(1).tolist()):
            relations = []
            for side in (teacher, student):
                a = side[name][row, :length].double()
                size = a.shape[-1] // heads
                pieces = [a[:, i * size : (i + 1) * size] for i in range(heads)]
                relations.append([(piece @ piece.T / size**0.5).softmax(-1) for piece in pieces])
            for t, s in zip(*relations, strict=True):
                divergences += (t * (t / s).log()).sum(-1).tolist()
        total += sum(divergences) / len(divergences)
    return total


@pytest.mark.parametrize(("heads", "student_inner"), [(1, 12), (3, 12), (4, 8), (2, 2)])
def test_the_loss_is_its_definition(heads: int, student_inner: int) -> None:
    """Also for a student with fewer heads left: relations have no width."""
    teacher, student = sides(INNER, student_inner)
    found = relation_loss(teacher, student, mask(), heads)
    assert found.item() == pytest.approx(by_definition(teacher, student, heads), rel=1e-5)


def test_equal_relations_have_no_loss() -> None:
    """Turning the space of a relation head leaves relations, and so the loss, as they are."""
    teacher, _ = sides()
    turn, _ = torch.linalg.qr(torch.randn(INNER // 2, INNER // 2, generator=torch.Generator().manual_seed(1)))
    turned = {name: (a.unflatten(-1, (2, -1)) @ turn).flatten(-2) for name, a in teacher.items()}
    assert abs(relation_loss(teacher, turned, mask(), 2).item()) < 1e-5
    assert relation_loss(teacher, turned, mask(), 4).item() > 1e-2


def test_padding_has_no_part() -> None:
    """Whatever stands there, in rows and in columns; a row of padding alone gives no NaN."""
    teacher, student = sides()
    expected = relation_loss(teacher, student, mask(), 3)
    for side in (teacher, student):
        for a in side.values():
            a[mask() == 0] = 50.0
    student["key"].requires_grad_()
    found = relation_loss(teacher, student, mask(), 3)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert student["key"].grad is not None and not student["key"].grad[mask() == 0].any()
    empty = mask() * torch.tensor([[1], [0], [1]])
    assert relation_loss(teacher, student, empty, 3).isfinite()


@pytest.mark.parametrize(("inner", "whose"), [((12, 12), "teacher's query"), ((20, 12), "student's query")])
def test_heads_that_do_not_divide_are_told(inner: tuple[int, int], whose: str) -> None:
    """With the side whose width it is."""
    teacher, student = sides(*inner)
    with pytest.raises(ModelError, match=f"5 relation heads do not divide the width 12 of the {whose} projection"):
        relation_loss(teacher, student, mask(), 5)


def test_no_attention_is_told() -> None:
    """A side without any projection."""
    teacher, _ = sides()
    with pytest.raises(ModelError, match="The student has no attention left"):
        relation_loss(teacher, {}, mask(), 3)


def test_the_products_stay_in_float32_under_autocast() -> None:
    """The loss of bf16 projections is that of the same numbers in float32."""
    teacher, student = ({name: a.bfloat16() for name, a in side.items()} for side in sides())
    wide_teacher, wide_student = ({name: a.float() for name, a in side.items()} for side in (teacher, student))
    exact = relation_loss(wide_teacher, wide_student, mask(), 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = relation_loss(teacher, student, mask(), 3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact)


def test_the_last_layers_projections_are_collected_and_hooks_removed() -> None:
    """As the layer computes them, with their graph; a module that was exchanged later is seen as well."""
    torch.manual_seed(0)
    model: Any = BertForSequenceClassification(bert_config(2)).eval()
    inputs = {"input_ids": torch.arange(5, 15).view(2, 5)}
    last = model.bert.encoder.layer[-1].attention.self
    last.query = torch.nn.Linear(32, 32)
    with last_projections(model) as found:
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    for name in ("query", "key", "value"):
        torch.testing.assert_close(found[name], getattr(last, name)(hidden[1]))
        assert found[name].requires_grad and not getattr(last, name)._forward_hooks


@torch.no_grad()
@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5])
def test_pruned_students_are_compared_while_nested_and_when_cut(sparsity: float) -> None:
    """The same loss of both; at 0.5 the last attention is gone, and the layer before it is compared."""
    torch.manual_seed(0)
    teacher, student = (BertForSequenceClassification(bert_config(2, initializer_range=0.2)).eval() for _ in range(2))
    heads = (torch.tensor([8.0, 7.0, 6.0, 5.0]), torch.tensor([4.0, 3.0, 2.0, 1.0]))
    sparsify(student, Importance(heads, (torch.arange(64.0), torch.arange(64.0))))
    axis = SparsityAxis(student, (0.0, 0.25, 0.5))
    ids = torch.arange(5, 15).view(2, 5)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1])}
    losses = []
    axis.select(sparsity)
    for model in (student, axis.commit(sparsity).eval()):
        objective = VariantDistillation(teacher, model, get_model_type("sparsebert_cls"), relation_heads=8)
        losses.append(objective(batch)[1]["relation_loss"])
        with last_projections(model) as found:
            model(input_ids=ids)
        assert found["query"].shape[-1] == (32 if sparsity in (0.0, 0.5) else 16)
    torch.testing.assert_close(*losses)
    assert losses[0] > 0
