"""A line at least every 20 seconds: in training, evaluation and whatever else takes long, off a terminal."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.helpers_engine import Bench, metrics_of
from utils import heartbeat
from utils.engine import RunLog, TrainerConfig
from utils.heartbeat import SILENCE_S, Heart, doing, line, tracked

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("one_thread")


class Clock:
    """Goes on by a step whenever it is asked."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize(("step_s", "most"), [(0.01, 2), (3.0, 32), (30.0, 32)])
def test_lines_of_training_by_time(
    step_s: float, most: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """However rare --inspect-step is: no silence of 20 s between two steps, and no more than asked if all is fast."""
    bench = Bench(tmp_path / "run")
    trainer = bench.trainer(TrainerConfig(epochs=4, lr=0.1, inspect_step=1000, valid_step=1000))
    trainer.log._clock = Clock(step_s)
    trainer.fit()
    steps = [
        int(text.split("step:")[1].split("/")[0]) for text in capsys.readouterr().out.splitlines() if "train |" in text
    ]
    assert steps[0] == 1 and len(steps) <= most
    if step_s > 1:
        asked = max(1, int(SILENCE_S // 2 / step_s)) + 1
        assert max(b - a for a, b in pairwise(steps)) <= asked
    assert [row["step"] for row in metrics_of(bench.path, "train")] == [1]


def test_a_log_that_is_silent() -> None:
    """After half of the longest silence a line is due; another process' log never asks for one."""
    clock = Clock(0.0)
    log, other = RunLog(None, clock=clock), RunLog(None, active=False, clock=clock)
    clock.now = SILENCE_S / 2 - 0.1
    assert not log.is_silent()
    clock.now = SILENCE_S / 2
    assert log.is_silent() and not other.is_silent()
    log.line("said")
    assert not log.is_silent()


def test_what_is_said() -> None:
    """The innermost work, how far it is, and for how long; nothing is left of it behind the block."""
    assert line(0.0) == ("still at work", False)
    with doing("training", lambda: "step 3 of 8"):
        assert line(time.monotonic()) == ("training: step 3 of 8, 0:00 so far", True)
        items = tracked(range(4), "evaluating", 4)
        next(items), next(items)
        assert line(time.monotonic() + 61)[0] == "evaluating: 1 of 4 batches, 1:01 so far"
        assert list(items) == [2, 3]
        with pytest.raises(KeyError), doing("decomposing"):
            assert line(time.monotonic())[0] == "decomposing: 0:00 so far"
            raise KeyError
        assert line(time.monotonic())[0].startswith("training")
    assert not heartbeat._doing


def test_tracked_items_that_are_left_early() -> None:
    """A loop that breaks off leaves nothing behind."""

    def take() -> Iterator[int]:
        yield from tracked(iter(range(9)), "evaluating")

    for item in take():
        if item == 2:
            break
    assert not heartbeat._doing


def test_the_heart_speaks_when_nobody_else_does(capsys: pytest.CaptureFixture[str]) -> None:
    """Again and again while it is silent; not at all while something is said."""
    talking = Heart(time.monotonic, every_s=0.02)
    silent = Heart(lambda: 0.0, every_s=0.02)
    with doing("decomposing"):
        talking.start()
        silent.start()
        deadline = time.monotonic() + 30
        said = ""
        while said.count("\n") < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
            said += capsys.readouterr().out
    talking.stop()
    silent.stop()
    assert set(said.splitlines()) == {"decomposing: 0:00 so far"}


def test_a_script_whose_streams_are_a_file_is_never_silent(tmp_path: Path) -> None:
    """What a program declares goes to standard output, the rest to standard error; the program ends when it is done."""
    code = (
        "import utils.heartbeat as h, time; h.SILENCE_S = 0.05; h.Heart.__init__.__defaults__ = (0.05,)\n"
        "from utils.streams import protect; protect(); heart = h.listen(); time.sleep(0.3)\n"
        "with h.doing('decomposing', lambda: 'matrix 3'): time.sleep(0.3)\n"
        "heart.stop()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert set(done.stdout.splitlines()) == {"decomposing: matrix 3, 0:00 so far"}
    assert set(done.stderr.splitlines()) == {"still at work"}
