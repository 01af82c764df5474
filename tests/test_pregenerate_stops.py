"""Making BERT's training data: runs that end early leave nothing half-made."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_pregenerate import Run, bert, run, text
from utils.errors import Interrupted, UserError
from utils.pregenerate import generate
from utils.pregenerate.generate import Generator

__all__ = ["bert", "run", "text"]


def in_a_process(target: Callable[[], object]) -> Any:
    """`target`, started in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=target, daemon=False)
    process.start()
    return process


def test_a_killed_run_leaves_no_half_file_and_is_finished_by_the_same_command(run: Run) -> None:
    """Killed in the middle of the second epoch: the first one stays as it is, both end as without the kill."""
    whole = run("whole")

    def die_in_second_epoch() -> None:
        part = Generator.part

        def fatal(self: Generator, epoch: int, first: int, last: int, text_bytes: int) -> generate.Part:
            if epoch == 1 and first > 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return part(self, epoch, first, last, text_bytes)

        Generator.part = fatal  # type: ignore[method-assign]
        run("killed")

    process = in_a_process(die_in_second_epoch)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    directory = whole.with_name("killed")
    assert not (directory / "epoch_1.json").exists() and not (directory / "epoch_1_metrics.json").exists()
    before = (directory / "epoch_0.json").stat().st_mtime_ns
    run("killed")
    assert (directory / "epoch_0.json").stat().st_mtime_ns == before
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


def test_workers_end_with_the_main_process(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if that is killed: none is left behind."""
    monkeypatch.setattr(generate, "_work", _sleep)
    monkeypatch.setenv("PREGENERATE_TEST_PIDS", str(tmp_path))
    process = in_a_process(lambda: run("out", "--num_workers", 2))
    _until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    process.kill()
    process.join()
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    _until(lambda: not any(_runs(pid) for pid in pids))


def _sleep(*place: int) -> Any:
    Path(os.environ["PREGENERATE_TEST_PIDS"], f"{os.getpid()}.pid").touch()
    time.sleep(300)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def test_an_interrupt_leaves_complete_epochs_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with a sentence and exit code 130."""

    def interrupt(self: Generator, epoch: int, *place: int) -> Any:
        raise KeyboardInterrupt

    run("out", "--epochs_to_generate", 1)
    monkeypatch.setattr(Generator, "part", interrupt)
    with pytest.raises(Interrupted, match="complete epochs stay") as stop:
        run("out")
    assert stop.value.exit_code == 130
    directory = Path(str(stop.value).split(" stay in ")[1].removesuffix("."))
    assert sorted(path.name for path in directory.iterdir()) == [
        "epoch_0.json",
        "epoch_0_metrics.json",
        "pregenerated.json",
    ]


def test_a_full_disk_is_told_and_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file keeps its temporary name and goes."""

    def full(self: Generator, *place: int) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Generator, "part", full)
    with pytest.raises(UserError, match=r"Could not write .*epoch_0\.json: No space left"):
        run("out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pregenerated.json"]


def test_a_dead_worker_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the system kills it for its memory: an error, not a wait without end."""
    monkeypatch.setattr(generate, "_work", _die)
    with pytest.raises(UserError, match="worker process died"):
        run("out", "--num_workers", 2)


def _die(*place: int) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)
