"""What a plan proposes: how a plain model gets sizes, how the chosen one is written, distilled and used."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from model.weights import read_json
from tests.helpers_hints import check, proposals
from tests.helpers_minidisc import Teachers
from tests.tiny import Tiny
from tests.tiny import run as run_t5
from tests.tiny_bert import run_task, save_bert
from utils.errors import UserError
from utils.hints import ROOT
from utils.plan import __main__ as plan_script

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = ("--batch", "2", "--length", "8", "--repeats", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    """A fine-tuned tiny BERT, and the same with heads and neurons sorted."""
    return Teachers(tmp_path_factory.mktemp("teachers"))


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs a plan; gives what it printed and the commands that it proposes, all of which are understood."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*words: object, code: int = 0) -> tuple[str, list[list[str]]]:
        capsys.readouterr()
        given = [*map(str, words), *SMALL]
        if code:
            with pytest.raises(SystemExit) as stop:
                plan_script.main(given)
            assert stop.value.code == code
        else:
            plan_script.main(given)
        printed = capsys.readouterr().out
        found = proposals(printed)
        for one in found:
            check(one)
        return printed, found

    return run


def after(words: list[str], flag: str) -> str:
    """The value of a flag."""
    return words[words.index(flag) + 1]


@pytest.mark.parametrize("budget", ["macs<=1x", "macs<=0.5x"])
def test_a_plain_classifier_is_offered_every_axis_whether_it_fits_or_not(teachers, plan, budget) -> None:
    printed, found = plan("--model", teachers.teacher(), "--budget", budget, code=int(budget == "macs<=0.5x"))
    assert (
        "has one size. Smaller ones are listed or made by sparsity, rank, ratio and layers, in this order:" in printed
    )
    assert [words[2:4] for words in found[:2]] == [["--mode", "sparsify"], ["--mode", "sparsify"]]
    assert after(found[1], "--axis") == "rank" and after(found[2], "--mode") == "adapt"
    assert after(found[3], "--axis") == "layers" and after(found[3], "--budget") == budget
    assert all(after(words, "--max_seq_length") == "32" for words in found[:3])
    assert after(found[0], "--teacher_model") == str(teachers.teacher())


@pytest.mark.parametrize(("axis", "mode"), [("sparsity", "sparsify"), ("rank", "sparsify"), ("ratio", "adapt")])
def test_an_axis_that_a_plain_model_could_take_is_offered_instead_of_refused(teachers, plan, axis, mode) -> None:
    _, found = plan("--model", teachers.teacher(), "--budget", "macs<=0.5x", "--axis", axis, code=1)
    assert [after(words, "--mode") for words in found] == [mode]


def test_a_model_without_a_task_is_offered_its_layers_and_told_what_the_rest_needs(plan, tmp_path) -> None:
    model = save_bert(tmp_path / "bert")
    printed, found = plan("--model", model, "--budget", "macs<=0.7x", code=1)
    assert [after(words, "--axis") for words in found] == ["layers"]
    assert "fine-tuned on a task, it would have some by sparsity, rank and ratio too" in printed
    chosen, (write,) = plan(*found[0][3:])
    assert "chosen: bert 1L" in chosen and after(write, "--commit").endswith("bert-cut-1L")


def test_a_classifier_of_an_unknown_task_is_told_which_flags_are_lacking(teachers, plan, tmp_path) -> None:
    copy = shutil.copytree(teachers.teacher() / "best", tmp_path / "copy", ignore=shutil.ignore_patterns("arguments*"))
    printed, found = plan("--model", copy, "--budget", "macs<=0.5x", code=1)
    assert "--task_name and --data_dir, which name its task's rows" in printed and len(found) == 1
    data = ("--task", "sst2", "--data", teachers.tiny.glue)
    _, found = plan("--model", copy, "--budget", "macs<=0.5x", *data, code=1)
    assert len(found) == 4 and after(found[0], "--data_dir") == str(teachers.tiny.glue)


def test_a_t5_is_offered_plugins_on_its_own_data(tiny: Tiny, plan, tmp_path) -> None:
    run_t5(tiny.sst2(tmp_path / "run"))
    _, found = plan("--model", tmp_path / "run", "--budget", "macs<=0.5x", code=1)
    assert after(found[0], "--mux_num") == "2" and after(found[0], "--data_dir") == str(tiny.glue)


def test_a_chosen_cut_is_distilled_from_the_sorted_teacher_or_written(teachers, plan) -> None:
    printed, (distil, write) = plan("--model", teachers.sorted(), "--budget", "macs<=0.8x")
    assert "chosen: sorted-sst2 50S" in printed
    assert after(distil, "--layer_or_sparsity") == "50S"
    assert after(distil, "--teacher_model") == str(teachers.sorted())
    assert after(distil, "--output_dir").endswith("sorted-sst2-50S")
    again, (distil, *_) = plan(*write[3:])
    assert "it has not learnt since it was cut" in again
    assert after(distil, "--layer_or_sparsity") == after(write, "--commit")


@pytest.mark.parametrize(
    ("axis", "kept"), [("sparsity", "pruning"), ("rank", "decomposition"), ("layers", "layer_drop")]
)
def test_the_cut_that_was_written_is_what_the_proposed_command_trains(teachers, plan, tmp_path, axis, kept) -> None:
    """Pasted with one step, it ends with a student of the size that was written, on every axis."""
    run, whole = teachers.teacher(), list[object]()
    if axis != "layers":
        run = tmp_path / axis
        teachers.run(run, "--mode", "sparsify", "--axis", axis, teacher=teachers.teacher())
        whole = ["--whole", teachers.teacher()]
    grid = () if axis == "layers" else ("--grid", "50")
    written = tmp_path / "cut"
    words = ("--model", run, *whole, "--axis", axis, *grid, "--budget", "params<=0.9x", "--commit", written)
    _, (distil, *_) = plan(*words)
    run_task([*distil[2:], "--max_steps", "1", "--batch_size", "4"])
    sizes = [read_json(place / "config.json") for place in (written, Path(after(distil, "--output_dir")) / "best")]
    assert sizes[0]["compression"] == sizes[1]["compression"]
    assert [edit["kind"] for edit in sizes[0]["compression"]] == [kept]


def test_ranks_are_distilled_from_the_model_that_was_decomposed(teachers, plan, tmp_path) -> None:
    """The decomposition alone has lost what the fine-tuned teacher knows."""
    ranks = ("--rank_layer", 16, "--rank_condim", 24, "--rank_dim", 24)
    run = tmp_path / "decomposed"
    teachers.run(run, "--mode", "sparsify", "--axis", "rank", *ranks, teacher=teachers.teacher())
    words = ("--model", run, "--axis", "rank", "--grid", "50", "--budget", "params<=0.5x")
    with pytest.raises(UserError, match=f"count from its teacher with --whole {teachers.teacher()}"):
        plan(*words)
    _, (distil, write) = plan(*words, "--whole", teachers.teacher())
    assert after(distil, "--layer_or_sparsity") == "0R" and after(distil, "--rank_condim") == "24"
    assert after(plan(*write[3:])[1][0], "--layer_or_sparsity") == after(write, "--commit")
    _, (distil, _) = plan(*words, "--budget", "params<=0.3x", "--whole", teachers.teacher())
    assert after(distil, "--layer_or_sparsity") == "50R" and after(distil, "--rank_layer") == "16"
    assert after(distil, "--teacher_model") == str(teachers.teacher())


def test_a_chosen_ratio_is_written_and_then_served(teachers, plan, tmp_path) -> None:
    words = teachers.tiny.task(
        tmp_path / "run", "--mode", "adapt", "--mux_num", 2, "--student_model", teachers.teacher()
    )
    run_task(words)
    _, (write,) = plan("--model", tmp_path / "run", "--budget", "macs<=1x")
    assert after(write, "--commit").startswith(str(tmp_path / "run-k"))
    _, (serve,) = plan(*write[3:])
    assert serve[2] == "serving" and after(serve, "--task_name") == "sst2"


def test_a_scale_that_no_student_was_kept_of_is_distilled_by_the_command_that_is_told(teachers, plan, tmp_path) -> None:
    run = tmp_path / "minidisc"
    teachers.run(run, "--mode", "minidisc", "--grid", "50,90", "--num_train_epochs", 1)
    printed, _ = plan("--model", run, "--whole", teachers.sorted(), "--budget", "macs<=0.9x")
    (line,) = [line for line in printed.splitlines() if line.startswith("to distil one: ")]
    words = shlex.split(line.removeprefix("to distil one: "))
    check(words)
    assert after(words, "--teacher_model") == str(teachers.sorted())
