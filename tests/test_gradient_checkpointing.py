"""Layers that run again in the backward pass give the gradients of layers that run once."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model import (
    ModelError,
    PluginConfig,
    SparsityAxis,
    apply_edit,
    committed,
    enable_gradient_checkpointing,
    find_edit,
    sparsify,
)
from model.distillation import IntermediateDistillation, Supervised
from model.gradient_checkpointing import enable_for_trained
from model.heads import VerbalizerHead
from model.lora import LoraConfig
from model.plugin.config import Compat
from model.plugin.objective import Distil, PluginObjective, freeze_for
from model.schedule import Sandwich
from model.variants import VariantDistillation
from notation import get_model_type
from tests.helpers_decomposition import decomposed, decompositions, tiny_bert, tiny_inputs
from tests.helpers_enct5 import tiny_enct5
from tests.helpers_plugin import rows, tiny_t5, with_plugins
from tests.helpers_pruning import random_importance

pytestmark = pytest.mark.usefixtures("single_thread")

DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
COMPAT: tuple[Compat, ...] = ("native", "grouping", "original")
BERT_BATCH = {**tiny_inputs(), "labels": torch.tensor([0, 1])}


def t5_batch() -> dict[str, Tensor]:
    """Rows of unlike length, the longest no multiple of the ratios."""
    ids, mask = rows(7, 4, 2, to=7)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 1])}


def t5_objective(model: Any, distil: Distil = "no", ratios: tuple[int, ...] = ()) -> PluginObjective:
    freeze_for(model, distil, find_edit(model, LoraConfig) is not None, ratios)
    return PluginObjective(model, VerbalizerHead((5, 9), 3), distil, ratios)


def gradients(objective: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of one step as the training loop does it: a backward pass for each piece."""
    torch.manual_seed(7)
    objective.train()
    pieces = int(getattr(objective, "pieces", 1))
    for piece in range(pieces):
        loss, _ = objective(batch, piece) if pieces > 1 else objective(batch)
        loss.backward()
    return {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}


def kept_bytes(objective: nn.Module, batch: dict[str, Tensor]) -> int:
    """What a forward pass keeps for the backward pass, as far as torch knows of it."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = objective.train()(batch)
    del held
    return sum(sizes.values())


def assert_same_step(objective: nn.Module, batch: dict[str, Tensor]) -> None:
    """A copy of the objective that keeps less has the same gradients; of something, and not of more.

    Up to the order of summation, in float64: where a tensor is used twice, its gradients may come in another order.
    """
    again = copy.deepcopy(objective.double())
    assert enable_for_trained(again)
    expected = gradients(objective, batch)
    found = gradients(again, batch)
    assert expected.keys() == found.keys() and expected
    assert any(bool(gradient.any()) for gradient in expected.values())
    assert_equal(found, expected)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("ratios", [(4,), (2, 3)], ids=str)
@pytest.mark.parametrize("compat", COMPAT)
def test_plugins_of_every_mode(compat: Compat, ratios: tuple[int, ...]) -> None:
    """Backwards comes when the ratio is no longer in use and the mask is gone; rows are padded."""
    assert_same_step(t5_objective(with_plugins(compat=compat), "task-hidden", ratios), t5_batch())


def test_plugins_when_the_backward_pass_runs_in_another_thread() -> None:
    """As on a GPU: ratio and mask are per thread."""
    plain, again = (t5_objective(with_plugins(), "hidden", (4,)).double() for _ in range(2))
    enable_for_trained(again)
    expected = gradients(plain, t5_batch())
    loss, _ = again.train()(t5_batch())
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert_equal({name: p.grad for name, p in again.named_parameters() if p.grad is not None}, expected)


@pytest.mark.parametrize("compat", ["native", "original"])
def test_transformers_own_switch_stops_with_an_error(compat: Compat) -> None:
    """Never wrong gradients: layers that run again without ratio and mask do something else, which torch notices."""
    model = with_plugins(compat=compat)
    model.activation_checkpointing_enable()
    objective = t5_objective(model, "hidden", (4,)).train()
    loss, _ = objective(t5_batch())
    with pytest.raises(RuntimeError, match="recompute"):
        loss.backward()


def test_a_dense_t5_with_dropout() -> None:
    """Fine-tuning draws the same numbers twice."""
    assert_same_step(t5_objective(tiny_t5(dropout_rate=0.2)), t5_batch())


def test_lora() -> None:
    """The embedding is frozen and gets no gradient, as it would from Transformers' own switch."""
    model = tiny_t5()
    apply_edit(model, LoraConfig())
    with torch.no_grad():
        for module in LoraConfig().own_modules(model).values():
            for parameter in module.parameters():
                parameter.fill_(0.1)
    assert_same_step(t5_objective(model), t5_batch())
    assert model.shared.weight.grad is None


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_enct5(head: str) -> None:
    """The encoder inside a classifier that is no class of Transformers."""
    ids, mask = rows(7, 4, to=7)
    labels = torch.tensor([0, 1]) if head == "sequence" else ids % 3
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    assert_same_step(Supervised(tiny_enct5(head)), batch)


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("kind", [None, *decompositions()])
def test_a_bert_student_learns_states_and_scores(kind: str | None, layers: Any) -> None:
    """Scores are read inside the layers, with the teacher outside; dense and decomposed in every way."""
    teacher, student = tiny_bert(seed=1), tiny_bert(**DROPOUT)
    if kind is not None:
        student = decomposed(decompositions()[kind], **DROPOUT)
    assert_same_step(IntermediateDistillation(teacher, student, layers), BERT_BATCH)


def sandwich(scales: tuple[float, ...]) -> Sandwich:
    """A schedule's objective on a BERT of three heads."""
    teacher = tiny_bert(num_labels=2, **DROPOUT)
    sparsify(teacher, random_importance(teacher))
    student = committed(teacher, scales[0])
    variant = VariantDistillation(teacher, student, get_model_type("sparsebert_cls"))
    return Sandwich(variant, SparsityAxis(student, scales), scales, 0.2, scales[-1])


@pytest.mark.parametrize("scales", [(0.0, 0.5, 0.9), (0.9,)], ids=str)
def test_all_scales_of_a_pruned_bert(scales: tuple[float, ...]) -> None:
    """Each piece goes backwards before the next scale is selected; whole sub-layers are gone at 0.9."""
    assert_same_step(sandwich(scales), BERT_BATCH)


def test_all_scales_in_one_backward_pass_are_refused() -> None:
    """Layers would run again at the last scale; without gradients, in evaluation and without the switch nothing is."""
    objective = sandwich((0.0, 0.5)).train()
    objective(BERT_BATCH)
    enable_for_trained(objective)
    with pytest.raises(ModelError, match="2 scales need a backward pass each"):
        objective(BERT_BATCH)
    with torch.no_grad():
        objective(BERT_BATCH)
    objective.eval()(BERT_BATCH)


def test_less_is_kept() -> None:
    """Otherwise equal gradients would say nothing."""
    objectives: list[Callable[[], nn.Module]] = [
        lambda: Supervised(tiny_bert(num_hidden_layers=6)),
        lambda: t5_objective(with_plugins(num_layers=6, num_decoder_layers=6), "hidden", (4,)),
    ]
    for make, batch in zip(objectives, (BERT_BATCH, t5_batch()), strict=True):
        plain, again = make(), make()
        enable_for_trained(again)
        assert kept_bytes(again, batch) < kept_bytes(plain, batch) / 2


def test_the_teacher_is_left_alone() -> None:
    """It keeps nothing anyway."""
    teacher, student = tiny_bert(seed=1), tiny_bert()
    assert enable_for_trained(IntermediateDistillation(teacher, student)) == [student]
    assert student.is_activation_checkpointing and not teacher.is_activation_checkpointing


def test_a_model_whose_layers_cannot_is_refused() -> None:
    """And so is an objective without a model."""
    model = tiny_t5()
    model.supports_gradient_checkpointing = False
    with pytest.raises(ModelError, match="layers of T5ForConditionalGeneration cannot run twice"):
        enable_gradient_checkpointing(model)
    with pytest.raises(ModelError, match="Linear trains no Transformer"):
        enable_for_trained(nn.Linear(2, 2))


def test_plugins_on_a_pruned_t5() -> None:
    """Edits stack as ever."""
    model = tiny_t5()
    sparsify(model, random_importance(model), 2)
    model = committed(model, 0.4)
    apply_edit(model, PluginConfig((4,), 6))
    assert_same_step(t5_objective(model, "hidden", (4,)), t5_batch())
