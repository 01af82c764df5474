"""The objectives, the attention scores and BertAdam, on tensors and on BERTs of a few thousand parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification, BertModel

from dataset.classification import PairCollator, encode_pairs, truncate_pair
from dataset.collate import Collator
from dataset.glue import GlueExample
from model import DecompositionConfig, ModelError, apply_edit
from model.attention_scores import MASKED_SCORE, trace, use_attention_scores
from model.distillation import (
    FrozenTeacher,
    IntermediateDistillation,
    PredictionDistillation,
    Supervised,
    classify,
    matched_layers,
)
from model.losses import hidden_mse, score_mse, soft_cross_entropy, task_loss
from tests.tiny_bert import WIDTH, bert_config, tiny_word_pieces
from utils.engine.optimisation import build_optimizer


def bert(layers: int = 2, seed: int = 0, **more: Any) -> Any:
    """A random encoder without dropout (unless asked for)."""
    torch.manual_seed(seed)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
    return BertModel(bert_config(layers, **{**still, **more})).eval()


def classifier(layers: int = 2, seed: int = 0, **more: Any) -> Any:
    """The same with a classifier."""
    torch.manual_seed(seed)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
    return BertForSequenceClassification(bert_config(layers, **{**still, **more})).eval()


def batch(rows: int = 3, length: int = 7, padded: int = 2) -> dict[str, Tensor]:
    """Rows of two segments; the last `padded` positions of the last row are padding."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 50, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, length - padded :] = 0
    types = (torch.arange(length) >= length // 2).long().expand(rows, length)
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types * mask}


# --- attention scores ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [bert, classifier])
@pytest.mark.parametrize("layers", [[1], [0, 2], [0, 1, 2]])
def test_scores_are_those_of_eager_attention_and_hidden_states_those_of_sdpa(make: Any, layers: list[int]) -> None:
    """Softmax of the scores gives eager's probabilities; hidden states do not change with what is looked at."""
    model, inputs = make(3), batch()
    plain = model.base_model(**inputs, output_hidden_states=True)
    model.set_attn_implementation("eager")
    eager = model.base_model(**inputs, output_attentions=True)
    use_attention_scores(model)
    found = trace(model, inputs, layers)
    assert len(found.scores) == len(found.hidden) == len(layers)
    for layer, hidden, scores in zip(layers, found.hidden, found.scores, strict=True):
        torch.testing.assert_close(hidden, plain.hidden_states[layer + 1], rtol=1e-5, atol=4e-5)
        torch.testing.assert_close(scores.softmax(-1), eager.attentions[layer], rtol=1e-5, atol=4e-6)


def test_scores_are_products_plus_the_originals_mask() -> None:
    """q · k / sqrt(head size), -10000 added at padded keys and nowhere else."""
    model, inputs = bert(1), batch()
    use_attention_scores(model)
    (scores,) = trace(model, inputs, [0]).scores
    block = model.encoder.layer[0].attention.self
    entered = model.embeddings(input_ids=inputs["input_ids"], token_type_ids=inputs["token_type_ids"])
    q, k = (m(entered).unflatten(-1, (4, -1)).transpose(1, 2) for m in (block.query, block.key))
    expected = q @ k.mT / (WIDTH // 4) ** 0.5
    expected[-1, :, :, -2:] += MASKED_SCORE
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=4e-5)


def test_only_wanted_layers_compute_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others run sdpa; without a wish all of them do."""
    from model import attention_scores

    model, inputs = bert(3), batch()
    use_attention_scores(model)
    ran: list[int] = []
    original = attention_scores.sdpa_attention_forward

    def counted(module: Any, *args: Any, **kwargs: Any) -> Any:
        ran.append(module.layer_idx)
        return original(module, *args, **kwargs)

    monkeypatch.setattr(attention_scores, "sdpa_attention_forward", counted)
    trace(model, inputs, [2])
    assert ran == [0, 1]
    model(**inputs)
    assert ran == [0, 1, 0, 1, 2]


def test_saved_models_do_not_remember_the_attention(tmp_path: Any) -> None:
    """A model that was traced is saved as any other."""
    model = bert()
    use_attention_scores(model)
    model.save_pretrained(tmp_path)
    assert "attention_scores" not in (tmp_path / "config.json").read_text()
    assert BertModel.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


# --- losses ----------------------------------------------------------------------------------------------------------


def test_masked_scores_count_as_zero_on_each_side_separately() -> None:
    """-100 is masked, -99.9 is not; where one side alone is masked, the other's square counts."""
    teacher = torch.tensor([-100.0, -99.9, 3.0, -10000.0]).view(1, 1, 1, 4)
    student = torch.tensor([2.0, -99.9, -10000.0, -10001.0]).view(1, 1, 1, 4)
    assert score_mse(teacher, student) == pytest.approx((2.0**2 + 0 + 3.0**2 + 0) / 4)


def test_soft_cross_entropy_is_the_usual_one_over_the_number_of_classes() -> None:
    """Mean over batch and classes, no T²."""
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    usual = torch.nn.functional.cross_entropy(student / 2, (teacher / 2).softmax(-1))
    assert soft_cross_entropy(student, teacher, 2.0) == pytest.approx(float(usual) / 3, rel=1e-5)


def test_task_loss_is_of_classes_or_of_scores() -> None:
    """Class ids: cross-entropy; float labels: the mean squared error of the one output."""
    logits = torch.randn(4, 3)
    labels = torch.tensor([0, 1, 2, 1])
    assert task_loss(logits, labels) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))
    scores = torch.tensor([0.5, 1.0, 2.0, 5.0])
    assert task_loss(logits[:, :1], scores) == pytest.approx(float((logits[:, 0] - scores).square().mean()))


# --- objectives ------------------------------------------------------------------------------------------------------


def test_last_layer_loss_is_the_sum_over_rows_or_their_mean() -> None:
    """batch_sum is rows times the mean; over two processes, times the rows of both."""
    teacher, student, inputs = bert(4, 0), bert(2, 1), batch()
    mean, _ = IntermediateDistillation(teacher, student, "last", "mean")(inputs)
    summed, parts = IntermediateDistillation(teacher, student, "last", "batch_sum")(inputs)
    torch.testing.assert_close(summed, mean * 3)
    torch.testing.assert_close(summed.detach(), parts["hidden_loss"] + parts["attention_loss"])
    counted = {**inputs, "num_global_rows": torch.tensor(6)}
    shared, _ = IntermediateDistillation(teacher, student, "last", "batch_sum")(counted)
    torch.testing.assert_close(shared, mean * 6)
    expected = hidden_mse(teacher(**inputs).last_hidden_state, student(**inputs).last_hidden_state)
    single = IntermediateDistillation(teacher, student).compare(inputs)[0]
    torch.testing.assert_close(single, expected, rtol=1e-5, atol=4e-6)


def test_all_layers_are_matched_at_their_share_of_the_depth() -> None:
    """Student layers 1, 2 of a teacher of 4: its layers 2, 4; the loss is the sum over the pairs."""
    teacher, student, inputs = bert(4, 0), bert(2, 1), batch()
    assert matched_layers(teacher.config, student.config, "all") == [(0, 1), (1, 3)]
    assert matched_layers(teacher.config, student.config, "last") == [(1, 3)]
    objective = IntermediateDistillation(teacher, student, "all", "mean")
    seen, learnt = trace(teacher, inputs, [1, 3]), trace(student, inputs, [0, 1])
    hidden = sum(hidden_mse(t, s) for t, s in zip(seen.hidden, learnt.hidden, strict=True))
    scores = sum(score_mse(t, s) for t, s in zip(seen.scores, learnt.scores, strict=True))
    torch.testing.assert_close(objective(inputs)[0], hidden + scores)


def test_a_copy_of_the_teacher_has_no_loss() -> None:
    """The same weights on both sides: zero."""
    loss, _ = IntermediateDistillation(bert(2, 0), bert(2, 0), "all")(batch())
    assert loss.item() == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, "student's 3 layers do not divide the teacher's 4.* 1 or 2 or 4 layers"),
        ({"layers": 2, "hidden_size": 16}, "width is 16, the teacher's 32"),
        ({"layers": 2, "num_attention_heads": 2}, "number of attention heads is 2, the teacher's 4"),
        ({"layers": 2, "vocab_size": 60}, "vocabulary size is 60"),
    ],
)
def test_models_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    """Depth, width, heads, vocabulary: each named with both numbers."""
    with pytest.raises(ModelError, match=message):
        IntermediateDistillation(bert(4), bert(**changes))


def test_the_teacher_never_trains() -> None:
    """Whatever mode is asked for: no dropout in the teacher, no gradients; the student's dropout is on."""
    noisy = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    teacher, student, inputs = classifier(2, 0, **noisy), classifier(2, 1, **noisy), batch()
    objective = PredictionDistillation(teacher, student)
    objective.train()
    assert student.training and not any(module.training for module in teacher.modules())
    assert torch.equal(objective.teacher.logits(inputs), classify(teacher.eval(), inputs))
    loss, _ = objective({**inputs, "labels": torch.tensor([0, 1, 0])})
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters()) and all(p.grad is not None for p in student.parameters())
    assert isinstance(objective.teacher.train(True), FrozenTeacher) and not teacher.training


def test_intermediate_stage_trains_all_but_pooler_and_head() -> None:
    """Embeddings, layers, and the factors of a decomposition get gradients; what the loss cannot see is frozen."""
    teacher, student = classifier(4, 0), classifier(2, 1)
    apply_edit(student, DecompositionConfig(rank_layer=3, rank_condim=8, rank_dim=6))
    loss, _ = IntermediateDistillation(teacher, student)(batch())
    loss.backward()
    frozen = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith(("bert.pooler.", "classifier.")) for name in frozen)
    # A key's bias shifts all scores of a row alike, but the scores themselves are compared: it learns too.
    silent = [n for n, p in student.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not silent


def test_prediction_stage_of_regression_leaves_the_teacher_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """MSE to the labels; the teacher is not even run."""
    teacher, student = classifier(2, 0, num_labels=1), classifier(2, 1, num_labels=1)
    objective, labels = PredictionDistillation(teacher, student), torch.tensor([0.5, 4.0, 2.0])
    monkeypatch.setattr(objective.teacher, "logits", None)
    loss, parts = objective({**batch(), "labels": labels})
    torch.testing.assert_close(loss, (classify(student, batch())[:, 0] - labels).square().mean())
    assert parts == {}


def test_teachers_of_other_tasks_are_refused() -> None:
    """Another number of classes, the same classes in another order, a temperature of 0."""
    with pytest.raises(ModelError, match="teacher has 3 classes, the student 2"):
        PredictionDistillation(classifier(num_labels=3), classifier())
    turned = classifier(id2label={0: "yes", 1: "no"})
    with pytest.raises(ModelError, match="orders its classes yes, no, the student no, yes"):
        PredictionDistillation(turned, classifier(id2label={0: "no", 1: "yes"}))
    with pytest.raises(ModelError, match="temperature must be above 0"):
        PredictionDistillation(classifier(), classifier(), 0.0)


def test_supervised_objective_is_the_models_own_loss() -> None:
    """As Hugging Face computes it, for classes and scores."""
    for labels, classes in ((torch.tensor([0, 1, 1]), 2), (torch.tensor([0.5, 4.0, 2.0]), 1)):
        model = classifier(num_labels=classes)
        expected = model(**batch(), labels=labels).loss
        torch.testing.assert_close(Supervised(model)({**batch(), "labels": labels})[0], expected)


# --- features --------------------------------------------------------------------------------------------------------


def test_pairs_are_cut_at_the_longer_side_and_ties_at_the_second() -> None:
    """As the original pops."""
    assert truncate_pair([1, 2, 3, 4], [5, 6], 4) == ([1, 2], [5, 6])
    assert truncate_pair([1, 2, 3], [5, 6, 7], 5) == ([1, 2, 3], [5, 6])
    assert truncate_pair([1], [5, 6, 7], 9) == ([1], [5, 6, 7])


def test_features_have_segments_and_padding() -> None:
    """[CLS] a [SEP] b [SEP], type 1 from b on, 0 at padding; an empty second text is none."""
    tokenizer = tiny_word_pieces()
    rows = [GlueExample(0, "a good film", "it is bad", 1), GlueExample(1, "it", "", 0)]
    features = list(encode_pairs(rows, tokenizer, 32))
    found = PairCollator(Collator(tokenizer.pad_token_id))(features)
    tokens = tokenizer.convert_ids_to_tokens(found["input_ids"][0])
    assert tokens == ["[CLS]", "a", "good", "film", "[SEP]", "it", "is", "bad", "[SEP]"]
    assert found["token_type_ids"].tolist() == [[0] * 5 + [1] * 4, [0] * 9]
    assert found["attention_mask"].sum(1).tolist() == [9, 3] and found["labels"].tolist() == [1, 0]


# --- BertAdam --------------------------------------------------------------------------------------------------------


def test_bertadam_decays_matrices_only_and_clips_each_tensor() -> None:
    """One-dimensional tensors do not decay; a gradient of any size gives the same first step."""
    parameters = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))]
    optimizer = build_optimizer(torch.nn.ParameterList(parameters), 0.1, 0.5, "bertadam")
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert parameters[0][0, 0].item() == pytest.approx(1 - 0.1 * 0.5) and parameters[1][0].item() == 1.0
    steps = []
    for size in (1e2, 1e6):
        parameter = torch.nn.Parameter(torch.zeros(3))
        parameter.grad = torch.full((3,), size)
        build_optimizer(torch.nn.ParameterList([parameter]), 0.1, 0.0, "bertadam").step()
        steps.append(parameter.detach())
    torch.testing.assert_close(steps[0], steps[1])
