"""A run that is killed and resumed ends exactly as the run that was not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dataset.workers import STOPPING
from tests.tiny import (
    Tiny,
    assert_same_run,
    die_after_save,
    die_before_step,
    die_inside_save,
    killed_run,
    rows_of,
    run,
    tensors_under,
)
from utils.engine import Trainer
from utils.engine.checkpoint import list_checkpoints
from utils.engine.stop_signals import StopSignals
from utils.errors import Interrupted

pytestmark = pytest.mark.usefixtures("one_thread")

Case = Callable[..., list[str]]


def classification(tiny: Tiny, output: Path, *more: object) -> list[str]:
    """Fine-tuning of the whole T5: 12 steps, validated per epoch, saved every 2 steps."""
    return tiny.sst2(output, "--epochs", 2, "--save-step", 2, *more)


def distillation(tiny: Tiny, output: Path, *more: object) -> list[str]:
    """Plugins of two ratios at once, with accumulation, validation inside the epoch and early stopping."""
    ratios = ("--distil", "task-hidden", "--mux-num", 2, 4, "--residual-scale", 1)
    return tiny.sst2(
        output, *ratios, "--epochs", 3, "--grad-accumulation", 2, "--valid-step", 2, "--patience", 3, *more
    )


def streamed(tiny: Tiny, output: Path, *more: object) -> list[str]:
    """Plugin pre-training on the streamed corpus with warm-up and a linear schedule."""
    steps = ("--epochs", 3, "--training-step", 24, "--warmup-step", 5, "--save-step", 3, "--valid-step", 7)
    return tiny.wiki(output, "--distil", "hidden", "--mux-num", 4, *steps, *more)


@pytest.fixture(scope="module")
def uninterrupted(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Path]:
    """The run directory of a case that ran in one go (each made once)."""
    made: dict[Case, Path] = {}

    def of(case: Case) -> Path:
        if case not in made:
            output = tmp_path_factory.mktemp("reference") / "run"
            run(case(tiny, output))
            made[case] = output
        return made[case]

    return of


@pytest.mark.parametrize(
    ("case", "kill", "at"),
    [
        (classification, die_before_step, 7),
        (classification, die_inside_save, 3),
        (classification, die_after_save, 6),
        (distillation, die_before_step, 5),
        (distillation, die_inside_save, 2),
        (streamed, die_before_step, 17),
        (streamed, die_inside_save, 4),
        (streamed, die_before_step, 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_killed_and_resumed_is_bit_identical(
    case: Case, kill: Callable[[int], None], at: int, tiny: Tiny, uninterrupted: Any, tmp_path: Path
) -> None:
    """SIGKILL between steps, inside a save or right after one: weights, states and metrics end the same."""
    expected = uninterrupted(case)
    killed_run(case(tiny, tmp_path / "run"), kill, at)
    run(case(tiny, tmp_path / "run", "--resume"))
    assert_same_run(tmp_path / "run", expected)


def test_killed_three_times_is_bit_identical(tiny: Tiny, uninterrupted: Any, tmp_path: Path) -> None:
    """A resumed run that is killed again, and again, still ends the same."""
    output = tmp_path / "run"
    killed_run(classification(tiny, output), die_before_step, 3)
    killed_run(classification(tiny, output, "--resume"), die_before_step, 6)
    killed_run(classification(tiny, output, "--resume"), die_inside_save, 2)
    run(classification(tiny, output, "--resume"))
    assert_same_run(output, uninterrupted(classification))


@pytest.mark.parametrize("at", [1, 6, 12], ids=["first", "end_of_epoch", "last"])
@pytest.mark.parametrize("number", STOPPING, ids=[number.name for number in STOPPING])
def test_a_signal_saves_and_the_resumed_run_is_bit_identical(
    number: signal.Signals, at: int, tiny: Tiny, uninterrupted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any of the signals during a step, the last one too: saved, exit code 128 + n, and resumed to the same end."""
    original = Trainer._step

    def signalled(self: Trainer, group: Any) -> None:
        original(self, group)
        if self.progress.step == at:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", signalled)
        with pytest.raises(Interrupted, match=f"saved step {at} in ") as stop:
            run(classification(tiny, tmp_path / "run"))
    assert stop.value.exit_code == 128 + number
    assert list_checkpoints(tmp_path / "run")[-1].name == f"step-{at:08d}"
    for other in {*STOPPING} - {signal.SIGINT}:
        assert signal.getsignal(other) == signal.SIG_DFL  # the handlers of before are back
    run(classification(tiny, tmp_path / "run", "--resume"))
    assert_same_run(tmp_path / "run", uninterrupted(classification))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_what_nohup_has_ignored_stays_ignored(number: signal.Signals) -> None:
    """A hang-up of a program below nohup is none; without nohup it is noted."""
    for handler, noted in ((signal.SIG_IGN, None), (signal.SIG_DFL, number)):
        before = signal.signal(number, handler)
        try:
            with StopSignals() as signals:
                os.kill(os.getpid(), number)
            assert signals.number == noted
            assert signal.getsignal(number) == handler
        finally:
            signal.signal(number, before)


def test_bf16_with_more_workers_resumes_bit_identically(tiny: Tiny, tmp_path: Path) -> None:
    """Autocast and tokenising processes change nothing: killed with none, resumed with two."""
    more = ("--precision", "bf16", "--save-step", 2, "--training-step", 6)
    run(tiny.wiki(tmp_path / "one", *more))
    killed_run(tiny.wiki(tmp_path / "two", *more), die_before_step, 5)
    run(tiny.wiki(tmp_path / "two", *more, "--resume", "--num-workers", 2))
    assert_same_run(tmp_path / "two", tmp_path / "one")


def test_resuming_a_complete_run_changes_nothing(tiny: Tiny, uninterrupted: Any, tmp_path: Path) -> None:
    """--resume on a run that came to its end trains no further step."""
    run(classification(tiny, tmp_path / "run"))
    run(classification(tiny, tmp_path / "run", "--resume"))
    assert_same_run(tmp_path / "run", uninterrupted(classification))


def test_a_complete_run_can_be_prolonged(tiny: Tiny, uninterrupted: Any, tmp_path: Path) -> None:
    """One epoch, then --resume with two: the same as two epochs in one go."""
    run(tiny.sst2(tmp_path / "run", "--epochs", 1, "--save-step", 2))
    run(classification(tiny, tmp_path / "run", "--resume"))
    assert_same_run(tmp_path / "run", uninterrupted(classification))


def test_a_kill_after_the_last_evaluation_does_not_undo_early_stopping(tiny: Tiny, tmp_path: Path) -> None:
    """Out of patience, saved, killed before the end: the resumed run trains no further."""
    more = ("--epochs", 4, "--lr", 0, "--valid-step", 2, "--patience", 2)
    run(tiny.sst2(tmp_path / "one", *more))
    killed_run(tiny.sst2(tmp_path / "two", *more), die_after_save, 3)
    run(tiny.sst2(tmp_path / "two", *more, "--resume"))
    assert [row["step"] for row in rows_of(tmp_path / "two") if row["split"] == "valid"] == [2, 4, 6]
    assert_same_run(tmp_path / "two", tmp_path / "one")


def test_resume_without_a_checkpoint_starts_at_the_beginning(tiny: Tiny, uninterrupted: Any, tmp_path: Path) -> None:
    """A run killed before its first checkpoint is done again from step 0."""
    killed_run(classification(tiny, tmp_path / "run"), die_before_step, 1)
    assert not list_checkpoints(tmp_path / "run")
    run(classification(tiny, tmp_path / "run", "--resume"))
    assert_same_run(tmp_path / "run", uninterrupted(classification))


def test_the_reference_trains(tiny: Tiny, uninterrupted: Any) -> None:
    """The compared runs do change weights: the fine-tuned T5 differs from the one it started as."""
    trained, start = tensors_under(uninterrupted(classification) / "best"), tensors_under(tiny.model)
    assert any(not torch.equal(trained[name], start[name]) for name in start)
