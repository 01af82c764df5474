"""Schedules of teacher assistants end to end: every mode and model type of `task_distill.py`, on tiny models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForSequenceClassification,
)

from model import LayerDropConfig, PruningConfig, committed, find_edit
from tests.helpers_minidisc import Teachers, logits_of, read
from tests.tiny import assert_same_tensors, result_of, rows_of, tensors_under
from tests.tiny_bert import run_task
from utils.minidisc.unsort import unsorted
from utils.tucker.tasks import task_for

pytestmark = pytest.mark.usefixtures("single_thread")
SST2 = AutoModelForSequenceClassification


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    """The tiny teachers."""
    return Teachers(tmp_path_factory.mktemp("teachers"))


def load(run: Path, auto: Any = SST2) -> Any:
    """The best model of a run, by a class that knows nothing of schedules."""
    return auto.from_pretrained(run / "best")


def evaluated(teachers: Teachers, run: Path, output: Path, task: str = "sst2") -> dict[str, float]:
    """The metrics of a run's best model, measured by a call that only evaluates."""
    words = teachers.tiny.task(output, "--do_eval", "--no-costs", "--student_model", run, task=task)
    run_task([*words, "--data_dir", str(teachers.conll)] if task == "conll" else words)
    metrics: dict[str, float] = read(output / "evaluation.json")["metrics"]
    return metrics


# --- sparsification --------------------------------------------------------------------------------------------------


def test_sparsify_sorts_and_changes_nothing_that_is_computed(teachers: Teachers) -> None:
    """The sorted teacher has the teacher's logits and metric; parameters fall from one sparsity to the next."""
    run = teachers.sorted()
    found, dense = load(run), load(teachers.teacher())
    assert isinstance(dense, BertForSequenceClassification)
    torch.testing.assert_close(logits_of(found), logits_of(dense), atol=4e-5, rtol=0)
    edit = find_edit(found, PruningConfig)
    assert edit is not None and edit.sparsity == 0.0 and any(ids != tuple(sorted(ids)) for ids in edit.heads)
    assert result_of(run)["best_value"] == result_of(teachers.teacher())["best_value"]
    sizes = list(result_of(run / "sparsified")["num_params"].values())
    assert len(sizes) == 4 and sizes == sorted(sizes, reverse=True) and sizes[0] > 2 * sizes[-1]
    assert committed(found, 0.9).num_parameters() == sizes[-1]


def test_sparsify_with_a_scale_prunes_without_distillation(teachers: Teachers, tmp_path: Path) -> None:
    """The control: the teacher cut to 90 %, exactly what the library makes of the sorted one."""
    result = teachers.run(
        tmp_path / "run", "--mode", "sparsify", "--layer_or_sparsity", "90S", teacher=teachers.teacher()
    )
    found = load(tmp_path / "run")
    assert_same_tensors(found.state_dict(), committed(load(teachers.sorted()), 0.9).state_dict())
    assert (result["tokens"], result["train_seconds"]) == (0, 0.0)
    assert result["num_params"] == found.num_parameters() and result["encoder_params"] < result["num_params"]
    assert result["best_value"] == evaluated(teachers, tmp_path / "run", tmp_path / "eval")["accuracy"]


@pytest.mark.parametrize("kind", ["teacher", "sorted"])
def test_sparsify_with_layers_keeps_the_first_ones(teachers: Teachers, tmp_path: Path, kind: str) -> None:
    """Two layers of four, of the teacher itself or of the sorted one: the same logits."""
    source = getattr(teachers, kind)()
    teachers.run(tmp_path / "run", "--mode", "sparsify", "--layer_or_sparsity", "2L", teacher=source)
    found, dense = load(tmp_path / "run"), load(teachers.teacher())
    edit = find_edit(found, LayerDropConfig)
    assert edit is not None and edit.layers == (0, 1) and find_edit(found, PruningConfig) is None
    dense.bert.encoder.layer = dense.bert.encoder.layer[:2]
    torch.testing.assert_close(logits_of(found), logits_of(dense), atol=4e-5, rtol=0)


def test_a_sorted_teacher_is_unsorted_to_its_own_heads(teachers: Teachers) -> None:
    """The heads stand again where they stood; what is computed stays."""
    dense, found = load(teachers.teacher()), unsorted(load(teachers.sorted()), task_for("sst2"))
    for wanted, layer in zip(dense.bert.encoder.layer, found.bert.encoder.layer, strict=True):
        assert torch.equal(wanted.attention.self.query.weight, layer.attention.self.query.weight)
    torch.testing.assert_close(logits_of(found), logits_of(dense), atol=4e-5, rtol=0)


# --- conventional ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["90S", "4L", "2L"])
def test_conventional_distillation_trains_the_student(teachers: Teachers, tmp_path: Path, scale: str) -> None:
    """One stage; the loss falls, best/ has the size of the scale and the metric that it claims."""
    result = teachers.run(tmp_path / "run", "--mode", "distill", "--layer_or_sparsity", scale)
    losses = [row["loss"] for row in rows_of(tmp_path / "run" / scale) if row["split"] == "train"]
    assert len(losses) == 6 and min(losses[3:]) < losses[0]
    found = load(tmp_path / "run")
    assert result["num_params"] == found.num_parameters() and result["source"].endswith(f"{scale}/best")
    dense = load(teachers.teacher()).num_parameters()
    assert (result["num_params"] == dense) if scale == "4L" else (result["num_params"] < dense)
    assert result["best_value"] == evaluated(teachers, tmp_path / "run", tmp_path / "eval")["accuracy"]
    schedule = read(tmp_path / "run" / "schedule.json")
    assert schedule["best_path"] == scale and schedule["paths"] == {scale: result["best_value"]}
    assert "iterations" not in schedule and not (tmp_path / "run" / "schedule.png").exists()


def test_labels_only_needs_no_teacher_in_memory(
    teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ftbert: the pruned student is fine-tuned; the one hard term is the loss."""
    from utils.minidisc import job

    seen: list[Any] = []
    original = job.VariantDistillation

    def spy(teacher: Any, *rest: Any) -> Any:
        seen.append(teacher)
        return original(teacher, *rest)

    monkeypatch.setattr(job, "VariantDistillation", spy)
    options = ("--mode", "distill", "--layer_or_sparsity", "90S", "--num_train_epochs", 1)
    teachers.run(tmp_path / "run", *options, "--model_type", "ftbert")
    rows = [row for row in rows_of(tmp_path / "run" / "90S") if row["split"] == "train"]
    assert seen == [None] and all(row["loss"] == row["hard_loss"] for row in rows)
    teachers.run(tmp_path / "related", *options, "--model_type", "ftbert", "--num_relation_heads", 4)
    assert seen[1] is not None  # MiniLM's term has one


_TERMS = {
    "ftbert": {"hard_loss"},
    "kdbert": {"hard_loss", "soft_loss"},
    "pkdbert": {"hard_loss", "hidden_loss", "soft_loss"},
    "sparsebert": {"hidden_loss", "soft_loss"},
}


@pytest.mark.parametrize("task", ["sst2", "conll"])
@pytest.mark.parametrize("kind", _TERMS)
def test_every_model_type_trains_on_both_kinds_of_tasks(
    teachers: Teachers, tmp_path: Path, kind: str, task: str
) -> None:
    """Under its name with its suffix; the terms of its loss, and a classifier of rows or of words."""
    name = f"{kind}_{'ner' if task == 'conll' else 'cls'}"
    options = ("--mode", "distill", "--layer_or_sparsity", "50S", "--model_type", name, "--num_train_epochs", 1)
    result = teachers.run(tmp_path / "run", *options, "--temperature", 2, task=task)
    row = rows_of(tmp_path / "run" / "50S")[0]
    assert {term for term in row if term.endswith("_loss")} == _TERMS[kind]
    load(tmp_path / "run", AutoModelForTokenClassification if task == "conll" else SST2)
    assert result["metric"] == ("f1" if task == "conll" else "accuracy") and 0 <= result["best_value"] <= 1


def test_relations_are_learnt_from_with_num_relation_heads(teachers: Teachers, tmp_path: Path) -> None:
    """MiniLM's term is beside the others and is added to them."""
    options = ("--mode", "distill", "--layer_or_sparsity", "50S", "--num_train_epochs", 1, "--num_relation_heads", 2)
    teachers.run(tmp_path / "run", *options)
    row = rows_of(tmp_path / "run" / "50S")[0]
    assert row["relation_loss"] > 0
    assert row["loss"] == pytest.approx((row["hidden_loss"] + row["soft_loss"]) / 2 + row["relation_loss"], rel=1e-5)


# --- paths -----------------------------------------------------------------------------------------------------------


def test_paths_share_what_they_have_in_common(
    teachers: Teachers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two paths over 50S distil to it once; each student's teacher is the assistant before; the best path is kept."""
    options = ("--mode", "maxidisc", "--layer_or_sparsity_path", "50,90S;50,80,90S", "--num_train_epochs", 1)
    result, run = teachers.run(tmp_path / "run", *options, "--do_eval", "--do_predict", "--no-costs"), tmp_path / "run"
    stages = ["50S", "50S-80S", "50S-80S-90S", "50S-90S"]
    assert sorted(path.parent.name for path in run.glob("*/result.json")) == stages
    assert capsys.readouterr().out.count("distillation to 50S: complete") == 1
    of = {name: read(run / name / "arguments.json")["arguments"]["teacher"] for name in stages}
    assert of["50S-90S"] == of["50S-80S"] == str(run / "50S" / "best")
    assert of["50S-80S-90S"] == str(run / "50S-80S" / "best")
    schedule, values = read(run / "schedule.json"), {name: result_of(run / name)["best_value"] for name in stages}
    assert schedule["paths"] == {name: values[name] for name in ("50S-90S", "50S-80S-90S")}
    taken = {name: result_of(run / name)["train_seconds"] for name in stages}
    paths = {"50S-90S": ("50S", "50S-90S"), "50S-80S-90S": ("50S", "50S-80S", "50S-80S-90S")}
    assert schedule["path_seconds"] == {path: sum(taken[name] for name in parts) for path, parts in paths.items()}
    assert result["best_value"] == max(schedule["paths"].values()) == schedule["paths"][schedule["best_path"]]
    assert_same_tensors(tensors_under(run / "best"), tensors_under(run / schedule["best_path"] / "best"))
    assert result["tokens"] == sum(result_of(run / name)["tokens"] for name in stages) > 0
    assert result["train_seconds"] == pytest.approx(sum(result_of(run / name)["train_seconds"] for name in stages))
    assert read(run / "evaluation.json")["metrics"]["accuracy"] == result["best_value"]
    assert len((run / "predictions" / "SST-2.tsv").read_text().splitlines()) == 6


def test_a_path_of_layers_begins_each_student_at_the_teacher(teachers: Teachers, tmp_path: Path) -> None:
    """3,2L: three layers teach two, and the two are the first ones of the fine-tuned teacher."""
    options = ("--mode", "maxidisc", "--layer_or_sparsity_path", "3,2L", "--num_train_epochs", 1, "--learning_rate", 0)
    teachers.run(tmp_path / "run", *options)
    found, dense = load(tmp_path / "run"), load(teachers.teacher())
    dense.bert.encoder.layer = dense.bert.encoder.layer[:2]
    torch.testing.assert_close(logits_of(found), logits_of(dense), atol=4e-5, rtol=0)
    recorded = read(tmp_path / "run" / "3L-2L" / "arguments.json")["arguments"]
    assert recorded["teacher"] == str(tmp_path / "run" / "3L" / "best")


# --- MiniDisc --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "iterations"), [("sst2", 2), ("conll", 3)])
def test_minidisc_chooses_assistants_and_ends_at_the_target(
    teachers: Teachers, tmp_path: Path, task: str, iterations: int
) -> None:
    """schedule.json holds the table, the choice and its reason; best/ is the target, with the metric it claims."""
    run = tmp_path / "run"
    options = ("--mode", "minidisc", "--target_iteration", iterations, "--grid", "10,50,80,90")
    result = teachers.run(run, *options, "--do_eval", "--do_predict", "--no-costs", task=task)
    schedule, metric = read(run / "schedule.json"), result["metric"]
    assert [entry["iteration"] for entry in schedule["iterations"]] == list(range(1, iterations + 1))
    first, last = schedule["iterations"][0], schedule["iterations"][-1]
    assert [row["scale"] for row in first["table"]] == [0.5, 0.8, 0.9]  # --trunc_sparsity is 50
    assert all(row["tradeoff"] == pytest.approx(row[metric] + 0.2 * row["scale"]) for row in first["table"])
    best = max(first["table"], key=lambda row: row["tradeoff"])
    assert (first["scale"], first["score"]) == (best["scale"], best["tradeoff"]) and first["reason"]
    for before, after in zip(schedule["iterations"], schedule["iterations"][1:], strict=False):
        number, scale = before["iteration"], before["scale"]
        auto = AutoModelForTokenClassification if task == "conll" else SST2
        edit = find_edit(auto.from_pretrained(run / f"iteration-{number}" / "best"), PruningConfig)
        assert edit is not None and edit.sparsity == scale <= after["scale"]
        teacher = read(run / f"iteration-{number + 1}" / "arguments.json")["arguments"]["teacher"]
        assert teacher == str(run / f"iteration-{number}" / "best")
    assert [row["scale"] for row in last["table"]] == [0.9] and last["scale"] == 0.9
    assert last["score"] == last["table"][0][metric] == result["best_value"]
    assert read(run / "evaluation.json")["metrics"][metric] == pytest.approx(result["best_value"], abs=1e-9)
    stages = [result_of(run / f"iteration-{i + 1}") for i in range(iterations)]
    assert result["tokens"] == sum(stage["tokens"] for stage in stages) > 0
    assert result["train_seconds"] == pytest.approx(sum(stage["train_seconds"] for stage in stages))
    assert (run / "schedule.png").read_bytes().startswith(b"\x89PNG") and schedule["settings"]["lam"] == 0.2
    assert (run / "predictions").is_dir()


def test_one_iteration_is_a_distillation_to_the_target(teachers: Teachers, tmp_path: Path) -> None:
    """Nothing is chosen: the weights of --mode distill, and no plot."""
    common = ("--num_train_epochs", 1, "--max_steps", 2)
    teachers.run(tmp_path / "one", "--mode", "minidisc", "--target_iteration", 1, *common)
    teachers.run(tmp_path / "two", "--mode", "distill", "--layer_or_sparsity", "90S", *common)
    one, two = (load(tmp_path / name) for name in ("one", "two"))
    torch.testing.assert_close(logits_of(one), logits_of(two), atol=1e-3, rtol=0)
    assert not (tmp_path / "one" / "schedule.png").exists()


def test_sparsities_are_compared_as_numbers(teachers: Teachers, tmp_path: Path) -> None:
    """5 is below 10, whatever "5" and "10" are: an assistant of 5 % on the way to 10 % (M-11)."""
    options = ("--mode", "minidisc", "--target_sparsity", 10, "--trunc_sparsity", 5, "--grid", "5,10", "--lam", 0)
    teachers.run(tmp_path / "run", *options, "--num_train_epochs", 1)
    first, last = read(tmp_path / "run" / "schedule.json")["iterations"]
    assert [row["scale"] for row in first["table"]] == [0.05, 0.1] and last["scale"] == 0.1
    teachers.run(tmp_path / "path", "--mode", "maxidisc", "--layer_or_sparsity_path", "5,10S", "--num_train_epochs", 1)
    assert (tmp_path / "path" / "5S-10S").is_dir()


def test_a_large_lambda_takes_the_sparsest_assistant(teachers: Teachers, tmp_path: Path) -> None:
    """With metrics as fractions lambda decides; an assistant above the target is replaced by the target."""
    options = ("--mode", "minidisc", "--grid", "50,80,90,95", "--lam", 10, "--num_train_epochs", 1)
    teachers.run(tmp_path / "run", *options)
    first = read(tmp_path / "run" / "schedule.json")["iterations"][0]
    assert first["scale"] == 0.9 and [row["scale"] for row in first["table"]] == [0.5, 0.8, 0.9, 0.95]


# --- selection -------------------------------------------------------------------------------------------------------


def test_selection_metric_acc_selects_by_accuracy(teachers: Teachers, tmp_path: Path) -> None:
    """MRPC's own is F1; --selection_metric acc takes the accuracy, in fine-tuning too."""
    finetune = ("--mode", "finetune", "--teacher_model", teachers.tiny.model, "--selection_metric", "acc")
    result = teachers.run(tmp_path / "teacher", *finetune, task="mrpc")
    assert result["metric"] == "accuracy"
    options = ("--mode", "distill", "--layer_or_sparsity", "50S", "--num_train_epochs", 1)
    result = teachers.run(
        tmp_path / "run", *options, "--selection_metric", "acc", task="mrpc", teacher=tmp_path / "teacher"
    )
    assert result["metric"] == "accuracy" == result_of(tmp_path / "run" / "50S")["metric"]
    found = evaluated(teachers, tmp_path / "run", tmp_path / "eval", task="mrpc")
    assert result["best_value"] == found["accuracy"] != found["f1"]


@pytest.mark.parametrize(("interval", "evaluations"), [((), 3), (("--eval_step", 1), 7)], ids=["epochs", "steps"])
def test_patience_is_counted_in_epochs(
    teachers: Teachers, tmp_path: Path, interval: tuple[Any, ...], evaluations: int
) -> None:
    """Nothing improves at a rate of 0: two epochs behind the first evaluation the stage ends."""
    options = ("--mode", "distill", "--layer_or_sparsity", "50S", "--num_train_epochs", 6, "--learning_rate", 0)
    teachers.run(tmp_path / "run", *options, "--patience_epochs", 2, *interval)
    rows = [row for row in rows_of(tmp_path / "run" / "50S") if row["split"] == "valid"]
    assert len(rows) == evaluations


def test_a_schedule_goes_from_a_moved_sorted_teacher(teachers: Teachers, tmp_path: Path) -> None:
    """The model directory alone is enough, without the run around it."""
    shutil.copytree(teachers.sorted() / "best", tmp_path / "model")
    options = ("--mode", "distill", "--layer_or_sparsity", "90S", "--num_train_epochs", 1)
    assert teachers.run(tmp_path / "run", *options, teacher=tmp_path / "model")["num_params"] > 0
