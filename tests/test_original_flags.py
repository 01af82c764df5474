"""Flags of the original releases: mapped to ours, accepted with one line, or refused where they cannot be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers_minidisc import Teachers, read
from tests.tiny_bert import run_task, save_bert
from utils.errors import UserError
from utils.tucker.general_arguments import parse_general_arguments
from utils.tucker.task_arguments import TaskCommand, parse_task_arguments

pytestmark = pytest.mark.usefixtures("single_thread")
_BASE = "--task_name mrpc --data_dir datasets --output_dir out"


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    """The tiny teachers."""
    return Teachers(tmp_path_factory.mktemp("teachers"))


def parsed(line: str) -> TaskCommand:
    """The first command of a call."""
    return parse_task_arguments(line.split())[1][0]


def values_of(command: TaskCommand) -> dict[str, Any]:
    """All values, by field name."""
    return {name: value for group in command for name, value in vars(group).items()}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--teacher_model_path t --mode sparsify", {"teacher_model": "t"}),
        ("--teacher_model t --mode sparsify --max_length 64", {"max_seq_length": 64}),
        ("--teacher_model t --mode finetune --per_device_train_batch_size 8", {"batch_size": 8}),
        ("--teacher_model t --mode finetune --per_device_eval_batch_size 8", {"eval_batch_size": 8}),
        ("--teacher_model t --mode finetune --log_interval 10", {"valid_step": 10}),
        ("--teacher_model t --mode finetune --num_patience_epochs 5", {"patience_epochs": 5}),
        ("--teacher_model t --mode finetune --max_grad_norm 5.0", {"clip_grad": 5.0}),
        ("--teacher_model t --mode finetune --lr_scheduler_type constant", {"schedule": "constant"}),
        ("--teacher_model t --mode finetune --use_fp16", {"fp16": True}),
        ("--teacher_model t --mode finetune --use_cpu --wd 0.5", {"no_cuda": True, "weight_decay": 0.5}),
        ("--model_name_or_path m --do_eval --save_steps 500", {"student_model": "m", "save_step": 500}),
        ("--model_name_or_path m --do_predict --save_total_limit 3", {"keep_checkpoints": 3}),
        ("--model_name_or_path m --mode finetune --overwrite_output_dir", {"overwrite": True}),
        ("--teacher_model t --mode minidisc --do_infer", {"do_predict": True}),
        ("--teacher-model-path t --mode minidisc --selection-metric acc_and_f1", {"selection_metric": "acc_and_f1"}),
    ],
)
def test_names_of_the_originals_are_ours(flags: str, expected: dict[str, Any]) -> None:
    """The value arrives in the field that our own flag sets."""
    found = values_of(parsed(f"{_BASE} {flags}"))
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("accumulation", ["--num_grad_accum_steps", "--gradient_accumulation_steps"])
@pytest.mark.parametrize("rows", ["--per_device_train_batch_size 8", "--per-device-train-batch-size=8"])
def test_rows_per_device_are_those_of_a_forward_pass(accumulation: str, rows: str) -> None:
    """8 rows, twice per step, are 16 rows per step; --train_batch_size counts the step's."""
    found = values_of(parsed(f"{_BASE} --teacher_model t --mode finetune {rows} {accumulation} 2"))
    assert (found["batch_size"], found["grad_accumulation"]) == (16, 2)
    found = values_of(parsed(f"{_BASE} --teacher_model t --mode finetune --train_batch_size 8 {accumulation} 2"))
    assert (found["batch_size"], found["grad_accumulation"]) == (8, 2)


@pytest.mark.parametrize(
    "flags",
    ["--do_test", "--model_suffix none", "--use_slow_tokenizer", "--template x", "--train_url x", "--mp x"],
)
def test_flags_without_effect_are_accepted_with_one_line(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the flag and says why."""
    parsed(f"{_BASE} --teacher_model t --mode sparsify {flags}")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {flags.split()[0]} has no effect: ")


@pytest.mark.parametrize("flags", ["--init_method x", "--train_url x", "--data_url x", "--mp True", "--wd 0.1"])
def test_general_distillation_accepts_its_originals_flags(flags: str) -> None:
    """Those of the original's general_distill.py that ours does not have."""
    line = f"--pregenerated_data p --teacher_model t --student_model s --output_dir o -use_swap {flags}"
    assert parse_general_arguments(line.split()).decomposition.use_swap


def test_do_train_trains_also_beside_do_infer() -> None:
    """Without --mode, --do_infer alone predicts; with --do_train it follows a distillation."""
    line = f"{_BASE} --teacher_model t --student_model s --stage prediction"
    assert parse_task_arguments(f"{line} --do_train --do_infer".split())[0].stages == ("prediction",)
    line = f"{_BASE} --teacher_model t --student_model s --do_infer"
    assert parse_task_arguments(line.split())[0].stages == ()
    with pytest.raises(UserError, match="--do_train and --mode evaluate contradict"):
        parsed(f"{_BASE} --student_model s --do_train --mode evaluate")


@pytest.mark.parametrize(
    ("task", "flags"),
    [
        ("mrpc", "--data_type bert_cls"),
        ("mrpc", "--data_type enct5_cls --model_type sparseenct5_cls"),
        ("conll", "--data_type bert_ner --model_type sparsebert_ner"),
        ("conll", "--data_type enct5_ner --model_type sparseenct5"),
    ],
)
def test_a_data_type_that_fits_is_accepted(task: str, flags: str) -> None:
    """It says what task and model type say already."""
    parsed(f"--task_name {task} --data_dir d --output_dir o --teacher_model t --mode minidisc {flags}")


@pytest.mark.parametrize(
    ("task", "flags", "expected"),
    [
        ("mrpc", "--data_type bert_ner", "bert_cls or enct5_cls"),
        ("conll", "--data_type bert_cls", "bert_ner or enct5_ner"),
        (
            "mrpc",
            "--data_type enct5_cls --model_type sparsebert_cls",
            "of --model_type sparsebert_cls: expected bert_cls",
        ),
        ("mrpc", "--data_type combined", "expected bert_cls or enct5_cls"),
    ],
)
def test_a_data_type_that_does_not_fit_is_refused(task: str, flags: str, expected: str) -> None:
    """The sentence names those that would."""
    with pytest.raises(UserError, match=expected):
        parsed(f"--task_name {task} --data_dir d --output_dir o --teacher_model t --mode minidisc {flags}")


@pytest.mark.parametrize(
    ("task", "name"),
    [("cola", "matthews_corrcoef"), ("stsb", "corr"), ("stsb", "pearson_corr"), ("sst2", "acc"), ("qqp", "acc_and_f1")],
)
def test_metrics_have_their_original_names(task: str, name: str) -> None:
    """Those of the original's metrics.py, each on a task that has it."""
    line = "--data_dir d --output_dir o --teacher_model t --mode minidisc --selection_metric"
    parsed(f"--task_name {task} {line} {name}")
    with pytest.raises(UserError, match="--selection_metric acc_and_f1: sst2 does not have it"):
        parsed(f"--task_name sst2 {line} acc_and_f1")


def test_acc_and_f1_is_their_mean_everywhere(teachers: Teachers, tmp_path: Path) -> None:
    """In fine-tuning, a distillation and MiniDisc: the value that selects, beside the two that it is made of."""
    metric = ("--selection_metric", "acc_and_f1", "--num_train_epochs", 1)
    found = [
        teachers.run(tmp_path / "t", "--mode", "finetune", "--teacher_model", teachers.tiny.model, *metric, task="mrpc")
    ]
    for name, flags in (
        ("d", ("--mode", "distill", "--layer_or_sparsity", "50S")),
        ("m", ("--mode", "minidisc", "--grid", "50,90", "--target_iteration", 1)),
    ):
        found.append(teachers.run(tmp_path / name, *flags, *metric, task="mrpc", teacher=tmp_path / "t"))
    assert {result["metric"] for result in found} == {"acc_and_f1"}
    evaluation = ("--do_eval", "--no-costs", "--student_model", tmp_path / "d", *metric[:2])
    run_task(teachers.tiny.task(tmp_path / "e", *evaluation, task="mrpc"))
    values = read(tmp_path / "e" / "evaluation.json")["metrics"]
    assert values["acc_and_f1"] == pytest.approx((values["accuracy"] + values["f1"]) / 2)
    assert values["acc_and_f1"] == pytest.approx(found[1]["best_value"])


@pytest.mark.parametrize("task", ["sst2", "conll"])
def test_a_folder_is_the_student(teachers: Teachers, tmp_path: Path, task: str) -> None:
    """--layer_or_sparsity FOLDER: the student is that model, of another depth, and gets a classifier."""
    student = save_bert(tmp_path / "small=2", layers=2, seed=5)
    flags = ("--mode", "distill", "--layer_or_sparsity", student, "--num_train_epochs", 1)
    result = teachers.run(tmp_path / "run", *flags, task=task, teacher=teachers.teacher(task))
    assert read(tmp_path / "run" / "best" / "config.json")["num_hidden_layers"] == 2
    assert result["mode"] == "distill" and result["source"].endswith("student/best")
    again = teachers.run(tmp_path / "run", *flags, "--resume", task=task, teacher=teachers.teacher(task))
    assert again["best_value"] == result["best_value"]


def test_a_folder_without_a_model_is_no_student(teachers: Teachers, tmp_path: Path) -> None:
    """The sentence names the flag and what else it takes; nothing is written."""
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "nothing"):
        with pytest.raises(UserError, match=r"--layer_or_sparsity .*no model in this folder"):
            teachers.run(tmp_path / "run", "--mode", "distill", "--layer_or_sparsity", place, teacher=tmp_path)
    assert not (tmp_path / "run").exists()
