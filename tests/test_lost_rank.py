"""One of two processes dies or hangs: the other ends with a message that names it, and does not wait for ever."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_ranks import Ended, Prepare, run_ranks
from tests.tiny import Tiny, assert_same_run, write_sst2
from utils.engine.watch import RankWatch
from utils.errors import LOST_PROCESS_CODE

pytestmark = pytest.mark.usefixtures("one_thread")

_TIMEOUT_S = 4.0


def _at_step(step: int, what: Any) -> None:
    from utils.engine import Trainer

    original = Trainer._step

    def wrong(self: Any, group: Any) -> None:
        if self.progress.step == step:
            what()
        original(self, group)

    Trainer._step = wrong  # type: ignore[method-assign]


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _sleep() -> None:
    time.sleep(1000)


def _be_slow() -> None:
    time.sleep(0.7 * _TIMEOUT_S)


def _bug() -> None:
    raise ZeroDivisionError("a bug")


def at_step_5(victim: int, what: Callable[[], None], rank: int) -> None:
    """Before step 5 of one process, something happens in its main thread."""
    if rank == victim:
        _at_step(4, what)


second_killed = partial(at_step_5, 1, _kill)
first_killed = partial(at_step_5, 0, _kill)  # it keeps the watch's store
second_fails = partial(at_step_5, 1, _bug)
second_sleeps = partial(at_step_5, 1, _sleep)
first_sleeps = partial(at_step_5, 0, _sleep)
second_stopped = partial(at_step_5, 1, _stop)  # as a whole
first_is_slow = partial(at_step_5, 0, _be_slow)


def second_sleeps_in_evaluation(rank: int) -> None:
    """Process 1 hangs in the first validation."""
    from utils.variator.evaluation import Evaluator

    if rank == 1:
        Evaluator.at_ratios = lambda self, ratios: time.sleep(1000)  # type: ignore[assignment,method-assign,return-value]


def command(tiny: Tiny, root: Path, output: Path, *more: object) -> list[str]:
    """Fourteen steps in two epochs, saved every three."""
    if not (root / "glue").exists():
        write_sst2(root / "glue", train=25, valid=11)
    flags = ("--epochs", 2, "--save-step", 3, "--data-path", root / "glue", "--batch-size", 2)
    return tiny.sst2(output, *flags, "--rank-timeout", _TIMEOUT_S, *more)


def two(tiny: Tiny, root: Path, prepare: Prepare | None, *more: object) -> Ended:
    """The run in two processes; one that is stopped is killed when the other has ended."""
    return run_ranks(command(tiny, root, root / "run", *more), root / "output", prepare, may_hang=True)


@pytest.mark.slow
def test_a_killed_process_is_named_and_the_run_goes_on(tiny: Tiny, tmp_path: Path) -> None:
    """Code 3, one sentence; then --resume auto ends bit for bit as a run that nothing has disturbed."""
    ended = two(tiny, tmp_path, second_killed)
    assert ended.codes == [LOST_PROCESS_CODE, -signal.SIGKILL], ended.errors
    assert re.search(r"^error: rank 1 of 2 has died, so rank 0 ends too: .*--resume auto\.$", ended.errors[0], re.M)
    assert "Traceback" not in ended.errors[0]
    ended = two(tiny, tmp_path, None, "--resume", "auto")
    assert ended.codes == [0, 0], ended.errors
    ended = run_ranks(command(tiny, tmp_path, tmp_path / "whole"), tmp_path / "output")
    assert ended.codes == [0, 0] and ended.errors == ["", ""]
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("prepare", "lost", "told"),
    [
        (second_sleeps, 1, r"rank 1 of 2 hangs, rank 0 has waited for it for 4 s \(--rank_timeout\)"),
        (first_killed, 0, r"rank 0 (of 2 )?has died, so rank 1 ends too"),
        pytest.param(second_fails, 1, r"rank 1 of 2 has died, so rank 0 ends too", marks=pytest.mark.slow),
        pytest.param(first_sleeps, 0, r"rank 0 of 2 hangs, rank 1 has waited", marks=pytest.mark.slow),
        pytest.param(second_stopped, 1, r"rank 1 of 2 gives no sign of life, rank 0 has", marks=pytest.mark.slow),
        pytest.param(second_sleeps_in_evaluation, 1, r"rank 1 of 2 hangs, rank 0 has", marks=pytest.mark.slow),
    ],
    ids=["asleep", "first_killed", "fails", "first_asleep", "stopped", "asleep_in_evaluation"],
)
def test_a_lost_process_is_named(prepare: Prepare, lost: int, told: str, tiny: Tiny, tmp_path: Path) -> None:
    """Dead by a signal or an exception, asleep in a step or in evaluation, stopped: code 3 and its number."""
    ended = two(tiny, tmp_path, prepare)
    assert ended.codes[1 - lost] == LOST_PROCESS_CODE and ended.codes[lost] != 0, ended
    assert re.search(told, ended.errors[1 - lost]), ended.errors
    assert "Traceback" not in ended.errors[1 - lost]


@pytest.mark.slow
def test_a_slow_process_is_waited_for(tiny: Tiny, tmp_path: Path) -> None:
    """Nothing is said of one that comes within the time."""
    ended = two(tiny, tmp_path, first_is_slow)
    assert ended.codes == [0, 0] and ended.errors == ["", ""]


class Store:
    """A store of texts in this process."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def set(self, key: str, text: str) -> None:
        """Keep."""
        self.texts[key] = text

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Give back."""
        return [self.texts[key].encode() for key in keys]


@pytest.mark.parametrize(
    ("waits", "other", "told"),
    [
        (False, "beats", None),  # both work: a long evaluation
        (True, "beats", "rank 1 of 2 hangs"),
        (True, "ticks", None),  # slow, but it comes
        (True, "silent", "rank 1 of 2 gives no sign of life"),
        (False, "bye", None),  # it has finished before
        (True, "bye", "rank 1 of 2 hangs"),  # it has ended before it came here
    ],
)
def test_who_is_to_blame(waits: bool, other: str, told: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the timeout, only if this process waits, only for one that does not move; with a clock set by hand."""
    from utils.engine import watch as module

    now, said = [0.0], list[str]()
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "end", said.append)
    store = Store()
    peer = RankWatch(store, 1, 2, 10.0)
    own = RankWatch(store, 0, 2, 10.0)
    if waits:
        own.tick()
    for second in range(1, 25):
        now[0] = float(second)
        if other == "ticks" and second % 5 == 0:
            store.texts["1"] = f"{second} {-second} "  # moves on, behind
        elif other == "bye":
            peer._farewell = "bye"
            peer._write()
        elif other == "beats":
            peer._write()
        own._note([text.decode() for text in store.multi_get(["1"])])
        own._judge()
        assert second > 10 or not said
    assert said[0].startswith(told) if told else not said, said
