"""SIGKILL at random moments of every entry script and of every stage of a schedule: no run is lost.

`TOOLKIT_KILLS` is the number of kills of each (default: 20); the summary of the tests tells kills and lost runs.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.tiny import Tiny, assert_same_run, assert_same_tensors, run, start_run, tensors_under
from tests.tiny_bert import TinyBert, run_general, run_task
from utils.errors import Interrupted

pytestmark = [pytest.mark.usefixtures("single_thread"), pytest.mark.slow]

_KILLS = int(os.environ.get("TOOLKIT_KILLS", "20"))
Script = Callable[[Sequence[str]], None]


class Case(NamedTuple):
    """A command without its --resume, and the folders of its stages."""

    script: Script
    command: Callable[[Path], list[str]]
    stages: tuple[str, ...]


class Commands:
    """The commands that are killed, each with what it needs."""

    def __init__(self, tiny: Tiny, root: Path) -> None:
        self.t5, self.bert, self.root = tiny, TinyBert(root / "data"), root
        self.teacher, self.general = root / "teacher", root / "general"

    def case(self, name: str) -> Case:
        """The case of this name."""
        case: Case = getattr(self, name)()
        return case

    def classification(self) -> Case:
        """train_t5.py: the whole T5, saved every 2 of 12 steps."""
        flags = ("--epochs", 2, "--save-step", 2)
        return Case(run, lambda output: self.t5.sst2(output, *flags), ("",))

    def plugins(self) -> Case:
        """train_t5.py: plugins of two ratios, accumulation, validation inside the epoch, early stopping."""
        plugins = ("--distil", "task-hidden", "--mux-num", 2, 4, "--residual-scale", 1, "--grad-accumulation", 2)
        flags = (*plugins, "--epochs", 3, "--valid-step", 2, "--patience", 3)
        return Case(run, lambda output: self.t5.sst2(output, *flags), ("",))

    def streamed(self) -> Case:
        """train_t5.py: plugins on a streamed corpus."""
        steps = ("--epochs", 3, "--training-step", 24, "--warmup-step", 5, "--save-step", 3, "--valid-step", 7)
        flags = ("--distil", "hidden", "--mux-num", 4, *steps)
        return Case(run, lambda output: self.t5.wiki(output, *flags), ("",))

    def general_distillation(self) -> Case:
        """general_distill.py: decomposed student, saved every 2 of 10 steps."""
        ranks = ("--init_from_teacher", "--use_swap", "--rank_layer", 5, "--rank_condim", 12, "--rank_dim", 10)
        flags = (*ranks, "--eval_step", 4, "--save_step", 2)
        return Case(run_general, lambda output: self.bert.general(output, *flags), ("",))

    def finetuning(self) -> Case:
        """task_distill.py: a teacher."""
        flags = ("--mode", "finetune", "--teacher_model", self.bert.model, "--num_train_epochs", 4, "--save_step", 2)
        return Case(run_task, lambda output: self.bert.task(output, *flags), ("",))

    def both_stages(self) -> Case:
        """task_distill.py: the two stages of a decomposed student."""
        models = ("--teacher_model", self._teacher(), "--student_model", self._general(), "--stage", "both")
        flags = (*models, "--num_train_epochs", 3, "--save_step", 2)
        return Case(run_task, lambda output: self.bert.task(output, *flags), ("intermediate", "prediction"))

    def maxidisc(self) -> Case:
        """task_distill.py: an assistant and a student."""
        flags = (*self._schedule("maxidisc"), "--layer_or_sparsity_path", "50,90S")
        return Case(run_task, lambda output: self.bert.task(output, *flags), ("sparsified", "50S", "50S-90S"))

    def minidisc(self) -> Case:
        """task_distill.py: all scales at once, then the target."""
        flags = (*self._schedule("minidisc"), "--lam", 0.2, "--trunc_sparsity", 10, "--eval_step", 2)
        stages = ("sparsified", "iteration-1", "iteration-2")
        return Case(run_task, lambda output: self.bert.task(output, *flags), stages)

    def _schedule(self, mode: str) -> tuple[object, ...]:
        grid = ("--grid", "10,50,90", "--num_train_epochs", 2, "--save_step", 2)
        return ("--mode", mode, "--teacher_model", self._teacher(), *grid)

    def _teacher(self) -> Path:
        if not self.teacher.exists():
            run_task(self.bert.task(self.teacher, "--mode", "finetune", "--teacher_model", self.bert.model))
        return self.teacher

    def _general(self) -> Path:
        if not self.general.exists():
            ranks = ("--init_from_teacher", "--use_swap", "--rank_layer", 5, "--rank_condim", 12, "--rank_dim", 10)
            run_general(self.bert.general(self.general, *ranks, "--max_steps", 2))
        return self.general


CASES = {
    "classification": ("",),
    "plugins": ("",),
    "streamed": ("",),
    "general_distillation": ("",),
    "finetuning": ("",),
    "both_stages": ("intermediate", "prediction"),
    "maxidisc": ("sparsified", "50S", "50S-90S"),
    "minidisc": ("sparsified", "iteration-1", "iteration-2"),
}


@pytest.fixture(scope="module")
def commands(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """The commands."""
    return Commands(tiny, tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="module")
def undisturbed(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A case's directory after one go (each made once)."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("undisturbed") / "run"
            case = commands.case(name)
            case.script(case.command(made[name]))
        return made[name]

    return of


def assert_same(found: Path, expected: Path, case: Case) -> None:
    """Every weight and state in every folder; metrics and position of every stage that trains."""
    assert_same_tensors(tensors_under(found), tensors_under(expected))
    for stage in case.stages:
        if (expected / stage / "checkpoints").is_dir():
            assert_same_run(found / stage, expected / stage)


def killed(case: Case, output: Path, stage: Path, wait_s: float) -> bool:
    """SIGKILL to the run, so long after a stage has begun; whether it came before the end."""
    process: Any = start_run(case.command(output), script=case.script)
    while process.is_alive() and not (stage / "arguments.json").exists():
        time.sleep(0.002)
    time.sleep(wait_s)
    process.kill()
    process.join()
    return bool(process.exitcode == -signal.SIGKILL)


@pytest.mark.parametrize(("name", "stage"), [(name, stage) for name, stages in CASES.items() for stage in stages])
def test_killed_at_random_moments(
    name: str,
    stage: str,
    commands: Commands,
    undisturbed: Callable[[str], Path],
    tmp_path: Path,
    kill_counts: dict[str, tuple[int, int]],
) -> None:
    """Between steps, in a save, an evaluation, the building: --resume auto ends bit for bit as undisturbed."""
    expected, case, rng = undisturbed(name), commands.case(name), random.Random(f"{name}/{stage}")
    assert case.stages == CASES[name]
    begun, ended = (expected / stage / file for file in ("arguments.json", "result.json"))
    duration_s = max(0.05, ended.stat().st_mtime - begun.stat().st_mtime)
    lost: list[str] = []
    tried, output = 0, tmp_path / "run"
    for _ in range(5 * _KILLS):
        wait_s = rng.uniform(0, duration_s)
        if killed(case, output, output / stage, wait_s):
            tried += 1
            try:
                case.script([*case.command(output), "--resume", "auto"])
                assert_same(output, expected, case)
            except Interrupted:  # the tests themselves are stopped
                raise
            except (Exception, SystemExit) as error:
                lost.append(f"killed {wait_s:.3f} s after its beginning: {error!r}")
        else:
            duration_s = wait_s  # it was over by then: the undisturbed run was slower
        shutil.rmtree(output)
        if tried == _KILLS:
            break
    kill_counts[f"{name}{stage and ':'}{stage}"] = tried, len(lost)
    assert tried == _KILLS and not lost, lost
