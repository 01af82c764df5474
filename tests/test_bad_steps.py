"""A loss that is not finite: counted and skipped, or the end of the run with its batch saved; never learnt from."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file

from tests.helpers_engine import Batch, Bench, metrics_of, weights
from tests.helpers_ranks import run_ranks, spoil_the_second
from tests.tiny import Tiny, run
from utils.engine import Trainer, TrainerConfig
from utils.engine.bad_steps import FP16_MOST
from utils.engine.checkpoint import list_checkpoints
from utils.engine.optimisation import build_optimizer
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench in a fresh directory."""
    return Bench(tmp_path / "run")


def spoil(trainer: Trainer, steps: set[int], value: float = torch.nan) -> Trainer:
    """The rows of these steps (counted from 1) hold a number that is not finite."""
    original, source = trainer._backward, trainer.progress

    def spoiled(group: list[Batch]) -> Any:
        if source.step + 1 in steps:
            for batch in group:
                batch["x"] = batch["x"].clone()
                batch["x"][0, 0] = value
        return original(group)

    trainer._backward = spoiled  # type: ignore[method-assign]
    return trainer


@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
def test_the_first_bad_step_is_the_end(bench: Bench, value: float) -> None:
    """By default: checkpoint of before kept, its weights untouched, batch and numbers saved, exit by one sentence."""
    trainer = spoil(bench.trainer(TrainerConfig(save_step=2, accumulation=2, lr=0.1)), {4}, value)
    with pytest.raises(
        UserError,
        match=r"^The (loss|gradient norm) became (nan|inf) at step 4: resume with a lower --learning_rate; "
        r"its batch is in .*bad_batches/step-00000004, the newest checkpoint is .*step-00000002\.$",
    ):
        trainer.fit()
    folder = bench.path / "bad_batches" / "step-00000004"
    batch = load_file(folder / "rank0.safetensors")
    assert set(batch) == {f"{i}.{key}" for i in (0, 1) for key in ("x", "y", "attention_mask")}
    assert not batch["1.x"][0, 0].isfinite()
    told = json.loads((folder / "step.json").read_text())
    assert (told["step"], told["epoch"], told["batch"]) == (4, 0, 6) and told["loss"] in ("nan", "inf")
    assert [path.name for path in list_checkpoints(bench.path)] == ["step-00000002"]
    assert weights(trainer).isfinite().all()


def test_bad_steps_below_the_limit_change_nothing(bench: Bench, tmp_path: Path) -> None:
    """Two in a row of at most three, twice: skipped, counted, told; the weights are those without these steps."""
    config = TrainerConfig(epochs=1, lr=0.1, inspect_step=1, max_bad_steps=3, weight_decay=0.5)
    trainer = spoil(bench.trainer(config), {2, 3, 6, 7})
    before: list[torch.Tensor] = []
    step = trainer._step

    def recorded(group: list[Batch]) -> None:
        before.append(weights(trainer))
        step(group)

    trainer._step = recorded  # type: ignore[method-assign]
    progress = trainer.fit()
    assert (progress.step, progress.skipped, progress.skipped_in_a_row) == (8, 4, 0)
    assert before[1].equal(before[2]) and before[2].equal(before[3]) and not before[3].equal(before[4])
    log = (bench.path / "log.log").read_text()
    assert log.count("which changes nothing and is counted") == 4 and "done: 8 steps, 4 of them skipped" in log
    assert [row.get("skipped_steps", 0) for row in metrics_of(bench.path, "train")] == [0, 1, 2, 2, 2, 3, 4, 4]
    assert not (bench.path / "bad_batches").exists()


def test_bad_steps_do_not_push_out_checkpoints_of_good_ones(bench: Bench) -> None:
    """Nothing is saved while steps are bad; a run that ends so says it."""
    config = TrainerConfig(epochs=1, lr=0.1, save_step=1, keep_checkpoints=2, max_bad_steps=9)
    spoil(bench.trainer(config), {4, 5, 6, 7, 8}).fit()
    assert [path.name for path in list_checkpoints(bench.path)] == ["step-00000003", "step-00000008"]
    assert "warning: the last 5 steps were bad and changed nothing." in (bench.path / "log.log").read_text()


def test_the_count_goes_on_after_a_resume(bench: Bench) -> None:
    """Two bad steps before the checkpoint and one behind it are three in a row."""
    config = TrainerConfig(epochs=1, lr=0.1, max_bad_steps=3, max_steps=4)
    spoil(bench.trainer(config), {3, 4}).fit()
    longer = TrainerConfig(epochs=1, lr=0.1, max_bad_steps=3)
    with pytest.raises(UserError, match=r"became nan at step 5 \(3 such steps in a row\): "):
        spoil(bench.trainer(longer, resume=True), {5}).fit()


def test_a_full_disk_does_not_hide_the_bad_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch cannot be saved: both are told."""
    from utils.engine import bad_steps

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bad_steps, "save_file", full)
    with pytest.raises(UserError, match=r"became nan at step 1: .* could not be saved \(No space left on device\), "):
        spoil(bench.trainer(TrainerConfig()), {1}).fit()


class Scaled:
    """A trainer as fp16 has it, on a CPU: torch's own loss scaling around gradients in fp32."""

    def __init__(self, bench: Bench, config: TrainerConfig) -> None:
        self.trainer = bench.trainer(config)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        self.trainer.runtime.accelerator.scaler = self.scaler
        self.trainer.runtime.precision = "fp16"
        optimizer = build_optimizer(self.trainer.module, config.lr, config.weight_decay, loss_scaling=True)
        self.trainer.optimizer, self.trainer._stepper = optimizer, AcceleratedOptimizer(optimizer, scaler=self.scaler)


def test_fp16_skips_and_counts(bench: Bench) -> None:
    """Overflows are skipped however many there are below 50; the scale falls with each, and the weights stay finite."""
    scaled = Scaled(bench, TrainerConfig(epochs=1, lr=0.1, clip_norm=0.0))
    progress = spoil(scaled.trainer, {1, 2, 5}, torch.inf).fit()
    assert (progress.step, progress.skipped) == (8, 3) and scaled.scaler.get_scale() == 2.0**7
    assert weights(scaled.trainer).isfinite().all()


def test_fp16_stops_where_the_scale_is_not_to_blame(bench: Bench) -> None:
    """50 overflows in a row: the end, with the batch saved."""
    scaled = Scaled(bench, TrainerConfig(epochs=9, lr=0.1, clip_norm=0.0))
    with pytest.raises(UserError, match=rf"became nan at step {FP16_MOST} \({FP16_MOST} such steps in a row"):
        spoil(scaled.trainer, set(range(1, 99))).fit()
    assert (bench.path / "bad_batches" / f"step-{FP16_MOST:08d}" / "rank0.safetensors").is_file()


@pytest.mark.gpu
def test_fp16_on_a_gpu_skips_the_steps_that_find_the_scale(bench: Bench) -> None:
    """With Accelerate's own scaling, whose first scale overflows here."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    from accelerate.state import AcceleratorState

    from tests.helpers_engine import Regression, Rows
    from utils.engine import RunDirectory, Runtime

    AcceleratorState._reset_state()
    config = TrainerConfig(epochs=2, lr=0.1)
    directory = RunDirectory(bench.path, {})
    trainer = Trainer(Runtime("fp16"), Regression(), Rows(4), config, directory, lambda: {"a": 0.0}, "a", print)
    progress = spoil(trainer, {1, 2, 9}, torch.inf).fit()
    AcceleratorState._reset_state()
    assert progress.step == 16 and progress.skipped >= 3 and weights(trainer).isfinite().all()


@pytest.mark.slow
def test_every_process_saves_its_share(tiny: Tiny, tmp_path: Path) -> None:
    """Two processes stop together, with a file each."""
    ended = run_ranks(tiny.sst2(tmp_path / "run"), tmp_path / "output", partial(spoil_the_second, math.nan))
    assert ended.codes == [2, 2] and "The loss became nan at step 3: " in ended.errors[0], ended.errors
    folder = tmp_path / "run" / "bad_batches" / "step-00000003"
    rows = [load_file(folder / f"rank{rank}.safetensors")["0.index"].tolist() for rank in (0, 1)]
    assert len(rows[0]) == len(rows[1]) == 4 and not set(rows[0]) & set(rows[1])


def test_the_flag_reaches_the_loop(tiny: Tiny, tmp_path: Path) -> None:
    """A learning rate that blows the model up: --max-bad-steps 3 gives up at the third step that is not finite."""
    with pytest.raises(UserError, match=r"\(3 such steps in a row\): resume with a lower --learning_rate;"):
        run(tiny.sst2(tmp_path / "run", "--lr", "1e30", "--max-bad-steps", 3, "--epochs", 3))
