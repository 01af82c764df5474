"""A schedule that is killed anywhere and resumed ends exactly as the one that was not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model import SparsityAxis
from tests.helpers_minidisc import Teachers, read
from tests.tiny import (
    assert_same_run,
    assert_same_tensors,
    die_after_save,
    die_before_step,
    die_inside_save,
    killed_run,
    rows_of,
    tensors_under,
)
from tests.tiny_bert import run_task
from utils.engine import Trainer
from utils.errors import Interrupted, UserError
from utils.tucker.evaluation import ClassifierEvaluator

pytestmark = pytest.mark.usefixtures("single_thread")

#: A teacher that is not sorted yet, so that a schedule has all of its stages; six steps in each distillation.
MINIDISC = (
    *("--mode", "minidisc", "--lam", 0.2, "--trunc_sparsity", 10),
    *("--eval_step", 2, "--save_step", 2, "--eval_batch_size", 4),
)
MAXIDISC = ("--mode", "maxidisc", "--layer_or_sparsity_path", "50,90S", "--num_train_epochs", 1)
STAGES = {"minidisc": ("iteration-1", "iteration-2"), "maxidisc": ("50S", "50S-90S")}


def command(teachers: Teachers, output: Path, *more: object) -> list[str]:
    """A schedule behind the teacher; by default MiniDisc in two iterations."""
    mode = () if "--mode" in more else MINIDISC
    return teachers.command(output, *mode, *more, teacher=teachers.teacher())


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    """The tiny teachers."""
    return Teachers(tmp_path_factory.mktemp("teachers"))


@pytest.fixture(scope="module")
def whole(teachers: Teachers, tmp_path_factory: pytest.TempPathFactory, single_thread: None) -> Path:
    """MiniDisc in one go."""
    output = tmp_path_factory.mktemp("whole") / "run"
    run_task(command(teachers, output))
    return output


def without_clock(file: Path) -> dict[str, Any]:
    """What schedule.json says, but times and folders."""
    values = read(file)
    return {name: value for name, value in values.items() if name not in ("train_seconds", "source")}


def assert_same_schedule(found: Path, expected: Path, mode: str = "minidisc") -> None:
    """Same weights, states and metrics in every stage, same choices and same result."""
    assert_same_tensors(tensors_under(found / "best"), tensors_under(expected / "best"))
    assert_same_tensors(tensors_under(found / "sparsified" / "best"), tensors_under(expected / "sparsified" / "best"))
    for stage in STAGES[mode]:
        assert_same_run(found / stage, expected / stage)
    assert without_clock(found / "schedule.json") == without_clock(expected / "schedule.json")


# --- where a schedule is killed --------------------------------------------------------------------------------------


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_importance(batch: int) -> None:
    """SIGKILL when the given batch of the importance pass (counted from 1) is about to be used."""
    from utils.minidisc import job

    original, seen = job.classify, 0

    def fatal(*args: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == batch:
            _kill()
        return original(*args)

    job.classify = fatal  # type: ignore[assignment]


def die_before_result(number: int) -> None:
    """SIGKILL when the result.json of the given stage (counted from 1) is about to be written."""
    from utils.minidisc import stages

    original, seen = stages.write_json, 0

    def fatal(target: Path, value: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            _kill()
        original(target, value)

    stages.write_json = fatal


def die_after_result(number: int) -> None:
    """SIGKILL right behind it: between two stages."""
    from utils.minidisc import stages

    original, seen = stages.write_json, 0

    def fatal(target: Path, value: Any) -> None:
        nonlocal seen
        original(target, value)
        seen += 1
        if seen == number:
            _kill()

    stages.write_json = fatal


def die_before_total_step(step: int) -> None:
    """SIGKILL when so many steps of all stages together are done."""
    original, seen = Trainer._step, 0

    def fatal(self: Any, group: Any) -> None:
        nonlocal seen
        if seen == step:
            _kill()
        seen += 1
        original(self, group)

    Trainer._step = fatal  # type: ignore[method-assign]


def die_in_evaluation(scale: int) -> None:
    """SIGKILL inside an evaluation, when so many scales of all evaluations together are done."""
    original, seen = SparsityAxis.commit, 0

    def fatal(self: Any, wanted: float) -> Any:
        nonlocal seen
        seen += 1
        if seen == scale:
            _kill()
        return original(self, wanted)

    SparsityAxis.commit = fatal  # type: ignore[assignment,method-assign]


def die_at_the_end(_: int) -> None:
    """SIGKILL when the best model is copied into the schedule's own folder."""
    from utils.minidisc import job

    job.shutil.copytree = lambda *args, **kwargs: _kill()  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("kill", "at"),
    [
        (die_in_importance, 2),
        (die_before_step, 3),
        (die_after_result, 2),
        (die_before_total_step, 9),
        pytest.param(die_before_result, 1, marks=pytest.mark.slow),
        pytest.param(die_after_result, 1, marks=pytest.mark.slow),
        pytest.param(die_inside_save, 2, marks=pytest.mark.slow),
        pytest.param(die_in_evaluation, 2, marks=pytest.mark.slow),
        pytest.param(die_before_result, 2, marks=pytest.mark.slow),
        pytest.param(die_after_save, 3, marks=pytest.mark.slow),
        pytest.param(die_before_total_step, 6, marks=pytest.mark.slow),
        pytest.param(die_after_result, 3, marks=pytest.mark.slow),
        pytest.param(die_at_the_end, 0, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_killed_and_resumed_is_bit_identical(
    kill: Callable[[int], None], at: int, teachers: Teachers, whole: Path, tmp_path: Path
) -> None:
    """SIGKILL in the importance pass, in either iteration, in a save or evaluation, between stages, at the end."""
    killed_run(command(teachers, tmp_path / "run"), kill, at, run_task)
    run_task(command(teachers, tmp_path / "run", "--resume"))
    assert_same_schedule(tmp_path / "run", whole)


@pytest.mark.slow
def test_killed_four_times_is_bit_identical(teachers: Teachers, whole: Path, tmp_path: Path) -> None:
    """One kill after the other, each inside what the last one left."""
    output = tmp_path / "run"
    killed_run(command(teachers, output), die_in_importance, 1, run_task)
    killed_run(command(teachers, output, "--resume"), die_before_step, 5, run_task)
    killed_run(command(teachers, output, "--resume"), die_after_result, 1, run_task)
    killed_run(command(teachers, output, "--resume"), die_before_step, 3, run_task)
    run_task(command(teachers, output, "--resume"))
    assert_same_schedule(output, whole)


@pytest.mark.slow
def test_a_path_killed_in_its_second_step_is_bit_identical(teachers: Teachers, tmp_path: Path) -> None:
    """MaxiDisc: the assistant is not made again."""
    run_task(command(teachers, tmp_path / "one", *MAXIDISC))
    killed_run(command(teachers, tmp_path / "two", *MAXIDISC), die_before_total_step, 4, run_task)
    before = (tmp_path / "two" / "50S" / "result.json").stat().st_mtime_ns
    run_task(command(teachers, tmp_path / "two", *MAXIDISC, "--resume"))
    assert (tmp_path / "two" / "50S" / "result.json").stat().st_mtime_ns == before
    assert_same_schedule(tmp_path / "two", tmp_path / "one", "maxidisc")


def test_the_best_metric_of_every_scale_survives(
    teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind two evaluations and never as good again: the table and the choice are those of before."""
    killed_run(command(teachers, tmp_path / "run"), die_before_step, 5, run_task)
    stage = tmp_path / "run" / "iteration-1"
    values = [row for row in rows_of(stage) if row["split"] == "valid"]
    best = {scale: max(row[f"accuracy@{100 * scale:g}"] for row in values) for scale in (0.1, 0.5, 0.9)}
    choice = read(stage / "best" / "choice.json")
    monkeypatch.setattr(ClassifierEvaluator, "__call__", lambda self: {"accuracy": 0.0, "loss": 1.0})
    run_task(command(teachers, tmp_path / "run", "--resume"))
    first = read(tmp_path / "run" / "schedule.json")["iterations"][0]
    assert {row["scale"]: row["accuracy"] for row in first["table"]} == best and len(values) == 2
    assert (first["scale"], first["score"]) == (choice["scale"], choice["score"])


def test_a_signal_saves_and_names_the_stage(
    teachers: Teachers, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the first iteration: saved there, and resumed to the same end."""
    original = Trainer._step

    def signalled(self: Trainer, group: Any) -> None:
        original(self, group)
        if self.progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", signalled)
        with pytest.raises(Interrupted, match=r"saved step 3 in .*/iteration-1\."):
            run_task(command(teachers, tmp_path / "run"))
    run_task(command(teachers, tmp_path / "run", "--resume"))
    assert_same_schedule(tmp_path / "run", whole)


def test_resuming_a_complete_schedule_trains_nothing(
    teachers: Teachers, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every stage is found complete; the result stays."""
    before = read(whole / "result.json")
    run_task(command(teachers, whole, "--resume"))
    assert capsys.readouterr().out.count(": complete in ") == 3 and read(whole / "result.json") == before


def test_another_schedule_in_the_same_folder_is_refused(teachers: Teachers, whole: Path) -> None:
    """Without --resume, and with --resume and other flags; nothing is touched."""
    before = tensors_under(whole)
    with pytest.raises(UserError, match="holds a run that is complete: name another"):
        run_task(command(teachers, whole))
    with pytest.raises(UserError, match=r"--lam 0\.5 \(was 0\.2\)"):
        run_task(command(teachers, whole, "--resume", "--lam", 0.5))
    assert_same_tensors(tensors_under(whole), before)


def test_overwrite_begins_anew(teachers: Teachers, tmp_path: Path) -> None:
    """No stage of the schedule before is left."""
    run_task(command(teachers, tmp_path / "run", *MAXIDISC, "--max_steps", 1))
    other = ("--mode", "distill", "--layer_or_sparsity", "10S", "--max_steps", 1)
    run_task(command(teachers, tmp_path / "run", *other, "--overwrite"))
    assert sorted(path.parent.name for path in (tmp_path / "run").glob("*/result.json")) == ["10S", "sparsified"]
