"""What cannot be scheduled: one sentence that names the flag, or the file and line, before anything is written."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, DistilBertConfig, DistilBertForSequenceClassification

from dataset import DataError
from model import DecompositionConfig, apply_edit
from model.errors import ModelError
from tests.helpers_minidisc import Teachers, read
from tests.tiny import rows_of
from tests.tiny_bert import run_task, tiny_word_pieces
from utils.errors import UserError
from utils.tucker.task_arguments import parse_task_arguments

pytestmark = pytest.mark.usefixtures("single_thread")
#: Flags that every call below has; no file of these is read before they are checked.
_GIVEN = "--task_name sst2 --data_dir data --output_dir out"
_TEACHER = f"{_GIVEN} --teacher_model teacher"
_CONLL = "--task_name conll --data_dir data --output_dir out --teacher_model teacher"


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    """The tiny teachers."""
    return Teachers(tmp_path_factory.mktemp("teachers"))


def refused(arguments: list[str], message: str, folder: Path | None = None) -> None:
    """The call ends with one sentence that matches, and writes nothing."""
    with pytest.raises((UserError, DataError, ModelError), match=message) as caught:
        run_task(arguments)
    assert "\n" not in str(caught.value) and not (folder is not None and folder.exists())


# --- flags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (f"{_GIVEN} --mode minidisc", "--mode minidisc makes its students of the fine-tuned teacher: give --teacher_m"),
        (f"{_TEACHER} --student_model s --mode sparsify", "give --teacher_model alone"),
        ("--mode minidisc", "--data_dir is required; --task_name is required; --output_dir is required"),
        (f"{_TEACHER} --mode maxidisc", "--mode maxidisc needs --layer_or_sparsity_path, such as 80,90S"),
        (
            f"{_TEACHER} --mode minidisc --layer_or_sparsity 90S",
            "--layer_or_sparsity belongs to --mode distill and spar",
        ),
        (
            f"{_TEACHER} --mode sparsify --layer_or_sparsity_path 90S",
            "--layer_or_sparsity_path belongs to --mode maxid",
        ),
        (
            f"{_TEACHER} --mode finetune --layer_or_sparsity 90S",
            "--layer_or_sparsity belongs to .* found --mode finetune",
        ),
        (
            f"{_TEACHER} --mode distill --student_model s --model_type sparsebert",
            "needs --layer_or_sparsity, such as 90S",
        ),
        (f"{_TEACHER} --mode finetune --model_type kdbert_cls", "learns from labels, found --model_type kdbert_cls"),
        (f"{_TEACHER} --mode minidisc --stage both", "--stage and --pred_distill belong to decomposed students"),
        (
            f"{_TEACHER} --mode minidisc --use_swap --rank_dim 4",
            "--use_swap and its ranks belong to decomposed students",
        ),
        (f"{_TEACHER} --mode minidisc --patience 2 --patience_epochs 2", "--patience counts evaluations"),
    ],
)
def test_flags_that_are_missing_or_have_no_effect(flags: str, message: str) -> None:
    """Which one, and what to give."""
    refused(flags.split(), message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--mode minidisc --target_sparsity 93", "--target_sparsity 93 is not in --grid 10, 20, 30, 40, .*, 95"),
        ("--mode minidisc --target_sparsity 5 --grid 10,50", "--target_sparsity 5 is not in --grid 10, 50"),
        ("--mode minidisc --target_sparsity 100", "--target_sparsity must be at least 0 and below 100, found 100"),
        ("--mode minidisc --trunc_sparsity 95", "--trunc_sparsity 95 leaves no assistant before --target_sparsity 90"),
        ("--mode minidisc --grid 10,x,90", "--grid: 'x' in '10,x,90' is no scale"),
        (
            "--mode minidisc --grid 90,100",
            "--grid: '100' in '90,100': a sparsity is from 0 to below 100 percent, found 100",
        ),
        ("--mode minidisc --target_iteration 0", "--target_iteration must be at least 1, found 0"),
        ("--mode minidisc --lam -0.1", "--lam must be at least 0, found -0.1"),
        ("--mode minidisc --lam nan", "--lam: expected a finite number, found 'nan'"),
        ("--mode minidisc --patience_epochs -1", "--patience_epochs must be at least 0, found -1"),
        ("--mode sparsify --round_to 0", "--round_to must be at least 1, found 0"),
        ("--mode minidisc --num_relation_heads 0", "--num_relation_heads must be at least 1, found 0"),
        ("--mode distill --layer_or_sparsity 100S", "--layer_or_sparsity: '100S': a sparsity is from 0 to below 100"),
        ("--mode distill --layer_or_sparsity 90", "--layer_or_sparsity: '90' is no scale: expected a sparsity such as"),
        ("--mode sparsify --layer_or_sparsity 2.5L", "--layer_or_sparsity: '2.5L': layers are a whole number"),
        ("--mode maxidisc --layer_or_sparsity_path 90,80S", "--layer_or_sparsity_path: .* goes from 90S to 80S"),
        ("--mode maxidisc --layer_or_sparsity_path 10,5S", "--layer_or_sparsity_path: .* goes from 10S to 5S"),
        ("--mode maxidisc --layer_or_sparsity_path 4,6L", "--layer_or_sparsity_path: .* goes from 4L to 6L"),
        ("--mode maxidisc --layer_or_sparsity_path 80S,2L", "--layer_or_sparsity_path: .* mixes sparsities"),
        ("--mode maxidisc --layer_or_sparsity_path 80,90S;80,90S", "--layer_or_sparsity_path: .* comes twice"),
        ("--mode maxidisc --layer_or_sparsity_path 80,90S;", "--layer_or_sparsity_path: '' is no scale"),
    ],
)
def test_scales_and_numbers_out_of_range(flags: str, message: str) -> None:
    """A target outside the grid, a path that goes upwards, and what is no number; 5 and 10 are compared as numbers."""
    refused([*_TEACHER.split(), *flags.split()], message)


def test_five_is_below_ten() -> None:
    """Numbers, not strings: a path from 5 to 10 goes downwards in size, and 5 may be cut off below 10."""
    parse_task_arguments([*_TEACHER.split(), "--mode", "maxidisc", "--layer_or_sparsity_path", "5,10S"])
    minidisc = "--mode minidisc --target_sparsity 10 --trunc_sparsity 5 --grid 5,10"
    parse_task_arguments([*_TEACHER.split(), *minidisc.split()])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (f"{_TEACHER} --selection_metric f1", "--selection_metric f1: sst2 does not have it, but accuracy"),
        (
            f"{_CONLL} --selection_metric acc",
            "--selection_metric acc: conll does not have it, but f1, precision, recall",
        ),
        (f"{_TEACHER} --model_type sparsebert_ner", "--model_type sparsebert_ner is not for sst2: .* ends in _cls"),
        (f"{_CONLL} --model_type kdbert_cls", "--model_type kdbert_cls is not for conll: .* ends in _ner"),
        (f"{_TEACHER} --model_type sparsbert_cls", "--model_type: .* did you mean sparsebert_cls"),
    ],
)
@pytest.mark.parametrize("mode", ["minidisc", "sparsify", "distill --layer_or_sparsity 90S"])
def test_metrics_and_model_types_that_the_task_does_not_have(mode: str, flags: str, message: str) -> None:
    """Checked against the task, in every mode of a schedule."""
    refused(["--mode", *mode.split(), *flags.split()], message)


def test_a_selection_metric_is_checked_in_fine_tuning_too() -> None:
    """The same flag there."""
    refused([*_TEACHER.split(), "--mode", "finetune", "--selection_metric", "pearson"], "--selection_metric pearson")


# --- teachers --------------------------------------------------------------------------------------------------------


def test_teachers_that_cannot_be_pruned(teachers: Teachers, tmp_path: Path) -> None:
    """A family without places to prune, a decomposed model, one that was never fine-tuned, one of too few positions."""
    sizes = {"vocab_size": 64, "dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64}
    DistilBertForSequenceClassification(DistilBertConfig(**sizes)).save_pretrained(tmp_path / "distilbert")
    decomposed = AutoModelForSequenceClassification.from_pretrained(teachers.teacher() / "best")
    apply_edit(decomposed, DecompositionConfig(rank_layer=5, rank_condim=12, rank_dim=10))
    decomposed.save_pretrained(tmp_path / "decomposed")
    for name in ("distilbert", "decomposed"):
        tiny_word_pieces().save_pretrained(tmp_path / name)
    run = tmp_path / "run"
    for source, more, message in (
        (tmp_path / "distilbert", (), "--teacher_model: .*is a model of family 'distilbert', expected a BERT, EncT"),
        (tmp_path / "decomposed", (), "--teacher_model .*decomposed carries the edit 'decomposition'"),
        (teachers.tiny.model, (), "--teacher_model: .*bert has no classifier for sst2"),
        (tmp_path / "nowhere", (), "nowhere"),
        (teachers.teacher(), ("--max_seq_length", 64), "--max_seq_length 64: the model has 48 positions"),
    ):
        refused(teachers.command(run, "--mode", "minidisc", *more, teacher=source), message, run)


def test_teachers_that_are_smaller_than_the_student(teachers: Teachers, tmp_path: Path) -> None:
    """A pruned or layer-dropped one cannot grow; a student cannot have more layers than there are."""
    for scale in ("90S", "2L"):
        teachers.run(tmp_path / scale, "--mode", "sparsify", "--layer_or_sparsity", scale)
    run = tmp_path / "run"
    for source, flags, message in (
        (tmp_path / "90S", ("--mode", "distill", "--layer_or_sparsity", "50S"), "is pruned to 90 % .* become 50S"),
        (
            tmp_path / "90S",
            ("--mode", "minidisc", "--target_sparsity", 50),
            "90 % already and cannot become 50S",
        ),
        (tmp_path / "90S", ("--mode", "distill", "--layer_or_sparsity", "2L"), "smaller than the fine-tuned teacher"),
        (
            tmp_path / "2L",
            ("--mode", "maxidisc", "--layer_or_sparsity_path", "2,1L"),
            "smaller than the fine-tuned tea",
        ),
        (teachers.sorted(), ("--mode", "distill", "--layer_or_sparsity", "12L"), "has 4 layers and cannot become 12L"),
    ):
        refused(teachers.command(run, *flags, teacher=source), f"--teacher_model .*{message}", run)


def test_relation_heads_that_do_not_divide_are_refused(teachers: Teachers, tmp_path: Path) -> None:
    """The width of the projections is 32."""
    flags = ("--mode", "distill", "--layer_or_sparsity", "50S", "--num_relation_heads", 5)
    refused(teachers.command(tmp_path / "run", *flags), "5 relation heads do not divide the width 32")


# --- named entities --------------------------------------------------------------------------------------------------


def test_a_tag_of_no_scheme_is_told_with_file_and_line(teachers: Teachers, tmp_path: Path) -> None:
    """LOC alone, in the third line of dev.txt; entities that begin with I- are read, and counted elsewhere."""
    folder = shutil.copytree(teachers.conll, tmp_path / "data")
    (folder / "dev.txt").write_text("a O\nfilm B-PER\nplot LOC\n\nfilm B-PER\nfilm B-PER\n", encoding="utf-8")
    words = teachers.command(tmp_path / "run", "--mode", "minidisc", task="conll")
    refused([*words, "--data_dir", str(folder)], r"dev\.txt:3: .*LOC", tmp_path / "run")


def test_a_development_set_without_entities_is_told_and_goes_through(
    teachers: Teachers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """F1 is 0 everywhere, so the trade-off alone decides; the original divided by zero."""
    folder = shutil.copytree(teachers.conll, tmp_path / "data")
    (folder / "dev.txt").write_text("a O\nfilm O\n\nplot O\n", encoding="utf-8")
    words = teachers.command(tmp_path / "run", "--mode", "minidisc", "--num_train_epochs", 1, task="conll")
    with caplog.at_level(logging.WARNING):
        run_task([*words, "--data_dir", str(folder)])
    assert "the validation sentences of conll hold no entity" in caplog.text
    first, last = read(tmp_path / "run" / "schedule.json")["iterations"]
    assert first["scale"] == 0.9 and all(row["f1"] == 0.0 for row in (*first["table"], *last["table"]))


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_intervals_beyond_the_run_still_evaluate_at_its_end(teachers: Teachers, tmp_path: Path) -> None:
    """In the original no evaluation left an empty teacher path behind, and iteration 2 crashed (M-21)."""
    flags: tuple[Any, ...] = ("--mode", "minidisc", "--eval_step", 1000, "--save_step", 1000, "--inspect_step", 1000)
    result = teachers.run(tmp_path / "run", *flags)
    for stage in ("iteration-1", "iteration-2"):
        assert [row["step"] for row in rows_of(tmp_path / "run" / stage) if row["split"] == "valid"] == [6]
    assert result["best_value"] > 0 and (tmp_path / "run" / "best" / "config.json").is_file()


def test_a_metric_of_zero_or_below_is_still_a_choice(teachers: Teachers, tmp_path: Path) -> None:
    """A first score counts whatever its sign: one step at a rate of 0 and lambda 0 leave a model to go on from."""
    flags = ("--mode", "minidisc", "--max_steps", 1, "--learning_rate", 0, "--lam", 0)
    teachers.run(tmp_path / "run", *flags, task="stsb", teacher=_stsb(teachers))
    assert len(read(tmp_path / "run" / "schedule.json")["iterations"]) == 2


def _stsb(teachers: Teachers) -> Path:
    return teachers.teacher("stsb")
