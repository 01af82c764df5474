"""Plugins on compressed classifiers: trained by task_distill.py --mode adapt, saved, loaded, and measured per ratio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from dataset.tasks import TASKS
from model import (
    DecompositionConfig,
    ModelError,
    PruningConfig,
    QuantizationConfig,
    apply_edit,
    available_ratios,
    edits_of,
    find_edit,
)
from tests.helpers_minidisc import logits_of
from tests.tiny_bert import TinyBert, bert_config, run_task, tiny_word_pieces
from utils.errors import UserError
from utils.tucker.loading import set_classes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBert:
    """A tiny BERT and its data."""
    return TinyBert(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def teacher(tiny: TinyBert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tuned on SST-2, then decomposed."""
    path = tmp_path_factory.mktemp("teacher") / "run"
    run_task(tiny.task(path, "--mode", "finetune", "--teacher_model", tiny.model, "--num_train_epochs", 6))
    model = AutoModelForSequenceClassification.from_pretrained(path / "best")
    apply_edit(model, DecompositionConfig(rank_layer=24, rank_condim=24, rank_dim=24))
    model.save_pretrained(path / "best")
    return path


def test_a_decomposed_classifier_gets_plugins_that_learn(tiny: TinyBert, teacher: Path, tmp_path: Path) -> None:
    """Only plugins change; their error shrinks; best/ loads with AutoModel; evaluation has every ratio's metrics."""
    arguments = tiny.task(tmp_path / "run", "--mode", "adapt", "--student_model", teacher, "--mux_num", 2, 3)
    run_task([*arguments, "--num_train_epochs", "12", "--learning_rate", "1e-2", "--do_eval"])
    best = tmp_path / "run" / "best"
    model = AutoModelForSequenceClassification.from_pretrained(best).eval()
    assert [edit.kind for edit in edits_of(model)] == ["decomposition", "plugin"]
    assert available_ratios(model) == (1, 2, 3)
    before, after = load_file(teacher / "best" / "model.safetensors"), load_file(best / "model.safetensors")
    moved = [name for name, tensor in before.items() if name in after and not torch.equal(tensor, after[name])]
    assert not moved and any("tucker" in name or "factor" in name for name in before)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["mse_loss"] for row in rows if "mse_loss" in row]
    assert len(losses) == 36 and sum(losses[-3:]) < 0.5 * sum(losses[:3])
    values = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert set(values["ratios"]) == {"1", "2", "3"} and values["metrics"] == values["ratios"]["1"]["metrics"]
    assert len({values["ratios"][k]["macs"] for k in "123"}) == 3
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    means = [values["ratios"][k]["metrics"]["accuracy"] for k in "23"]
    assert result["best_value"] == pytest.approx(sum(means) / 2)


@pytest.mark.slow
def test_pruned_by_minidisc_then_plugins(tiny: TinyBert, tmp_path: Path) -> None:
    """The committed student of a schedule takes plugins, for regression too."""
    run_task(
        tiny.task(tmp_path / "teacher", "--mode", "finetune", "--teacher_model", tiny.model, task="stsb"),
    )
    schedule = ("--mode", "minidisc", "--target_sparsity", 50, "--grid", "30,50", "--teacher_model")
    run_task(tiny.task(tmp_path / "mini", *schedule, tmp_path / "teacher", "--trunc_sparsity", 30, task="stsb"))
    run_task(tiny.task(tmp_path / "run", "--mode", "adapt", "--student_model", tmp_path / "mini", task="stsb"))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "best")
    assert find_edit(model, PruningConfig) is not None and available_ratios(model) == (1, 4)
    assert torch.isfinite(logits_of(model)).all()


def test_a_quantised_student_is_not_trained(tiny: TinyBert, tmp_path: Path) -> None:
    """Not fine-tuned, nor given plugins: the error says what would be right, and no run is begun."""
    model = BertForSequenceClassification(bert_config())
    set_classes(model.config, TASKS["sst2"])
    apply_edit(model, QuantizationConfig())
    model.save_pretrained(tmp_path / "int8")
    tiny_word_pieces().save_pretrained(tmp_path / "int8")
    for mode, told in (("finetune", "train what it was made of"), ("adapt", r"legal is: plugin \+ quantization")):
        with pytest.raises((UserError, ModelError), match=told):
            run_task(tiny.task(tmp_path / "run", "--mode", mode, "--student_model", tmp_path / "int8"))
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--mux_num", "1"], "--mux_num takes each ratio once, whole numbers of at least 2, found \\[1\\]"),
        (["--task_ratio", "2"], "--task_ratio needs --distil task-hidden"),
        (["--teacher_model", "t"], "--mode adapt has no --teacher_model"),
        (["--mode", "finetune", "--mux_num", "2"], "--mux_num belongs to --mode adapt"),
    ],
)
def test_flags_that_do_not_fit_are_told(tiny: TinyBert, tmp_path: Path, flags: list[str], told: str) -> None:
    """By name, before anything is loaded."""
    with pytest.raises(UserError, match=told):
        run_task(tiny.task(tmp_path / "run", "--mode", "adapt", "--student_model", "s", *flags))
