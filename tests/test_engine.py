"""The training loop on a linear model: files, schedules, accumulation, selection, early stopping."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model.errors import ModelError
from utils.engine import RunDirectory, RunLog, Runtime, Trainer, TrainerConfig, atomic_directory, write_json
from utils.engine.checkpoint import (
    Progress,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    recover_checkpoints,
    save_checkpoint,
)
from utils.engine.files import recover_directory
from utils.engine.optimisation import build_optimizer, schedule_factor, trainable_parameters
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
Batch = dict[str, Tensor]


class Regression(nn.Module):
    """Least squares, with a frozen parameter that must neither change nor be saved; uses dropout's randomness."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error."""
        loss = (self.linear(self.dropout(batch["x"] * self.frozen)).squeeze(-1) - batch["y"]).square().mean()
        return loss, {"error": loss.detach()}


class Rows:
    """32 rows in batches, the same in every epoch."""

    def __init__(self, batch_size: int, known: bool = True) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(32, 3, generator=generator)
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5]) + 3
        self.size, self.known = batch_size, known

    @property
    def batches_per_epoch(self) -> int | None:
        """Number of batches."""
        return 32 // self.size if self.known else None

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches from `start` on."""
        for at in range(start * self.size, 32, self.size):
            x = self.x[at : at + self.size]
            yield {"x": x, "y": self.y[at : at + self.size], "attention_mask": torch.ones(len(x), 2)}


class Bench:
    """Builds trainers in one run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.evaluated: list[int] = []
        self.saved: list[int] = []

    def trainer(
        self,
        config: TrainerConfig,
        scores: Sequence[float] = (0.0,),
        batch_size: int = 4,
        resume: bool = False,
        dropout: float = 0.0,
        known: bool = True,
    ) -> Trainer:
        """A trainer whose n-th evaluation gives the n-th score (the last one from then on)."""
        made: list[Trainer] = []

        def evaluate() -> dict[str, float]:
            step = made[0].progress.step
            self.evaluated.append(step)
            return {"accuracy": scores[min(len(self.evaluated), len(scores)) - 1]}

        def save(directory: Path) -> None:
            self.saved.append(made[0].progress.step)
            (directory / "weights.json").write_text(str(made[0].progress.step))

        runtime = Runtime("fp32", "", 0)
        directory = RunDirectory(self.path, {"random_seed": 0}, resume=resume)
        trainer = Trainer(
            runtime, Regression(dropout), Rows(batch_size, known), config, directory, evaluate, "accuracy", save
        )
        made.append(trainer)
        return trainer


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench in a fresh directory."""
    return Bench(tmp_path / "run")


def weights(trainer: Trainer) -> Tensor:
    """The trained parameters in one vector."""
    return torch.cat([p.detach().flatten() for p in trainable_parameters(trainer.module).values()])


def metrics_of(path: Path, split: str) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == split]


# --- files ---------------------------------------------------------------------------------------------------


def names(directory: Path) -> set[str]:
    """What lies in a directory, hidden files too."""
    return {path.name for path in directory.iterdir()}


def test_atomic_directory_replaces_as_a_whole(tmp_path: Path) -> None:
    """The new directory holds only what the block wrote; nothing temporary stays."""
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "old").write_text("old")
    with atomic_directory(tmp_path / "best") as partial:
        (partial / "new").write_text("new")
        assert names(tmp_path / "best") == {"old"}
    assert names(tmp_path) == {"best"} and names(tmp_path / "best") == {"new"}


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
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails)
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
    with pytest.raises(UserError, match=r"trainer\.json has format version 99, this toolkit reads 1"):
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


# --- the loop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("constant", [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0, 0.25, 0.5, 0.75, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
    ],
)
def test_schedule(schedule: Any, values: list[float]) -> None:
    """Warm-up from 0 in 4 steps; then constant, or linear to 0 at the last step; never below."""
    factor = schedule_factor(schedule, 4, 12)
    assert [factor(step) for step in range(13)] == pytest.approx(values)
    assert factor(100) == pytest.approx(values[-1])
    assert schedule_factor(schedule, 0, 12)(0) == 1


def test_the_loop_uses_the_schedule(bench: Bench) -> None:
    """Learning rates in metrics.jsonl follow the schedule, and the warm-up's first step changes nothing."""
    config = TrainerConfig(epochs=1, lr=0.1, schedule="linear", warmup_steps=4, inspect_step=1, weight_decay=0.5)
    trainer = bench.trainer(config)
    start = weights(trainer)
    after_first: list[Tensor] = []
    step = trainer._step

    def recorded(group: list[Batch]) -> None:
        step(group)
        after_first.append(weights(trainer))

    trainer._step = recorded  # type: ignore[method-assign]
    trainer.fit()
    rates = [row["lr"] for row in metrics_of(bench.path, "train")]
    assert rates == pytest.approx([0, 0.025, 0.05, 0.075, 0.1, 0.075, 0.05, 0.025])
    assert torch.equal(after_first[0], start) and not torch.equal(after_first[1], start)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_equals_the_big_batch(tmp_path: Path, accumulation: int) -> None:
    """Micro-batches of 4 accumulated end with the weights of one batch of their total size, clipping included."""
    big = Bench(tmp_path / "big").trainer(TrainerConfig(epochs=3, lr=0.1, clip_norm=0.5), batch_size=4 * accumulation)
    small = Bench(tmp_path / "small").trainer(TrainerConfig(epochs=3, lr=0.1, clip_norm=0.5, accumulation=accumulation))
    assert big.fit().step == small.fit().step == 3 * 8 // accumulation
    torch.testing.assert_close(weights(small), weights(big), rtol=0, atol=1e-6)


def test_only_trainable_parameters_change(bench: Bench) -> None:
    """The frozen parameter stays, the others move; a module without trainable ones is refused."""
    trainer = bench.trainer(TrainerConfig(epochs=1, lr=0.1, weight_decay=0.5))
    before = weights(trainer)
    trainer.fit()
    assert torch.equal(trainer.module.frozen, torch.ones(3))  # type: ignore[arg-type]
    assert not torch.equal(weights(trainer), before)
    frozen = Regression().requires_grad_(False)
    with pytest.raises(UserError, match="every parameter is frozen"):
        Trainer(trainer.runtime, frozen, Rows(4), TrainerConfig(), trainer.directory, dict, "accuracy", print)


def test_the_best_model_is_the_first_of_equals(bench: Bench) -> None:
    """A later evaluation must be strictly better to replace best/."""
    scores = [0.5, 0.5, 0.7, 0.6, 0.7, 0.7]
    progress = bench.trainer(TrainerConfig(epochs=6), scores).fit()
    assert bench.saved == [8, 24] and (progress.best_value, progress.best_step) == (0.7, 24)
    assert (bench.path / "best" / "weights.json").read_text() == "24"


def test_early_stopping(bench: Bench) -> None:
    """Training ends after `patience` evaluations without a gain, and a gain starts the count anew."""
    scores = [0.5, 0.4, 0.6, 0.6, 0.1, 0.9]
    progress = bench.trainer(TrainerConfig(epochs=50, patience=2), scores).fit()
    assert bench.evaluated == [8, 16, 24, 32, 40] and progress.step == 40 and progress.finished
    assert "early stop: no gain in 2 evaluations" in (bench.path / "log.log").read_text()


def test_without_patience_there_is_no_early_stopping(bench: Bench) -> None:
    """patience 0 runs to the end."""
    assert bench.trainer(TrainerConfig(epochs=5), [0.9, 0.1]).fit().step == 40


@pytest.mark.parametrize("known", [True, False], ids=["known_length", "stream"])
@pytest.mark.parametrize(
    ("config", "evaluated"),
    [
        (TrainerConfig(epochs=2), [8, 16]),
        (TrainerConfig(epochs=2, max_steps=11), [8, 11]),
        (TrainerConfig(epochs=2, valid_step=3), [3, 6, 9, 12, 15, 16]),
        (TrainerConfig(epochs=2, valid_step=4), [4, 8, 12, 16]),
        (TrainerConfig(epochs=1, valid_step=100), [8]),
        (TrainerConfig(epochs=1, valid_step=3, accumulation=3), [3]),
        (TrainerConfig(epochs=2, save_step=5), [8, 16]),
    ],
)
def test_when_it_evaluates(bench: Bench, config: TrainerConfig, evaluated: list[int], known: bool) -> None:
    """Per epoch or at the interval, at the end in any case, and no step twice."""
    bench.trainer(config, known=known).fit()
    assert bench.evaluated == evaluated == [row["step"] for row in metrics_of(bench.path, "valid")]


def test_a_resumed_run_drops_the_rows_that_it_writes_again(bench: Bench) -> None:
    """metrics.jsonl loses rows beyond the checkpoint and a line that was cut by the kill."""
    bench.path.mkdir()
    rows = [json.dumps({"split": "train", "step": step}) for step in (1, 2, 3, 4)]
    (bench.path / "metrics.jsonl").write_text("\n".join(rows) + '\n{"split": "tra')
    log = RunLog(bench.path, resume_step=2)
    log.metrics("valid", 3, {"accuracy": 0.5})
    log.close()
    lines = [json.loads(line) for line in (bench.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[-1]["split"] == "valid"


def test_logs_are_silent_on_other_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where `active` is false nothing is printed or written."""
    log = RunLog(tmp_path / "run", active=False)
    log.start_bar(3, 0)
    log.line("text")
    log.metrics("train", 1, {"loss": 1.0})
    log.close()
    assert capsys.readouterr() == ("", "") and not (tmp_path / "run").exists()


def test_plain_lines_when_piped(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal: lines on standard output, no bar, nothing on standard error; TensorBoard is written."""
    bench.trainer(TrainerConfig(epochs=1, inspect_step=4)).fit()
    out, err = capsys.readouterr()
    assert err == "" and "\r" not in out
    assert [line.split(" | ")[0] for line in out.splitlines()] == ["train"] * 3 + [
        "valid",
        "done: 8 steps, best accuracy 0.0000 at step 8",
    ]
    assert list((bench.path / "tensorboard").iterdir())


# --- runtime and run directory -----------------------------------------------------------------------------------


def test_fp16_is_refused_with_its_reason() -> None:
    """For T5 always; for other families where there is no GPU."""
    with pytest.raises(
        UserError, match=r"--precision fp16 is refused: T5's residual stream overflows in fp16; use bf16"
    ):
        Runtime("fp16", "t5")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"--precision fp16 needs a GPU"):
            Runtime("fp16", "bert")


def test_the_seed_fixes_all_generators() -> None:
    """The same seed gives the same numbers from Python, NumPy and torch; another seed others."""

    def draw(seed: int) -> tuple[float, float, float]:
        Runtime("fp32", "", seed)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert draw(3) == draw(3) != draw(4)


@pytest.mark.parametrize(
    ("key", "allowed"),
    [("lr", False), ("random_seed", False), ("epochs", True), ("debug", True), ("num_workers", True)],
)
def test_what_a_resumed_run_may_change(tmp_path: Path, key: str, allowed: bool) -> None:
    """The number of epochs, workers and the like, but nothing that the weights so far depend on."""
    RunDirectory(tmp_path / "run", {key: 1, "other": "x"})
    resume: Callable[[], RunDirectory] = lambda: RunDirectory(tmp_path / "run", {key: 2, "other": "x"}, resume=True)  # noqa: E731
    if allowed:
        resume()
    else:
        with pytest.raises(UserError, match=rf"--{key.replace('_', '-')} 2 \(was 1\)"):
            resume()


def test_overwrite_leaves_nothing_of_the_old_run(tmp_path: Path) -> None:
    """Checkpoints, logs and best/ of the old run are gone."""
    first = Bench(tmp_path / "run")
    first.trainer(TrainerConfig(epochs=1)).fit()
    directory = RunDirectory(tmp_path / "run", {"random_seed": 0}, overwrite=True)
    assert names(tmp_path / "run") == {"arguments.json"} and directory.newest_checkpoint() is None


def test_versions_and_seed_are_recorded(tmp_path: Path) -> None:
    """arguments.json names the versions that a result depends on."""
    RunDirectory(tmp_path / "run", {"random_seed": 7})
    recorded = json.loads((tmp_path / "run" / "arguments.json").read_text())
    assert recorded["seed"] == 7 and recorded["versions"]["torch"] == torch.__version__
    assert {"transformers", "accelerate", "safetensors"} <= recorded["versions"].keys()
