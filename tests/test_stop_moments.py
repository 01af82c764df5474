"""A signal at any moment around the end of a stage: the next one never begins, and going on ends as undisturbed."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dataset.workers import STOPPING
from tests.helpers_engine import Bench, weights
from tests.helpers_processes import script, slow_steps, until, workers_of
from tests.tiny import Tiny, assert_same_run, run, start_run
from utils.engine import TrainerConfig
from utils.engine.checkpoint import list_checkpoints
from utils.engine.stop_signals import StopSignals
from utils.errors import Interrupted, run_as_script
from utils.studies.faults.moments import PLACES, signal_at

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrainerConfig(epochs=1, lr=0.1, save_step=2)


def two_stages(arguments: Sequence[str]) -> None:
    """A process of two stages; it says when the second one begins."""
    folder, place, number = arguments
    root = Path(folder)
    if place:
        signal_at(place, True, int(number))

    def main() -> None:
        for name in ("first", "second"):
            (root / f"{name}.begun").touch()
            Bench(root / name).trainer(CONFIG, resume="auto").fit()

    run_as_script(main, debug=False)


def ended(arguments: list[str]) -> int:
    """The exit code of a process that does `two_stages`."""
    process = start_run(arguments, script=two_stages)
    process.join(60)
    assert process.exitcode is not None
    return int(process.exitcode)


@pytest.mark.parametrize("place", PLACES)
def test_the_next_stage_does_not_begin(place: str, tmp_path: Path) -> None:
    """Behind each place, by each signal in turn; the same command ends with the weights of an undisturbed run."""
    number = STOPPING[list(PLACES).index(place) % len(STOPPING)]
    code = ended([str(tmp_path), place, str(int(number))])
    assert code in (128 + number, -number), "a signal has a code of its own, or ends the process at once"
    assert not (tmp_path / "second.begun").exists()
    assert ended([str(tmp_path), "", "0"]) == 0
    expected = Bench(tmp_path / "undisturbed").trainer(CONFIG)
    expected.fit()
    for name in ("first", "second"):
        assert weights(Bench(tmp_path / name).trainer(CONFIG, resume=True)).equal(weights(expected))


def test_a_signal_behind_the_last_look_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process, while the handlers are taken away: the step is saved, and its number and the code are told."""
    original = StopSignals.__exit__

    def late(self: StopSignals, *reason: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        original(self, *reason)

    monkeypatch.setattr(StopSignals, "__exit__", late)
    with pytest.raises(Interrupted, match=r"saved step 8 in .*first") as stop:
        Bench(tmp_path / "first").trainer(CONFIG).fit()
    assert stop.value.exit_code == 128 + signal.SIGTERM


# --- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", STOPPING, ids=[number.name for number in STOPPING])
def test_a_signal_to_the_whole_group_saves_although_workers_hear_it(
    number: signal.Signals, tiny: Tiny, tmp_path: Path
) -> None:
    """What Slurm and a terminal do: a checkpoint, the code of the signal, no worker left, and the same end."""
    flags = ("--num-workers", 2, "--save-step", 100, "--keep-checkpoints", 1, "--training-step", 12, "--epochs", 2)
    arguments = tiny.wiki(tmp_path / "run", *flags, "--resume", "auto")
    process = start_run(arguments, slow_steps, script=script, daemon=False)
    metrics = tmp_path / "run" / "metrics.jsonl"
    until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2)
    workers = workers_of(process.pid)
    assert len(workers) >= 2
    os.killpg(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number
    assert list_checkpoints(tmp_path / "run")
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    run(arguments)
    run(tiny.wiki(tmp_path / "whole", *flags))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
