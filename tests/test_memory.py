"""Memory that runs out, here or in a process that the system ends for it: one sentence, and how to go on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers_engine import Bench
from tests.helpers_processes import script, slow_steps, until, workers_of
from tests.tiny import Tiny, run, start_run
from utils.engine import Trainer, TrainerConfig
from utils.engine.checkpoint import list_checkpoints
from utils.errors import LOST_PROCESS_CODE, UserError, run_as_script
from utils.memory import how_to_need_less, memory_ran_out, worker_that_ended

ROOT = Path(__file__).resolve().parent.parent
CPU = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
ERRORS = {
    "torch on a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
    "torch on a CPU": RuntimeError(f"{CPU} 8 bytes. Error code 12 (Cannot allocate memory)"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "NumPy": MemoryError("Unable to allocate 8.00 EiB for an array"),
    "Python": MemoryError(),
    "C++": RuntimeError("std::bad_alloc"),
    "fork": OSError(12, "Cannot allocate memory"),
    "a worker": MemoryError("Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback ..."),
}
OTHERS = [RuntimeError("shapes do not fit"), ValueError("out of memory"), OSError(28, "No space left on device")]


@pytest.mark.parametrize("name", ERRORS)
def test_memory_that_runs_out_is_one_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of each library: code 2, one line, what it said; also as the cause of another error."""
    with pytest.raises(SystemExit) as end:
        run_as_script(lambda: _raise(ERRORS[name]), debug=False)
    told = capsys.readouterr().err
    assert end.value.code == 2 and told.count("\n") == 1 and told.startswith("error: Memory ran out")
    outer = RuntimeError("outer")
    outer.__cause__ = ERRORS[name]
    assert memory_ran_out(outer) is not None


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    """Nor for the end of a worker."""
    assert memory_ran_out(error) is None and worker_that_ended(error) is None


@pytest.mark.parametrize(
    ("arguments", "trains", "told"),
    [
        ({"batch_size": 32, "grad_accumulation": 2}, True, "--train_batch_size 16 --gradient_accumulation_steps 4"),
        ({"batch_size": 32, "gradient_checkpointing": True}, True, "^--overwrite --train_batch_size 16"),
        ({"batch_size": 1}, True, "^--resume auto --gradient_checkpointing goes on with less$"),
        ({"batch_size": 1, "gradient_checkpointing": True}, True, "shorter rows"),
        ({"batch_size": 8, "eval_batch_size": 32}, False, "--resume auto --eval_batch_size 16"),
        ({"batch_size": 8}, False, "shorter rows"),
    ],
)
def test_the_flags_that_need_less(arguments: dict[str, Any], trains: bool, told: str) -> None:
    """Smaller micro-batches with the same rows per step, where they can be smaller."""
    sentence, flags = how_to_need_less(arguments, trains)
    assert re.search(told, sentence)
    assert flags == (["--gradient_checkpointing"] if "--gradient_checkpointing" in sentence else [])


@pytest.mark.parametrize("where", ["_step", "_finite_metrics"])
def test_a_run_says_where_and_keeps_what_it_saved(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a step and in an evaluation; the checkpoint of before is whole and gone on from."""
    bench, original = Bench(tmp_path / "run"), getattr(Trainer, where)
    config = TrainerConfig(epochs=1, save_step=2, valid_step=5)

    def fails(self: Trainer, *arguments: Any) -> Any:
        if self.progress.step >= 4:
            raise ERRORS["torch on a GPU"]
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, where, fails)
        place = "at step 5" if where == "_step" else "in the evaluation at step 6"
        with pytest.raises(UserError, match=rf"^Memory ran out \(CUDA out of memory.*2\.00 GiB\) {place}: "):
            bench.trainer(config).fit()
    assert list_checkpoints(bench.path)[-1].name == "step-00000004"
    assert bench.trainer(config, resume="auto").fit().step == 8


def test_a_killed_worker_is_told_in_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    """Code 3, the worker and what to do; the same command goes on."""
    arguments = tiny.wiki(
        tmp_path / "run", "--num-workers", 2, "--save-step", 2, "--training-step", 12, "--resume", "auto"
    )
    process = start_run(arguments, slow_steps, script=script, daemon=False)
    until(lambda: len(list_checkpoints(tmp_path / "run")) > 0 and len(workers_of(process.pid)) >= 2)
    worker = workers_of(process.pid)[0]
    os.kill(worker, signal.SIGKILL)
    process.join(60)
    told = (tmp_path / "errors.txt").read_text()
    assert process.exitcode == LOST_PROCESS_CODE, told
    assert told.count("\n") == 1 and "a smaller --num_workers" in told and "(process " in told
    run(arguments)


def test_a_launcher_says_that_its_command_was_killed(tmp_path: Path) -> None:
    """Which cannot say it itself; code 137, and nothing more is begun."""
    lines = f"source {ROOT}/scripts/processes.sh\nset -e\nattended bash -c 'kill -9 $$'\necho begun\n"
    (tmp_path / "launcher.sh").write_text(lines, encoding="utf-8")
    done = subprocess.run(["bash", "launcher.sh"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 137 and "killed (SIGKILL)" in done.stderr and not done.stdout


def _raise(error: Exception) -> None:
    raise error
