"""EncT5 in `task_distill.py`: fine-tuned from a plain T5, then pruned and distilled like a BERT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    T5ForConditionalGeneration,
)

from dataset import get_task
from model import (
    EncT5ForSequenceClassification,
    EncT5ForTokenClassification,
    ModelError,
    PluginConfig,
    PruningConfig,
    apply_edit,
    find_edit,
)
from tests.helpers_minidisc import Teachers, logits_of, read
from tests.tiny import backbone, rows_of
from tests.tiny_bert import save_bert
from utils.errors import UserError
from utils.minidisc.unsort import unsorted
from utils.opening.tokenizers import open_tokenizer
from utils.tucker.arguments import DecompositionArguments
from utils.tucker.loading import load_classifier, load_encoder
from utils.tucker.report import encoder_params
from utils.tucker.student import build_student

pytestmark = pytest.mark.usefixtures("single_thread")
SST2, CONLL = get_task("sst2"), get_task("conll")
_T5 = {"sst2": "ftenct5_cls", "conll": "ftenct5_ner"}


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained T5 of two layers."""
    return backbone(tmp_path_factory.mktemp("t5") / "model")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, t5: Path) -> Teachers:
    """EncT5s, fine-tuned from it."""
    made = Teachers(tmp_path_factory.mktemp("teachers"))
    made.tiny.model = t5
    return made


# --- loading ---------------------------------------------------------------------------------------------------------


def test_a_plain_t5_becomes_an_enct5_of_the_task(t5: Path, tmp_path: Path) -> None:
    """T5's encoder and a new classifier, of rows or of words; the classes have their names, weights are float32."""
    half = T5ForConditionalGeneration.from_pretrained(t5).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    for task, kind in ((SST2, EncT5ForSequenceClassification), (CONLL, EncT5ForTokenClassification)):
        model = load_classifier(str(tmp_path / "half"), task, trained=False)
        assert isinstance(model, kind) and model.dtype == torch.float32
        assert tuple(model.config.id2label.values()) == task.labels and model.config.num_labels == task.num_labels
        wanted = half.encoder.block[1].layer[0].SelfAttention.q.weight.float()
        assert torch.equal(model.encoder.block[1].layer[0].SelfAttention.q.weight, wanted)
    model, how = build_student(str(t5), DecompositionArguments(), CONLL)
    assert isinstance(model, EncT5ForTokenClassification) and how == f"weights of {t5}"
    assert open_tokenizer(str(t5)).eos_token == "</s>"


def test_a_saved_enct5_loads_with_its_classifier(t5: Path, tmp_path: Path) -> None:
    """As itself; for a task of another number of classes it gets a new one, or is refused."""
    model = load_classifier(str(t5), SST2, trained=False)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(load_classifier(str(tmp_path), SST2, trained=True)), logits_of(model))
    assert load_classifier(str(tmp_path), get_task("mnli"), trained=False).config.num_labels == 3
    with pytest.raises(UserError, match="has no classifier for mnli"):
        load_classifier(str(tmp_path), get_task("mnli"), trained=True)


def test_what_is_no_classifier_is_refused(t5: Path, tmp_path: Path) -> None:
    """A T5 as fine-tuned teacher, as encoder of a general distillation, and one of no weights."""
    with pytest.raises(UserError, match=r"has no classifier for sst2 \(outputs: 2\)"):
        load_classifier(str(t5), SST2, trained=True)
    with pytest.raises(UserError, match="is a model of family 't5', expected a BERT"):
        load_encoder(str(t5))
    (tmp_path / "config.json").write_text((t5 / "config.json").read_text())
    with pytest.raises(UserError, match="has no weights: an EncT5 begins from those of a T5"):
        build_student(str(tmp_path), DecompositionArguments(), SST2)
    edited = T5ForConditionalGeneration.from_pretrained(t5)
    apply_edit(edited, PluginConfig(ratios=(2,)))
    edited.save_pretrained(tmp_path / "edited")
    with pytest.raises(ModelError, match=r"EncT5 begins from a plain T5, but .*edited holds .* 'compressed_t5'"):
        load_classifier(str(tmp_path / "edited"), SST2, trained=False)


def test_the_layers_parameters_are_counted_without_embedding_and_head(t5: Path, tmp_path: Path) -> None:
    """For BERT and for EncT5: what pruning makes smaller."""
    model = load_classifier(str(t5), SST2, trained=False)
    stacks = [
        *model.encoder.block.parameters(),
        *model.decoder.parameters(),
        *model.encoder.final_layer_norm.parameters(),
    ]
    assert encoder_params(model) == sum(p.numel() for p in stacks)
    bert = load_classifier(str(save_bert(tmp_path / "bert")), SST2, trained=False)
    assert encoder_params(bert) == sum(p.numel() for p in bert.bert.encoder.parameters())


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["sst2", "conll"])
def test_fine_tuning_sparsification_and_minidisc(teachers: Teachers, tmp_path: Path, task: str) -> None:
    """The three commands of the scripts; the student reloads through AutoModel with the metric that it claims."""
    teacher, run = tmp_path / "teacher", tmp_path / "run"
    finetune = ("--mode", "finetune", "--model_type", _T5[task], "--teacher_model", teachers.tiny.model)
    teachers.run(teacher, *finetune, "--num_train_epochs", 4, "--do_eval", task=task)
    costs = read(teacher / "evaluation.json")
    assert costs["num_params"] > costs["encoder_params"] > 0 and costs["macs"] > 0
    losses = [row["loss"] for row in rows_of(teacher) if row["split"] == "valid"]
    assert losses[-1] < losses[0]
    kind = "sparseenct5_ner" if task == "conll" else "sparseenct5_cls"
    teachers.run(tmp_path / "sorted", "--mode", "sparsify", "--model_type", kind, task=task, teacher=teacher)
    auto = AutoModelForTokenClassification if task == "conll" else AutoModelForSequenceClassification
    dense, ordered = (auto.from_pretrained(folder / "best") for folder in (teacher, tmp_path / "sorted"))
    torch.testing.assert_close(logits_of(ordered), logits_of(dense), atol=4e-5, rtol=0)
    options = ("--mode", "minidisc", "--model_type", kind, "--do_eval", "--do_predict")
    result = teachers.run(run, *options, task=task, teacher=tmp_path / "sorted")
    edit = find_edit(auto.from_pretrained(run / "best"), PruningConfig)
    assert edit is not None and edit.sparsity == 0.9
    AutoTokenizer.from_pretrained(run / "best")
    found = read(run / "evaluation.json")
    assert found["metrics"][result["metric"]] == pytest.approx(result["best_value"], abs=1e-9)
    assert found["encoder_params"] < costs["encoder_params"] / 3 and found["macs"] < costs["macs"]
    assert (run / "predictions").is_dir()


def test_layers_are_dropped_from_a_sorted_enct5(teachers: Teachers, tmp_path: Path) -> None:
    """Sorting moves heads against the position biases; unsorted they stand right again."""
    sorted_run = teachers.sorted()
    model = AutoModelForSequenceClassification.from_pretrained(sorted_run / "best")
    dense = AutoModelForSequenceClassification.from_pretrained(teachers.teacher() / "best")
    torch.testing.assert_close(logits_of(unsorted(model, SST2)), logits_of(dense), atol=4e-5, rtol=0)
    flags = ("--mode", "distill", "--layer_or_sparsity", "1L", "--model_type", "kdbert", "--num_relation_heads", 2)
    teachers.run(tmp_path / "run", *flags, "--num_train_epochs", 1)
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "best")
    assert len(found.encoder.block) == 1 and len(found.decoder.block) == 1
    assert "relation_loss" in rows_of(tmp_path / "run" / "1L")[0]
