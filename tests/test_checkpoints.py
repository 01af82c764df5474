"""Files that appear whole or not at all, and checkpoints that give back exactly what they were made of."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model.errors import ModelError
from tests.helpers_engine import Bench, Regression, Rows, names
from utils.checksums import CHECKSUMS_FILE
from utils.engine import TrainerConfig, random_state
from utils.engine.checkpoint import (
    Progress,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    recover_checkpoints,
    save_checkpoint,
    training_state,
)
from utils.engine.optimisation import build_optimizer
from utils.errors import UserError
from utils.writing import atomic_directory, recover_directory, write_json

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench in a fresh directory."""
    return Bench(tmp_path / "run")


# --- files ---------------------------------------------------------------------------------------------------


def test_atomic_directory_replaces_as_a_whole(tmp_path: Path) -> None:
    """The new directory holds only what the block wrote of a model's files; nothing temporary stays."""
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "config.json").write_text("old")
    with atomic_directory(tmp_path / "best") as partial:
        (partial / "new").write_text("new")
        assert names(tmp_path / "best") == {"config.json"}
    assert names(tmp_path) == {"best"} and names(tmp_path / "best") == {"new", CHECKSUMS_FILE}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("bug"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_directory(tmp_path: Path, error: BaseException) -> None:
    """Whatever ends the block, the old directory stands and nothing temporary stays; a full disk is a UserError."""
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "old").write_text("old")
    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), atomic_directory(tmp_path / "best") as partial:
        (partial / "new").write_text("half")
        raise error
    assert names(tmp_path) == {"best"} and names(tmp_path / "best") == {"old"}


def test_a_failing_rename_leaves_the_old_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of the two renames fails: the old directory is put back."""
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "old").write_text("old")
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        if source.parent.name.endswith(".partial"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fails)
        with (
            pytest.raises(UserError, match=r"Could not write .*best: No space left"),
            atomic_directory(tmp_path / "best"),
        ):
            pass
    assert names(tmp_path) == {"best"} and names(tmp_path / "best") == {"old"}


def test_recovery_after_a_kill_between_the_renames(tmp_path: Path) -> None:
    """Only the old directory under its temporary name is left: it comes back; a complete target is not touched."""
    (tmp_path / ".best.old").mkdir()
    (tmp_path / ".best.old" / "old").write_text("old")
    recover_directory(tmp_path / "best")
    assert names(tmp_path) == {"best"} and names(tmp_path / "best") == {"old"}
    shutil.copytree(tmp_path / "best", tmp_path / ".best.old")
    (tmp_path / "best" / "new").write_text("new")
    recover_directory(tmp_path / "best")
    assert names(tmp_path / "best") == {"old", "new"}


def test_a_replaced_checkpoint_is_recovered_on_resume(bench: Bench) -> None:
    """A kill between the renames of the only checkpoint: --resume goes on there and not at step 0."""
    bench.trainer(TrainerConfig(epochs=1, keep_checkpoints=1)).fit()
    path = checkpoint_path(bench.path, 8)
    path.rename(path.with_name(f".{path.name}.old"))
    assert not list_checkpoints(bench.path)
    assert bench.trainer(TrainerConfig(epochs=2), resume=True).progress.step == 8
    recover_checkpoints(bench.path)  # nothing left to do
    assert list_checkpoints(bench.path) == [path]


def test_write_json_keeps_the_old_file_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing write is a UserError that names the file, which stays as it was."""
    write_json(tmp_path / "result.json", {"a": 1})

    def fails(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises(UserError, match=r"result\.json: No space left on device"):
            write_json(tmp_path / "result.json", {"a": 2})
    assert names(tmp_path) == {"result.json"} and json.loads((tmp_path / "result.json").read_text()) == {"a": 1}


# --- checkpoints -----------------------------------------------------------------------------------------------


def train_a_little(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """Losses of some steps with dropout, each followed by a draw from every random generator."""
    losses = []
    for batch in list(Rows(4).batches(0))[:steps]:
        loss, _ = module(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += [loss.item(), random.random(), float(np.random.rand()), float(torch.rand(()))]
        random.gauss(0, 1), np.random.randn()  # leave half a pair of normals behind
    return losses


def test_checkpoint_round_trip_is_bit_identical(tmp_path: Path) -> None:
    """Parameters, optimizer state and all three random generators: the continuation repeats itself exactly."""
    module = Regression(dropout=0.5)
    optimizer = build_optimizer(module, 0.1, 0.01)
    train_a_little(module, optimizer, 3)
    progress = Progress(step=3, epoch=1, batch=2, best_value=0.1 + 0.2, best_step=2, tokens=7, seconds=0.3)
    path = save_checkpoint(tmp_path, progress, module, optimizer, keep=2)
    expected = train_a_little(module, optimizer, 5)

    fresh = Regression(dropout=0.5)
    fresh_optimizer = build_optimizer(fresh, 0.1, 0.01)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    assert load_checkpoint(path, fresh, fresh_optimizer) == progress
    assert train_a_little(fresh, fresh_optimizer, 5) == expected
    for found, wanted in zip(fresh.parameters(), module.parameters(), strict=True):
        assert torch.equal(found, wanted)
    for found_p, wanted_p in zip(fresh.linear.parameters(), module.linear.parameters(), strict=True):
        found_state, wanted_state = fresh_optimizer.state[found_p], optimizer.state[wanted_p]
        assert found_state.keys() == wanted_state.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(found_state[key], wanted_state[key]) for key in wanted_state)


def test_a_process_that_writes_nothing_keeps_no_state(bench: Bench) -> None:
    """All of a divided model is put together on every process, but held by the one that saves it."""
    trainer = bench.trainer(TrainerConfig(epochs=1))
    trainer.fit()
    assert all(training_state(trainer.module, trainer.optimizer)[:1]) and trainer.optimizer.state
    assert training_state(trainer.module, trainer.optimizer, kept=False) == ({}, {}, {})


def test_only_the_gpu_in_use_is_asked_for_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at another GPU's generator would start that GPU up; a stand-in for the GPUs records the calls."""
    asked: list[Any] = []

    def state_of(device: torch.device) -> Tensor:
        asked.append(device)
        return torch.tensor([7])

    monkeypatch.setattr(torch.cuda, "get_rng_state", state_of)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: asked.append((int(state), device)))
    cpu, second = torch.device("cpu"), torch.device("cuda", 1)
    assert set(random_state.capture(cpu).tensors) == {"torch", "numpy"} and not asked
    state = random_state.capture(second)
    random_state.restore(state, second)
    random_state.restore(state, cpu)
    assert asked == [second, (7, second)]


def test_a_checkpoint_holds_nothing_pickled(bench: Bench) -> None:
    """Only safetensors and JSON, with the run's arguments; the frozen parameter is not in it."""
    bench.trainer(TrainerConfig(epochs=1)).fit()
    path = list_checkpoints(bench.path)[-1]
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}
    assert set(load_file(path / "model.safetensors")) == {"linear.weight", "linear.bias"}
    assert json.loads((path / "arguments.json").read_text())["arguments"] == {"random_seed": 0}
    for file in path.glob("*.json"):
        json.loads(file.read_text())


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_checkpoints_stay(bench: Bench, keep: int) -> None:
    """keep_checkpoints bounds what stays on disk, and the newest stay."""
    bench.trainer(TrainerConfig(epochs=1, save_step=1, keep_checkpoints=keep)).fit()
    assert [int(p.name[-8:]) for p in list_checkpoints(bench.path)] == list(range(9 - keep, 9))


def saved(tmp_path: Path) -> tuple[Path, nn.Module, torch.optim.Optimizer]:
    """A checkpoint with its module and optimizer."""
    module = Regression()
    optimizer = build_optimizer(module, 0.1, 0.0)
    train_a_little(module, optimizer, 1)
    return save_checkpoint(tmp_path, Progress(step=1), module, optimizer, 2), module, optimizer


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    """Found and expected version are named."""
    path, module, optimizer = saved(tmp_path)
    content = json.loads((path / "trainer.json").read_text())
    (path / "trainer.json").write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(UserError, match=r"trainer\.json has format version 99, this toolkit reads 2"):
        load_checkpoint(path, module, optimizer)


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    """A parameter that is trained now and was not then is named; so is another shape."""
    path, module, optimizer = saved(tmp_path)
    module.frozen.requires_grad_(True)
    with pytest.raises(UserError, match=r"holds other parameters than this run trains, frozen for one"):
        load_checkpoint(path, module, optimizer)
    other = Regression()
    other.linear = nn.Linear(5, 1)
    with pytest.raises(UserError, match=r"linear\.weight has shape \(1, 3\), the model has \(1, 5\)"):
        load_checkpoint(path, other, optimizer)


@pytest.mark.parametrize("file", ["model", "optimizer", "random"])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, file: str) -> None:
    """The damaged file and its size are named."""
    path, module, optimizer = saved(tmp_path)
    weight_file = path / f"{file}.safetensors"
    size = weight_file.stat().st_size - 3
    os.truncate(weight_file, size)
    with pytest.raises(ModelError, match=rf"{file}\.safetensors \({size} bytes\) is not a whole safetensors file"):
        load_checkpoint(path, module, optimizer)


def test_a_checkpoint_with_damaged_json_is_refused(tmp_path: Path) -> None:
    """The JSON file and line are named."""
    path, module, optimizer = saved(tmp_path)
    os.truncate(path / "trainer.json", 40)
    with pytest.raises(ModelError, match=r"trainer\.json, line 1: not valid JSON"):
        load_checkpoint(path, module, optimizer)
