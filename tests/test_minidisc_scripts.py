"""The launchers of scripts/minidisc, run with the stand-in for Python of `test_scripts`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.test_scripts import ROOT, calls, flag, launch, repository
from utils.tucker.task_arguments import parse_task_arguments

__all__ = ["repository"]
SCHEDULES = ("distillation.sh", "maxidisc.sh", "minidisc.sh")


@pytest.fixture
def minidisc(repository: Path) -> Path:
    """The repository with these launchers, and those that they use, as well."""
    for name in ("bert", "minidisc"):
        shutil.copytree(ROOT / "scripts" / name, repository / "scripts" / name, dirs_exist_ok=True)
    (repository / "data" / "glue" / "mrpc").mkdir(parents=True)
    return repository


def stages_called(root: Path) -> list[str]:
    """The calls of the entry script."""
    return [call for call in calls(root) if "task_distill.py" in call]


def run_all(root: Path, model: str, task: str, *flags: str) -> None:
    """Every launcher once, in the order of the method."""
    for name in ("finetuning.sh", "sparsification.sh", *SCHEDULES):
        done = launch(root, f"minidisc/{name}", model, task, *flags)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("model", "task"), [("tiny", "sst2"), ("tiny", "conll"), ("google/bert-small", "mrpc")])
def test_stages_find_each_others_output(minidisc: Path, model: str, task: str) -> None:
    """Teacher, sorted teacher, and the three schedules of that one: each reads what the one before wrote."""
    run_all(minidisc, model, task)
    finetuning, sparsification, *schedules = stages_called(minidisc)
    assert flag(finetuning, "--mode") == "finetune" and flag(sparsification, "--mode") == "sparsify"
    assert flag(sparsification, "--teacher_model") == flag(finetuning, "--output-path")
    assert [flag(call, "--mode") for call in schedules] == ["distill", "maxidisc", "minidisc"]
    folders = {flag(call, "--output-path") for call in schedules}
    assert len(folders) == 3 and all(model.split("/")[-1] in folder and task in folder for folder in folders)
    for call in schedules:
        assert flag(call, "--teacher_model") == flag(sparsification, "--output-path")
        assert flag(call, "--task_name") == task


@pytest.mark.parametrize("task", ["sst2", "conll"])
def test_the_commands_are_ones_that_the_script_understands(minidisc: Path, task: str) -> None:
    """What the launchers pass is parsed and planned without a complaint."""
    run_all(minidisc, "tiny", task)
    for call in stages_called(minidisc):
        words = call.split()
        parse_task_arguments(words[words.index("task_distill.py") + 1 :])


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["distillation.sh", "tiny", "sst2", "--layer_or_sparsity", "2L"], "distillation-2L"),
        (["distillation.sh", "tiny", "sst2", "--layer_or_sparsity", "runs/m=1/best"], "distillation-runs--m=1--best"),
        (["maxidisc.sh", "tiny", "sst2", "--layer_or_sparsity_path", "70,90S;80,90S"], "maxidisc-70-90S-80-90S"),
        (["minidisc.sh", "tiny", "sst2", "--target_sparsity", "95"], "minidisc-95S"),
    ],
)
def test_every_student_has_a_folder_of_its_own(minidisc: Path, words: list[str], name: str) -> None:
    """Named after its scale or path; the flag reaches the script."""
    done = launch(minidisc, f"minidisc/{words[0]}", *words[1:], "--dry-run")
    assert done.returncode == 0, done.stderr
    call = done.stdout.splitlines()[-1]
    assert flag(call, "--output-path").endswith(f"/sst2/{name}") and words[-2] in call


def test_a_second_call_runs_nothing_again(minidisc: Path) -> None:
    """Finished stages are skipped, for each launcher."""
    for _ in range(2):
        run_all(minidisc, "tiny", "sst2")
    assert len(stages_called(minidisc)) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetuning.sh", "tiny", "cola"], "TASK cola: unknown; known: mnli"),
        (["minidisc.sh", "tiny"], "expected 2 argument"),
        (["sparsification.sh", "tiny", "sst2"], "bash scripts/minidisc/finetuning.sh tiny sst2"),
        (["minidisc.sh", "tiny", "sst2"], "bash scripts/minidisc/sparsification.sh tiny sst2"),
        (["minidisc.sh", "tiny", "sst2", "--teacher_model", "x"], "--teacher-model: set by each stage"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_makes_it(
    minidisc: Path, words: list[str], message: str
) -> None:
    """Exit code 2."""
    done = launch(minidisc, f"minidisc/{words[0]}", *words[1:])
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("name", ["finetuning.sh", "sparsification.sh", *SCHEDULES])
def test_dry_run_changes_nothing(minidisc: Path, name: str) -> None:
    """The commands are printed, none is run, no file appears."""
    before = sorted(minidisc.rglob("*"))
    done = launch(minidisc, f"minidisc/{name}", "tiny", "sst2", "--dry-run")
    assert done.returncode == 0 and "task_distill.py" in done.stdout, done.stderr
    assert sorted(minidisc.rglob("*")) == before


def test_the_teacher_of_another_model_is_not_taken(minidisc: Path) -> None:
    """runs/m2/best has no teacher, whatever runs/m1/best has: the command that makes it is named."""
    (minidisc / "data/glue/sst2").mkdir()
    for name in ("finetuning.sh", "sparsification.sh"):
        assert launch(minidisc, f"minidisc/{name}", "runs/m1/best", "sst2").returncode == 0
    for name in ("sparsification.sh", *SCHEDULES):
        done = launch(minidisc, f"minidisc/{name}", "runs/m2/best", "sst2")
        assert done.returncode == 2 and "runs/m2/best sst2" in done.stderr
    assert launch(minidisc, "minidisc/finetuning.sh", "runs/m2/best", "sst2").returncode == 0
    assert len({flag(call, "--output-path") for call in stages_called(minidisc)}) == 3


def test_data_of_the_original_release_are_found(minidisc: Path) -> None:
    """datasets/TASK serves where data/glue/TASK is missing; what nobody may fetch is asked of the user."""
    (minidisc / "datasets" / "conll").mkdir(parents=True)
    for task, expected in (("conll", "datasets"), ("mrpc", "data/glue")):
        call = launch(minidisc, "minidisc/finetuning.sh", "bert-x", task, "--dry-run").stdout.splitlines()[-1]
        assert flag(call, "--data_dir") == expected
    shutil.rmtree(minidisc / "datasets")
    shutil.rmtree(minidisc / "data")
    for task in ("conll", "wnut17"):
        done = launch(minidisc, "minidisc/finetuning.sh", "bert-x", task)
        assert done.returncode == 2 and "save_data" not in done.stderr and "train.txt" in done.stderr
    assert "save_data.py --only mrpc" in launch(minidisc, "minidisc/finetuning.sh", "bert-x", "mrpc").stderr
