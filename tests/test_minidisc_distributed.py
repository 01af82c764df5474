"""A schedule in two processes: the same choice and the same student as in one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers_minidisc import Teachers, read
from tests.helpers_ranks import free_port

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    return Teachers(tmp_path_factory.mktemp("minidisc-two"))


def launch(arguments: Sequence[str], processes: int) -> Any:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(free_port())]
    command = [sys.executable, *(launcher if processes > 1 else []), "task_distill.py", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def without_dropout(run: Path, target: Path) -> Path:
    """A copy of a run's model whose forward draws nothing: processes draw numbers of their own."""
    shutil.copytree(run / "best", target)
    config = read(target / "config.json")
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
@pytest.mark.parametrize("scales", ["50,90", "90"])
def test_two_processes_choose_and_train_as_one(scales: str, engine: str, teachers: Teachers, tmp_path: Path) -> None:
    """Half the rows each; at 90 % whole sub-layers are gone, for whose remains no process may wait."""
    made, teacher = {}, without_dropout(teachers.sorted(), tmp_path / "teacher")
    for processes in (1, 2):
        output = tmp_path / str(processes)
        command = teachers.command(
            output,
            *("--mode", "minidisc", "--target_sparsity", 90, "--grid", scales, "--trunc_sparsity", 50),
            *("--teacher_model", teacher, "--num_train_epochs", 2, "--train_batch_size", 8 // processes),
            *("--engine", engine),
        )
        done = launch(command, processes)
        assert done.returncode == 0, done.stderr
        made[processes] = read(output / "schedule.json")
    first, second = made[1]["iterations"], made[2]["iterations"]
    assert [one["scale"] for one in first] == [one["scale"] for one in second]
    for one, other in zip(first, second, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)
    # At 90 % alone the second student begins as its teacher: gradients are rounding, which Adam makes as large as any.
    folder = "best" if scales == "50,90" else "iteration-1/best"
    weights, same = (load_file(tmp_path / str(n) / folder / "model.safetensors") for n in (1, 2))
    assert weights.keys() == same.keys()
    for name, tensor in weights.items():
        if not name.endswith("key.bias"):  # its gradient is rounding too
            torch.testing.assert_close(same[name].float(), tensor.float(), atol=1e-4, rtol=1e-3)
