"""The model types: what they minimise, on BERTs and EncT5s of any depth, and what they ask of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    BertForSequenceClassification,
    BertForTokenClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from model import ModelError
from model.enct5 import EncT5Config, EncT5ForSequenceClassification, EncT5ForTokenClassification
from model.inputs import model_inputs
from model.losses import labelled_cross_entropy, masked_mse, rowwise_soft_cross_entropy, soft_cross_entropy
from model.variants import VariantDistillation, compared_layers
from notation import MODEL_TYPES, ModelType, NotationError, get_model_type
from tests.tiny_bert import bert_config

CLASSES = 3
BERTS = {"sequence": BertForSequenceClassification, "token": BertForTokenClassification}
ENCT5S = {"sequence": EncT5ForSequenceClassification, "token": EncT5ForTokenClassification}


def bert(level: str = "sequence", layers: int = 2, seed: int = 0, **more: Any) -> Any:
    """A random classifier without dropout."""
    torch.manual_seed(seed)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
    return BERTS[level](bert_config(layers, **{**still, "num_labels": CLASSES, **more})).eval()


def enct5(level: str = "sequence", layers: int = 2, seed: int = 0, **more: Any) -> Any:
    """The same of the other family."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 60, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 2, "num_layers": layers}
    return ENCT5S[level](EncT5Config(**{**sizes, "num_labels": CLASSES, "dropout_rate": 0.0, **more})).eval()


def batch(level: str = "sequence", regression: bool = False) -> dict[str, Tensor]:
    """Three rows of seven, the last two positions of the last row padding; some tokens have no label."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 50, (3, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, 5:] = 0
    labels = torch.randint(0, CLASSES, (3, 7), generator=generator)
    labels[:, ::3] = -100
    labels[mask == 0] = -100
    if regression:
        labels = torch.tensor([0.5, 4.0, 2.5])
    elif level == "sequence":
        labels = torch.tensor([0, 2, 1])
    types = (torch.arange(7) >= 3).long().expand(3, 7)
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types * mask, "labels": labels}


def test_the_twelve_model_types_are_there() -> None:
    """Six names, for sequences and for tokens."""
    names = ("ftbert", "kdbert", "pkdbert", "sparsebert", "ftenct5", "sparseenct5")
    assert set(MODEL_TYPES) == {f"{name}_{level}" for name in names for level in ("cls", "ner")}
    for name, kind in MODEL_TYPES.items():
        assert kind.name == name and kind.level == ("token" if name.endswith("_ner") else "sequence")
        assert kind.divisor == kind.hard + kind.soft + (kind.hidden is not None)
        assert kind.family == ("enct5" if "enct5" in name else "bert")


def test_a_wrong_name_gets_the_near_ones() -> None:
    """Or all of them."""
    with pytest.raises(NotationError, match=r"no model type 'sparsebrt_cls'; did you mean sparsebert_cls"):
        get_model_type("sparsebrt_cls")
    with pytest.raises(NotationError, match=r"did you mean ftbert_cls or kdbert_cls or"):
        get_model_type("x")


# --- the losses ------------------------------------------------------------------------------------------------------


def reference(kind: ModelType, teacher: Any, student: Any, inputs: dict[str, Tensor], temperature: float) -> Tensor:
    """The formulas of the release, on selected rows."""
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    if kind.family == "bert":
        given["token_type_ids"] = inputs["token_type_ids"]
    t, s = (model(**given, output_hidden_states=True) for model in (teacher, student))
    (lt, ls), labels = (t.logits, s.logits), inputs["labels"]
    if kind.level == "token":
        lt, ls, labels = lt[labels != -100], ls[labels != -100], labels[labels != -100]
    regression = lt.shape[-1] == 1
    depth = len(s.hidden_states) - 1
    layers = range(0, depth + 1, max(1, depth // 6))
    ht, hs = (
        torch.stack([side.hidden_states[i] for i in layers], 1)[
            inputs["attention_mask"].bool()[:, None].expand(-1, len(layers), -1)
        ]
        for side in (t, s)
    )
    if kind.hidden == "normalized":
        ht, hs = F.normalize(ht, dim=-1), F.normalize(hs, dim=-1)
    soft = (-(lt / temperature).softmax(-1) * (ls / temperature).log_softmax(-1)).sum(-1).mean() * temperature**2
    soft = F.mse_loss(ls, lt) if regression else soft
    hard = F.mse_loss(ls.flatten(), labels) if regression else F.cross_entropy(ls, labels)
    return {
        "ft": hard,
        "kd": (soft + hard) / 2,
        "pkd": (F.mse_loss(hs, ht) + soft + hard) / 3,
        "sparse": (F.mse_loss(hs, ht) + soft) / 2,
    }[kind.name.split("bert")[0].split("enct5")[0]]


@pytest.mark.parametrize("name", MODEL_TYPES)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_loss_is_the_releases_formula(name: str, temperature: float) -> None:
    """For every model type, with padding and unlabelled tokens; gradients reach the student alone."""
    kind = get_model_type(name)
    make: Callable[..., Any] = bert if kind.family == "bert" else enct5
    teacher, student, inputs = make(kind.level, 2, 0), make(kind.level, 2, 1), batch(kind.level)
    expected = reference(kind, teacher, student, inputs, temperature)
    objective = VariantDistillation(teacher, student, kind, temperature)
    loss, parts = objective(inputs)
    torch.testing.assert_close(loss, expected)
    assert not any(part.requires_grad for part in parts.values())
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.parametrize("name", [name for name in MODEL_TYPES if name.endswith("cls")])
def test_regression_has_squared_errors(name: str) -> None:
    """With the teacher's score and with the label."""
    kind = get_model_type(name)
    make: Callable[..., Any] = bert if kind.family == "bert" else enct5
    teacher, student = make(layers=2, seed=0, num_labels=1), make(layers=2, seed=1, num_labels=1)
    inputs = batch(regression=True)
    loss, _ = VariantDistillation(teacher, student, kind, 2.0)(inputs)
    torch.testing.assert_close(loss, reference(kind, teacher, student, inputs, 2.0))


def test_rowwise_soft_cross_entropy_is_the_other_releases_times_classes_and_t_squared() -> None:
    """The two originals differ in a factor only."""
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    found = rowwise_soft_cross_entropy(student, teacher, 2.0)
    torch.testing.assert_close(found, soft_cross_entropy(student, teacher, 2.0) * 3 * 4)


def test_a_batch_without_a_label_is_no_nan() -> None:
    """Losses of tokens are 0 then, with gradients of 0."""
    logits = torch.randn(2, 4, CLASSES, requires_grad=True)
    labels = torch.full((2, 4), -100)
    loss = labelled_cross_entropy(logits, labels) + rowwise_soft_cross_entropy(logits, logits * 2, 1.0, labels != -100)
    loss.backward()
    assert loss.item() == 0.0 and logits.grad is not None and not logits.grad.any()


def test_masked_mse_is_the_mean_over_selected_rows() -> None:
    """Padding counts neither in the sum nor in the number of elements."""
    teacher, student, mask = torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    kept = mask.bool()
    torch.testing.assert_close(masked_mse(teacher, student, mask), F.mse_loss(student[kept], teacher[kept]))


# --- depths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(1, [0, 1]), (4, [0, 1, 2, 3, 4]), (6, list(range(7))), (12, list(range(0, 13, 2))), (13, [*range(0, 13, 2), 13])],
)
def test_layers_are_compared_at_any_depth(depth: int, expected: list[int]) -> None:
    """Every max(1, L // 6)-th and the last (the original fails below 6 and leaves out the last of 13)."""
    assert compared_layers(depth, depth) == [(layer, layer) for layer in expected]


def test_a_shallower_student_looks_at_the_teachers_share_of_depth() -> None:
    """From the embeddings to the last layer."""
    assert compared_layers(12, 4) == [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12)]
    assert compared_layers(6, 4) == [(0, 0), (1, 2), (2, 3), (3, 4), (4, 6)]
    assert compared_layers(7, 13)[-1] == (13, 7)


@pytest.mark.parametrize(("deep", "shallow"), [(1, 1), (3, 1), (5, 5), (8, 3), (13, 13)])
@pytest.mark.parametrize("name", ["sparsebert_cls", "pkdbert_ner", "sparseenct5_ner"])
def test_every_depth_trains(name: str, deep: int, shallow: int) -> None:
    """Layer-dropped students included."""
    kind = get_model_type(name)
    make: Callable[..., Any] = bert if kind.family == "bert" else enct5
    loss, _ = VariantDistillation(make(kind.level, deep), make(kind.level, shallow, 1), kind)(batch(kind.level))
    loss.backward()
    assert loss.isfinite()


def test_a_student_that_equals_its_teacher_has_no_hidden_loss() -> None:
    """And the soft loss is the teacher's entropy."""
    model, inputs = bert(), batch()
    _, parts = VariantDistillation(model, bert(), get_model_type("sparsebert_cls"))(inputs)
    assert parts["hidden_loss"] == 0
    p = model(**model_inputs(model, inputs)).logits.softmax(-1)
    torch.testing.assert_close(parts["soft_loss"], -(p * p.log()).sum(-1).mean())


# --- what is asked of models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kdbert_cls", "sparsebert_cls", "ftbert_cls"])
def test_hidden_states_are_asked_for_only_where_they_are_compared(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a teacher that nothing learns from is not run."""
    kind, asked = get_model_type(name), []
    original = BertForSequenceClassification.forward

    def seen(self: Any, *args: Any, **given: Any) -> Any:
        asked.append(given.get("output_hidden_states", False))
        return original(self, *args, **given)

    monkeypatch.setattr(BertForSequenceClassification, "forward", seen)
    monkeypatch.setattr("model.variants.model_inputs", lambda model, batch: {"input_ids": batch["input_ids"]})
    VariantDistillation(bert(), bert(seed=1), kind)(batch())
    assert asked == [kind.hidden is not None] * (2 if kind.needs_teacher else 1)


def test_targets_serve_several_students() -> None:
    """One teacher pass: targets and loss are the two halves of the whole, and carry no graph."""
    inputs = batch()
    objective = VariantDistillation(bert(), bert(seed=1), get_model_type("pkdbert_cls"), relation_heads=2)
    targets = objective.targets(inputs)
    assert not any(t.requires_grad for t in (targets.logits, *targets.hidden, *targets.projections.values()))  # type: ignore[union-attr]
    expected, _ = objective(inputs)
    for _ in range(2):
        torch.testing.assert_close(objective.loss(inputs, targets)[0], expected)


def test_token_types_go_to_models_that_have_them() -> None:
    """BERT has two; RoBERTa's one embedding would be out of range; a model that does not name them gets none."""
    inputs = batch()
    assert "token_type_ids" in model_inputs(bert(), inputs)
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = RobertaConfig(**sizes, intermediate_size=24, num_labels=CLASSES, type_vocab_size=1)
    teacher, student = (RobertaForSequenceClassification(config) for _ in range(2))
    assert "token_type_ids" not in model_inputs(teacher, inputs)
    loss, _ = VariantDistillation(teacher, student, get_model_type("sparsebert_cls"))(inputs)
    assert loss.isfinite()
    del inputs["token_type_ids"]
    assert set(model_inputs(bert(), inputs)) == {"input_ids", "attention_mask"}


def test_relations_are_added_with_their_weight() -> None:
    """Beside the type's own loss; also for one that needs no teacher otherwise."""
    inputs = batch()
    for name in ("sparsebert_cls", "ftbert_cls"):
        plain, _ = VariantDistillation(bert(), bert(seed=1), get_model_type(name))(inputs)
        added, parts = VariantDistillation(bert(), bert(seed=1), get_model_type(name), 1.0, 2, 0.5)(inputs)
        assert parts["relation_loss"] > 0
        torch.testing.assert_close(added, plain + 0.5 * parts["relation_loss"])


@pytest.mark.parametrize("name", ["kdbert_cls", "pkdbert_cls", "sparsebert_ner"])
def test_losses_are_float32_under_autocast(name: str) -> None:
    """bf16 models, float32 losses, near to those in full precision."""
    kind = get_model_type(name)
    inputs = batch(kind.level)
    objective = VariantDistillation(bert(kind.level), bert(kind.level, seed=1), kind, relation_heads=2)
    exact, _ = objective(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        loss, parts = objective(inputs)
    assert loss.dtype == torch.float32 and all(part.dtype == torch.float32 for part in parts.values())
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0.05)
    loss.backward()


def test_the_teacher_stays_frozen_and_still() -> None:
    """Training mode reaches the student alone."""
    objective = VariantDistillation(bert(), bert(seed=1), get_model_type("sparsebert_cls")).train()
    assert objective.teacher is not None and not objective.teacher.model.training and objective.student.training
    names = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
    assert names and all(name.startswith("student.") for name in names)


def test_pairs_that_do_not_go_together_are_refused() -> None:
    """No teacher, other classes, another width where hidden states are compared; numbers out of range."""
    sparse, kd = get_model_type("sparsebert_cls"), get_model_type("kdbert_cls")
    narrow = bert(hidden_size=16)
    with pytest.raises(ModelError, match="Distilling with sparsebert_cls needs a teacher"):
        VariantDistillation(None, bert(), sparse)
    with pytest.raises(ModelError, match="the relation loss needs a teacher"):
        VariantDistillation(None, bert(), get_model_type("ftbert_cls"), relation_heads=2)
    with pytest.raises(ModelError, match="The teacher has 2 classes, the student 3"):
        VariantDistillation(bert(num_labels=2), bert(), kd)
    with pytest.raises(ModelError, match="The student's width is 16, the teacher's 32: sparsebert_cls compares"):
        VariantDistillation(bert(), narrow, sparse)
    assert VariantDistillation(bert(), narrow, kd)(batch())[0].isfinite()
    with pytest.raises(ModelError, match="temperature must be above 0, found 0"):
        VariantDistillation(bert(), bert(), kd, temperature=0)
    with pytest.raises(ModelError, match="relation heads must be at least 1, found 0"):
        VariantDistillation(bert(), bert(), kd, relation_heads=0)
    assert VariantDistillation(None, bert(), get_model_type("ftbert_cls"))(batch())[0].isfinite()
