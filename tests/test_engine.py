"""The training loop on a linear model: schedules, accumulation, selection, early stopping, logs, run directory."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers_engine import Batch, Bench, Regression, Rows, metrics_of, names, weights
from utils.arguments.spellings import flag_named
from utils.engine import RunDirectory, RunLog, Runtime, Trainer, TrainerConfig
from utils.engine.optimisation import schedule_factor
from utils.engine.same_run import RULES
from utils.errors import Interrupted, UserError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench in a fresh directory."""
    return Bench(tmp_path / "run")


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
    torch.testing.assert_close(weights(small), weights(big), rtol=0, atol=4e-6)


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
    assert (bench.path / "best" / "config.json").read_text() == "24"


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


@pytest.mark.parametrize("known", [True, False], ids=["known_length", "stream"])
@pytest.mark.parametrize(
    "config",
    [
        TrainerConfig(epochs=3),
        TrainerConfig(epochs=3, max_steps=19),
        TrainerConfig(epochs=2, valid_step=8),
        TrainerConfig(epochs=2, valid_step=3),
        TrainerConfig(epochs=2, valid_step=100),
        TrainerConfig(epochs=2, accumulation=3),
    ],
)
def test_an_evaluation_tells_the_epoch_of_the_step_before_it(
    bench: Bench, capsys: pytest.CaptureFixture[str], config: TrainerConfig, known: bool
) -> None:
    """`epoch:` of a validation line is that of the training line above it, at the end of an epoch and of a run too."""
    bench.trainer(replace(config, inspect_step=1), known=known).fit()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("train |", "valid |"))]
    told = [(line.split(" | ")[0], line.split(" | ")[1]) for line in lines]
    pairs = [(before, now) for before, now in pairwise(told) if now[0] == "valid"]
    assert pairs and all(before[1] == now[1] for before, now in pairs)


@pytest.mark.parametrize(
    ("schedule", "known", "max_steps", "warned"),
    [
        ("linear", False, None, True),
        ("linear", False, 12, False),
        ("linear", True, None, False),
        ("constant", False, None, False),
    ],
)
def test_a_linear_schedule_of_unknown_length_is_warned_of(
    schedule: Any, known: bool, max_steps: int | None, warned: bool, bench: Bench
) -> None:
    """On a stream without a limit of steps the rate cannot fall, and stays constant: said once, before training."""
    config = TrainerConfig(epochs=1, schedule=schedule, inspect_step=1, lr=0.1)
    bench.trainer(config if max_steps is None else replace(config, max_steps=max_steps), known=known).fit()
    said = (bench.path / "log.log").read_text().splitlines()[1]  # the first tells the precision
    assert said.startswith("warning: the linear schedule cannot fall") == warned
    rates = [row["lr"] for row in metrics_of(bench.path, "train")]
    assert (len(set(rates)) == 1) == (warned or schedule == "constant")


@pytest.mark.parametrize("during", ["_save_best", "_checkpoint"])
def test_a_signal_while_the_last_step_is_saved_ends_the_run(
    during: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes behind the training does not begin; a resumed run is complete and changes nothing."""
    config = TrainerConfig(epochs=1, valid_step=8)
    trainer = bench.trainer(config)
    original = getattr(trainer, during)

    def signalled() -> None:
        original()
        if trainer.progress.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer, during, signalled)
    with pytest.raises(Interrupted, match=r"saved step 8 in ") as stop:
        trainer.fit()
    assert stop.value.exit_code == 143
    resumed = bench.trainer(config, resume=True)
    assert resumed.fit().finished and bench.evaluated == [8]


def test_processes_that_see_other_checkpoints_are_told_to_share_the_directory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would go on from another step, and they would wait for each other for ever."""
    trainer = bench.trainer(TrainerConfig())
    monkeypatch.setattr(trainer.runtime, "gather_rows", lambda own: ["step-00000004", *own])
    with pytest.raises(UserError, match=r"rank 0 sees step-00000004 there and rank 1 no checkpoint: .* share"):
        trainer._common_checkpoint()


def test_work_done_together_passes_results_and_errors_on() -> None:
    """Of one process: what the work gives, or raises."""
    runtime = Runtime("fp32", "", 0)
    assert runtime.together(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        runtime.together(lambda: 1 // 0)
    done: list[int] = []
    runtime.by_main(lambda: done.append(1))
    assert done == [1]


def test_a_resumed_run_drops_the_rows_that_it_writes_again(bench: Bench) -> None:
    """metrics.jsonl loses rows beyond the checkpoint, lines that are none, and one that was cut by the kill."""
    bench.path.mkdir()
    rows = [json.dumps({"split": "train", "step": step}) for step in (1, 2, 3, 4)]
    rows += ['{"split": "train", "step": null}', '["step"]']
    (bench.path / "metrics.jsonl").write_bytes("\n".join(rows).encode() + b'\n{"split": "\xff\xfe"}\n{"split": "tra')
    log = RunLog(bench.path, resume_step=2)
    log.metrics("valid", 3, {"accuracy": 0.5})
    log.close()
    lines = [json.loads(line) for line in (bench.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[-1]["split"] == "valid"


def test_an_evaluation_that_the_checkpoint_does_not_know_is_written_once(tmp_path: Path) -> None:
    """Its row is dropped on a resume at the same step, as it is made again; rows of the training stay."""
    log = RunLog(tmp_path)
    for split, step in (("train", 1), ("valid", 1), ("train", 2), ("valid", 2)):
        log.metrics(split, step, {})
    log.close()
    RunLog(tmp_path, resume_step=2, evaluated_step=1).close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["split"], row["step"]) for row in rows] == [("train", 1), ("valid", 1), ("train", 2)]


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
    assert [line.split(" | ")[0] for line in out.splitlines()] == [
        "precision: fp32 (asked for)",
        *["train"] * 3,
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
    [
        ("lr", True),
        ("precision", True),
        ("random_seed", False),
        ("batch_size", False),
        ("epochs", True),
        ("debug", True),
        ("num_workers", True),
        ("output_path", True),
    ],
)
def test_what_a_resumed_run_may_change(tmp_path: Path, key: str, allowed: bool) -> None:
    """Epochs, workers and the like, and what makes a diverging run go on, but nothing that the data depend on."""
    RunDirectory(tmp_path / "run", {key: 1, "other": "x"})
    resume: Callable[[], RunDirectory] = lambda: RunDirectory(tmp_path / "run", {key: 2, "other": "x"}, resume=True)  # noqa: E731
    if allowed:
        told = [f"the run goes on with {flag_named(key)} 2 (was 1)"] if RULES[key] == "told" else []
        assert resume().remarks == told
        kept = json.loads((tmp_path / "run" / "arguments.json").read_text()).get("changed", [])
        assert kept == ([f"{flag_named(key)} 2 (was 1)"] if told else [])
    else:
        with pytest.raises(UserError, match=rf"{flag_named(key)} 2 \(was 1\)"):
            resume()


def test_overwrite_leaves_nothing_of_the_old_run(tmp_path: Path) -> None:
    """Checkpoints, logs and best/ of the old run are gone."""
    first = Bench(tmp_path / "run")
    first.trainer(TrainerConfig(epochs=1)).fit()
    directory = RunDirectory(tmp_path / "run", {"random_seed": 0}, overwrite=True)
    assert names(tmp_path / "run") == {"arguments.json", ".lock"} and directory.newest_checkpoint() is None


def test_versions_and_seed_are_recorded(tmp_path: Path) -> None:
    """arguments.json names the versions that a result depends on."""
    RunDirectory(tmp_path / "run", {"random_seed": 7})
    recorded = json.loads((tmp_path / "run" / "arguments.json").read_text())
    assert recorded["seed"] == 7 and recorded["versions"]["torch"] == torch.__version__
    assert {"transformers", "accelerate", "safetensors"} <= recorded["versions"].keys()


def test_a_run_that_is_over_holds_no_model(bench: Bench) -> None:
    """A schedule trains one model after the other in a process: nothing may keep those of before in memory."""
    trainer = bench.trainer(TrainerConfig(epochs=1))
    trainer.fit()
    module, accelerator = weakref.ref(trainer.module), trainer.runtime.accelerator
    del trainer
    gc.collect()
    assert module() is None and accelerator is not None
