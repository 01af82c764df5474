"""Schedules over ranks, layers and plugin ratios by the real script: the same code as for sparsity."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from dataset import get_task
from model import DecompositionConfig, LayerDropConfig, ModelError, PluginConfig, current_ratio, find_edit
from model.decomposition import at_ranks, ranks_at
from model.decomposition.surgery import matrix_bank
from tests.helpers_minidisc import Teachers, logits_of, read
from tests.tiny import (
    assert_same_run,
    assert_same_tensors,
    backbone,
    die_before_step,
    killed_run,
    rows_of,
    tensors_under,
)
from tests.tiny_bert import run_task
from utils.errors import UserError
from utils.minidisc.arguments import steps_of
from utils.studies.axes import ROWS
from utils.tucker.loading import load_classifier
from utils.tucker.task_arguments import parse_task_arguments

pytestmark = pytest.mark.usefixtures("single_thread")
SST2 = get_task("sst2")
RANK = ("--mode", "minidisc", "--axis", "rank", "--target", "60R", "--grid", "0,30,60", "--num_train_epochs", 1)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    """The tiny teachers."""
    return Teachers(tmp_path_factory.mktemp("teachers"))


def load(folder: Path) -> Any:
    """A model as it reloads."""
    return load_classifier(str(folder), SST2, trained=True)


def checked(run: Path, axis: str, texts: list[str], last: str) -> dict[str, Any]:
    """schedule.json of two iterations: which axis, all scales as they are written, and the choice among them."""
    schedule = read(run / "schedule.json")
    first, second = schedule["iterations"]
    assert schedule["axis"] == axis and [row["written"] for row in first["table"]] == texts
    best = max(first["table"], key=lambda row: row["tradeoff"])
    assert first["written"] == best["written"] and second["written"] == last
    for row in first["table"]:
        assert row["tradeoff"] == pytest.approx(row["accuracy"] + 0.2 * row["scale"])
    for split, name in (("train", "loss"), ("valid", "accuracy")):  # every scale by its number in the axis' unit
        told = next(row for row in rows_of(run / "iteration-1") if row["split"] == split)
        assert {key for key in told if "@" in key} == {f"{name}@{text[:-1]}" for text in texts}
    assert (run / "schedule.png").is_file()
    return schedule


def test_minidisc_over_ranks(teachers: Teachers, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The dense teacher is decomposed, all ranks train at once, the target has the ranks that it claims."""
    run, teacher = tmp_path / "run", teachers.teacher()
    result = teachers.run(run, *RANK, "--do_eval", "--no-costs", teacher=teacher)
    checked(run, "rank", ["0R", "30R", "60R"], "60R")
    base, found = load(run / "decomposed"), load(run)
    ranks = matrix_bank(base).ranks
    assert ranks == {"rank_layer": 21, "rank_condim": 21, "rank_dim": 21}  # two thirds of 4 x 8 blocks and of width 32
    edit = find_edit(found, DecompositionConfig)
    assert edit is not None and edit.rank_layer == ranks_at(ranks, 0.6)["rank_layer"] == 9
    assert result["num_params"] == at_ranks(base, ranks_at(ranks, 0.6)).num_parameters() == found.num_parameters()
    assert read(run / "evaluation.json")["metrics"]["accuracy"] == pytest.approx(result["best_value"])
    arguments = [read(run / f"iteration-{i}" / "arguments.json")["arguments"] for i in (1, 2)]
    assert [given["teacher"] for given in arguments] == [str(teacher), str(run / "iteration-1" / "best")]
    said = capsys.readouterr().out
    assert "iteration 1: all of 0 30 60 at once" in said and "assistant: " in said and "protocol IV" in said


def test_minidisc_over_layers(teachers: Teachers, tmp_path: Path) -> None:
    """All depths of a sorted teacher from --trunc on; the target has the layers that it claims."""
    run = tmp_path / "run"
    options = ("--mode", "minidisc", "--axis", "layers", "--target", "1L", "--trunc", "3L", "--num_train_epochs", 1)
    source = teachers.sorted()
    run_task(teachers.tiny.task(run, "--teacher_model", source, *options))
    checked(run, "layers", ["3L", "2L", "1L"], "1L")
    edit = find_edit(load(run), LayerDropConfig)
    assert edit is not None and edit.layers == (0,)


@pytest.mark.slow
def test_minidisc_over_ratios(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """An EncT5 gets plugins for every ratio; the assistant keeps the target's, the target is on when it is loaded."""
    made, run = Teachers(tmp_path_factory.mktemp("t5-teachers")), tmp_path / "run"
    made.tiny.model = backbone(tmp_path_factory.mktemp("t5") / "model")
    options = ("--mode", "minidisc", "--axis", "ratio", "--target", "4K", "--grid", "1,2,4", "--num_train_epochs", 1)
    result = made.run(run, *options, "--lam", 0, "--do_eval", "--no-costs", teacher=made.teacher())
    schedule = read(run / "schedule.json")
    assert [row["written"] for row in schedule["iterations"][0]["table"]] == ["1K", "2K", "4K"]
    assistant, found = load(run / "iteration-1"), load(run)
    edit = find_edit(assistant, PluginConfig)
    assert edit is not None and 4 in edit.ratios
    assert f"{current_ratio(assistant)}K" == schedule["iterations"][0]["written"]
    assert current_ratio(found) == 4 and (edit := find_edit(found, PluginConfig)) is not None and edit.ratios == (4,)
    assert read(run / "evaluation.json")["metrics"]["accuracy"] == pytest.approx(result["best_value"])


def test_paths_over_ranks_sort_an_assistant_before_they_cut_it(teachers: Teachers, tmp_path: Path) -> None:
    """0,50R of protocol II: at a rate of 0 the student is the best approximation of the assistant at its rank."""
    options = ("--mode", "maxidisc", "--layer_or_sparsity_path", "0,50R", "--learning_rate", 0, "--max_steps", 1)
    teachers.run(tmp_path / "run", *options, "--protocol", "II", "--rank_dim", 8, teacher=teachers.teacher())
    run = tmp_path / "run"
    assistant, found = load(run / "0R"), load(run / "0R-50R")
    whole, cut = (matrix_bank(model).matrices(slice(None)).detach() for model in (assistant, found))
    best = torch.linalg.svdvals(whole)[:, 4:].norm()
    assert float((whole - cut).norm()) == pytest.approx(float(best), rel=1e-4)
    assert read(run / "0R" / "arguments.json")["arguments"]["teacher"] == str(teachers.teacher())
    control = ("--mode", "sparsify", "--layer_or_sparsity", "50R", "--protocol", "II", "--rank_dim", 8)
    teachers.run(tmp_path / "control", *control, teacher=teachers.teacher())
    torch.testing.assert_close(logits_of(load(tmp_path / "control")), logits_of(found), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_schedule_over_ranks_that_was_killed_ends_as_the_whole_one(teachers: Teachers, tmp_path: Path) -> None:
    """Bit for bit, in every stage."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    options = (*RANK, "--eval_step", 1, "--save_step", 1)
    run_task(teachers.command(whole, *options, teacher=teachers.teacher()))
    killed_run(teachers.command(run, *options, teacher=teachers.teacher()), die_before_step, 2, run_task)
    run_task(teachers.command(run, *options, "--resume", teacher=teachers.teacher()))
    for stage in ("iteration-1", "iteration-2"):
        assert_same_run(run / stage, whole / stage)
    for folder in ("decomposed/best", "best"):
        assert_same_tensors(tensors_under(run / folder), tensors_under(whole / folder))


# --- what cannot be --------------------------------------------------------------------------------------------------

_GIVEN = "--task_name sst2 --data_dir data --output_dir out --teacher_model teacher"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--mode minidisc --axis rank", "--mode minidisc --axis rank needs --target, removed ranks such as 60R"),
        (
            "--mode minidisc --axis rank --target 4L",
            "--target: 4L is none of the ranks: expected removed ranks such as",
        ),
        (
            "--mode minidisc --axis rank --target 100R",
            "--target: '100R': removed ranks are from 0 to below 100 percent",
        ),
        ("--mode minidisc --axis rank --target 60R --grid 20,40", "--target 60R is not in --grid 20R, 40R"),
        ("--mode minidisc --axis rank --target 60R --grid 20,40S,60", "--grid: 40S is none of the ranks"),
        ("--mode minidisc --axis rank --target 60R --trunc 70R", "--trunc 70R leaves no assistant before --target 60R"),
        ("--mode minidisc --axis layers --target 4L --trunc 2L", "--trunc 2L leaves no assistant before --target 4L"),
        ("--mode minidisc --axis layers --target 2.5L", "--target: '2.5L': layers are a whole number of at least 1"),
        ("--mode minidisc --axis ratio --target 4K", "--mode minidisc --axis ratio needs --grid, such as 2,4"),
        ("--mode minidisc --axis rank --target 60R --target_sparsity 80", "--target_sparsity is for --axis sparsity"),
        ("--mode minidisc --target 60R", "--target is for another --axis: give --target_sparsity"),
        ("--mode distill --axis rank --layer_or_sparsity 4L", "--axis rank: 4L is none of its scales"),
        ("--mode maxidisc --layer_or_sparsity_path 60,30R", "goes from 60R to 30R: .* that is fewer ranks"),
        ("--mode maxidisc --layer_or_sparsity_path 4,2K", "goes from 4K to 2K: .* that is a higher ratio"),
        ("--mode maxidisc --layer_or_sparsity_path 30R,4K", r"mixes ranks \(R\) and ratios \(K\)"),
        ("--mode distill --layer_or_sparsity 60R --from_scratch", "--from_scratch has no place here"),
        (
            "--mode distill --layer_or_sparsity 4L --rank_dim 4",
            "--use_swap and its ranks belong to decomposed students",
        ),
        ("--mode finetune --axis rank", "--axis belongs to --mode minidisc, found --mode finetune"),
    ],
)
def test_scales_of_another_axis_are_told(flags: str, message: str) -> None:
    """One sentence that names the flag."""
    with pytest.raises(UserError, match=message):
        run_task([*_GIVEN.split(), *flags.split()])


def test_the_studys_rows_are_calls_of_the_script() -> None:
    """Every row of every axis parses, and asks for the same student."""
    for axis, rows in ROWS.items():
        calls = [parse_task_arguments([*_GIVEN.split(), *shlex.split(flags)])[1][0].schedule for flags in rows.values()]
        asked = {(c.target or c.layer_or_sparsity or "") for c in calls if not c.layer_or_sparsity_path}
        paths = {step.text for c in calls for path in steps_of(c, "maxidisc") for step in path[-1:]}
        assert len(asked) == 1 and paths == asked, axis


def test_teachers_without_students_of_an_axis_are_refused(teachers: Teachers, tmp_path: Path) -> None:
    """Before anything is written: ranks beside a decomposed teacher, a layer too many."""
    teacher = teachers.teacher()
    decomposed = ("--mode", "sparsify", "--axis", "rank", "--protocol", "II", "--rank_dim", 4)
    teachers.run(tmp_path / "base", *decomposed, teacher=teacher)
    for source, flags, message in (
        (tmp_path / "base", (*RANK, "--rank_dim", 4), "is decomposed already, and its ranks are the base"),
        (tmp_path / "base", ("--mode", "distill", "--layer_or_sparsity", "2L"), "carries the edit 'decomposition'"),
        (teacher, ("--mode", "minidisc", "--axis", "layers", "--target", "9L", "--grid", "9,8"), "cannot become 9L"),
        (
            teachers.sorted(),
            (*RANK, "--protocol", "II", "--rank_dim", 4, "--rank_layer", 4),
            "rank_layer has no meaning in protocol II",
        ),
    ):
        with pytest.raises((UserError, ModelError), match=message):
            teachers.run(tmp_path / "refused", *flags, teacher=source)
        assert not (tmp_path / "refused").exists()
