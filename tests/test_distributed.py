"""Two processes against one with the same rows per step: the same losses, weights and metrics, and no deadlock."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_engines import assert_close, assert_equal_runs
from tests.helpers_ranks import (
    Prepare,
    free_port,
    full_disk_on_the_first,
    open_mpi_variables,
    run_ranks,
    sigterm_at_different_steps,
    sigterm_to_the_first,
    sigterm_to_the_second,
    sigterm_while_evaluating,
    spoil_the_second,
)
from tests.tiny import Tiny, assert_same_run, result_of, rows_of, run, write_sst2
from utils.engine import RunDirectory
from utils.engine.checkpoint import list_checkpoints
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("one_thread")


class Pair:
    """Arguments of the same run for one process, and for each of two with half the rows."""

    def __init__(self, tiny: Tiny, root: Path, train: int, *more: object) -> None:
        self.tiny, self.root, self.more = tiny, root, more
        self.one, self.two = root / "one", root / "two"
        write_sst2(root / "glue", train=train, valid=11)

    def arguments(self, processes: int, *further: object, output: Path | None = None) -> list[str]:
        """With 4 rows a batch in total."""
        output = output or (self.two if processes == 2 else self.one)
        fixed = ("--data-path", self.root / "glue", "--batch-size", 4 // processes)
        return [*self.tiny.sst2(output, *self.more, *further), *map(str, fixed)]


def test_torchrun_with_two_processes_equals_one(tiny: Tiny, tmp_path: Path) -> None:
    """The real launcher: losses per step, weights and metrics of one process, with a last group of other size.

    27 rows are six batches and one of three rows, which process 1 has one of; groups of three batches leave it over.
    """
    pair = Pair(tiny, tmp_path, 27, "--epochs", 2, "--grad-accumulation", 3)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    done = subprocess.run(
        [sys.executable, *launcher, "train_t5.py", *pair.arguments(2)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stdout and done.stdout.count("made:") == 1
    run(pair.arguments(1))
    assert_equal_runs(pair.two, pair.one)


CASES: dict[str, tuple[object, ...]] = {
    "fine_tuning": ("--epochs", 2),
    "accumulation": ("--epochs", 3, "--grad-accumulation", 3, "--clip-grad", 0.5),
    "plugins": ("--distil", "task-hidden", "--mux-num", 2, 4, "--residual-scale", 1, "--grad-accumulation", 3),
    "lora": ("--delta-tuning", "--epochs", 2, "--valid-step", 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("train", [25, 27])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: str, train: int, tiny: Tiny, tmp_path: Path) -> None:
    """What is trained, accumulated and clipped makes no difference; the last batch has three rows, or one, of which
    process 1 gets a copy that does not count.
    """
    pair = Pair(tiny, tmp_path, train, *CASES[case])
    ended = run_ranks(pair.arguments(2), tmp_path / "output")
    assert ended.codes == [0, 0], ended.errors
    run(pair.arguments(1))
    assert_equal_runs(pair.two, pair.one)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["squad", "wiki"])
def test_validation_of_sequences_equals_one_process(dataset: str, tiny: Tiny, tmp_path: Path) -> None:
    """Generated answers and the corpus: every row counts once, so the metrics are exactly those of one process."""
    arguments = {"squad": tiny.qa, "wiki": tiny.wiki}[dataset]
    run(arguments(tmp_path / "trained", "--epochs", 8, "--valid-step", 1000))

    def valid(name: str) -> list[str]:
        best = tmp_path / "trained" / "best"
        return arguments(tmp_path / name, "--mode", "valid", "--no-costs", "--checkpoint", best)

    run([*valid("one"), "--batch-size", "2"])
    ended = run_ranks([*valid("two"), "--batch-size", "1"], tmp_path / "output")
    assert ended.codes == [0, 0], ended.errors
    (two,), (one,) = result_of(tmp_path / "two")["rows"], result_of(tmp_path / "one")["rows"]
    assert two.pop("loss", 0) == pytest.approx(one.pop("loss", 0), rel=1e-5)
    assert two == one and max(value for key, value in one.items() if key not in ("name", "ratio")) > 0


@pytest.mark.slow
def test_mpirun_starts_two_processes(tiny: Tiny, tmp_path: Path) -> None:
    """The rank variables of Open MPI are read: one run of two processes, not two runs of one."""
    pair = Pair(tiny, tmp_path, 25, "--training-step", 3)
    ended = run_ranks(pair.arguments(2), tmp_path / "output", launcher=open_mpi_variables)
    assert ended.codes == [0, 0], ended.errors
    assert "2 process(es)" in ended.outputs[0] and "made:" not in ended.outputs[1]
    run(pair.arguments(1))
    assert_equal_runs(pair.two, pair.one)


# --- stopping ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Pair]:
    """A run of two processes that nothing has disturbed, with dropout: each process draws numbers of its own."""
    made: list[Pair] = []

    def once() -> Pair:
        if not made:
            pair = Pair(tiny, tmp_path_factory.mktemp("two"), 25, "--epochs", 2, "--dropout", 0.1, "--save-step", 3)
            ended = run_ranks(pair.arguments(2), pair.root / "output")
            assert ended.codes == [0, 0], ended.errors
            made.append(pair)
        return made[0]

    return once


@pytest.mark.parametrize(
    ("prepare", "step"),
    [
        (sigterm_to_the_second, 5),
        pytest.param(sigterm_to_the_first, 5, marks=pytest.mark.slow),
        pytest.param(sigterm_at_different_steps, 5, marks=pytest.mark.slow),
        pytest.param(sigterm_while_evaluating, 8, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_signal_to_any_process_stops_all_at_the_same_step(
    prepare: Prepare, step: int, uninterrupted: Callable[[], Pair], tmp_path: Path
) -> None:
    """They agree in the next step, save, end with exit code 143, and the resumed run ends bit for bit the same."""
    pair = uninterrupted()
    output = tmp_path / "run"
    ended = run_ranks(pair.arguments(2, output=output), tmp_path / "output", prepare)
    assert ended.codes == [143, 143], ended.errors
    assert list_checkpoints(output)[-1].name == f"step-{step:08d}"
    assert f"stopped: saved step {step} in" in ended.errors[0] and ended.errors[1] == ""
    ended = run_ranks(pair.arguments(2, "--resume", output=output), tmp_path / "resumed")
    assert ended.codes == [0, 0], ended.errors
    assert_same_run(output, pair.two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (full_disk_on_the_first, "error: Could not write .*step-00000006: No space left on device"),
        (partial(spoil_the_second, math.inf), "error: The loss became inf at step 3"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_failure_of_one_process_ends_all(
    prepare: Prepare, told: str, uninterrupted: Callable[[], Pair], tmp_path: Path
) -> None:
    """A full disk, which process 0 alone notices, or a loss that diverges on process 1: one sentence, exit code 2."""
    ended = run_ranks(uninterrupted().arguments(2, output=tmp_path / "run"), tmp_path / "output", prepare)
    assert ended.codes == [2, 2], ended.errors
    assert re.match(told, ended.errors[0]) and ended.errors[1] == ""


# --- resuming with another number of processes ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_goes_on_with_another_number_of_processes(processes: int, tiny: Tiny, tmp_path: Path) -> None:
    """Two processes, then one, or the reverse, at the same rows per batch: the run of one process."""
    pair = Pair(tiny, tmp_path, 25, "--epochs", 2, "--save-step", 3)
    for count, more in ((3 - processes, ("--training-step", 5)), (processes, ("--resume",))):
        arguments = pair.arguments(count, *more, output=pair.two)
        if count == 2:
            ended = run_ranks(arguments, tmp_path / "output")
            assert ended.codes == [0, 0], ended.errors
        else:
            run(arguments)
    run(pair.arguments(1))
    # The first part ends with a validation of its own.
    rows = [row for row in rows_of(pair.two) if (row["split"], row["step"]) != ("valid", 5)]
    for found, wanted in zip(rows, rows_of(pair.one), strict=True):
        assert_close(found, wanted)


def arguments_of(**changed: Any) -> dict[str, Any]:
    """Recorded arguments of a run."""
    return {"batch_size": 4, "random_seed": 1, "output_path": "run", **changed}


def test_the_rows_of_a_batch_must_stay(tmp_path: Path) -> None:
    """Another number of processes is refused with what would fit, unless the rows per batch are the same."""
    RunDirectory(tmp_path / "run", arguments_of(), world_size=2)
    with pytest.raises(
        UserError,
        match=r"began with batches of 8 rows \(2 processes of --train_batch_size 4\), now there are 4 \(1 of 4\) "
        r"and its place in the data would be lost: take 2 processes, or --train_batch_size 8\.",
    ):
        RunDirectory(tmp_path / "run", arguments_of(), resume=True)
    with pytest.raises(UserError, match=r"now there are 12 \(3 of 4\) .*: take 2 processes\.$"):
        RunDirectory(tmp_path / "run", arguments_of(), resume=True, world_size=3)
    with pytest.raises(UserError, match=r"--train_batch_size 2 \(was 4\)"):
        RunDirectory(tmp_path / "run", arguments_of(batch_size=2), resume=True, world_size=2)
    with pytest.raises(UserError, match=r"--seed 9 \(was 1\)"):
        RunDirectory(tmp_path / "run", arguments_of(batch_size=8, random_seed=9), resume=True, world_size=1)
    for batch_size, world_size in ((8, 1), (2, 4), (4, 2)):
        RunDirectory(tmp_path / "run", arguments_of(batch_size=batch_size), resume=True, world_size=world_size)


def test_a_checkpoint_records_the_number_of_processes(tiny: Tiny, tmp_path: Path) -> None:
    """trainer.json and the arguments beside the weights name it."""
    run(tiny.sst2(tmp_path / "run", "--training-step", 1))
    newest = list_checkpoints(tmp_path / "run")[-1]
    assert json.loads((newest / "trainer.json").read_text())["world_size"] == 1
    assert json.loads((tmp_path / "run" / "best" / "arguments.json").read_text())["world_size"] == 1
