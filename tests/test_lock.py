"""Two runs on one output directory: the second is refused, whatever the first one's end was."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import Tiny, assert_same_run, run, start_run
from utils.engine import RunDirectory
from utils.engine.run_files import LOCK_FILE
from utils.errors import UserError
from utils.lock import lock_directory, release_all

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("one_thread")

#: Takes the lock, starts a child that lives on (as a worker of the data loader does for a while), tells, waits.
_OWNER = """
import os, sys, time
from pathlib import Path
from utils.lock import lock_directory, note_owner
lock_directory(Path(sys.argv[1]))
note_owner(Path(sys.argv[1]))
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(600)
"""


class Owner:
    """Another process that has the lock of a directory."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-c", _OWNER, str(directory)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.child = int(self.process.stdout.readline())

    def kill(self) -> None:
        """SIGKILL to the owner alone."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """SIGKILL to both."""
        self.kill()
        os.kill(self.child, signal.SIGKILL)


def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    """Refused with the owner's number while it lives; free at once when it is killed, though its worker lives on."""
    owner = Owner(tmp_path)
    try:
        with pytest.raises(UserError, match=rf"{tmp_path} is in use by another run \(process {owner.process.pid} on "):
            lock_directory(tmp_path)
        owner.kill()
        lock_directory(tmp_path)
        assert (tmp_path / LOCK_FILE).exists()
    finally:
        release_all()
        owner.end()


@pytest.mark.parametrize("more", [{}, {"resume": True}, {"resume": "auto"}, {"overwrite": True}], ids=str)
def test_the_second_run_is_refused_and_touches_nothing(tmp_path: Path, more: dict[str, Any]) -> None:
    """With every flag; a process that does not write (another rank) is not asked."""
    RunDirectory(tmp_path / "run", {"lr": 1})
    release_all()
    owner = Owner(tmp_path / "run")
    try:
        before = (tmp_path / "run" / "arguments.json").read_bytes()
        with pytest.raises(UserError, match="is in use by another run"):
            RunDirectory(tmp_path / "run", {"lr": 1}, **more)
        RunDirectory(tmp_path / "run", {"lr": 1}, write=False)
        assert (tmp_path / "run" / "arguments.json").read_bytes() == before
    finally:
        owner.end()


def test_overwriting_keeps_the_lock(tmp_path: Path) -> None:
    """--overwrite empties the directory, and the next one is refused all the same."""
    RunDirectory(tmp_path / "run", {"lr": 1})
    (tmp_path / "run" / "best").mkdir()
    RunDirectory(tmp_path / "run", {"lr": 2}, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [LOCK_FILE, "arguments.json"]
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=lock_directory, args=(tmp_path / "run",))
    process.start()
    process.join(60)
    release_all()
    assert process.exitcode == 1


def test_a_directory_that_was_made_anew_is_locked_anew(tmp_path: Path) -> None:
    """A lock whose file was deleted holds nothing: the new file is locked."""
    lock_directory(tmp_path)
    (tmp_path / LOCK_FILE).unlink()
    lock_directory(tmp_path)
    assert (tmp_path / LOCK_FILE).exists()
    release_all()


def test_two_runs_of_the_script(tiny: Tiny, tmp_path: Path) -> None:
    """While one trains, the same command with --resume auto is refused; after a SIGKILL it goes on at once."""
    arguments = tiny.sst2(tmp_path / "run", "--resume", "auto", "--save-step", 1, "--epochs", 3)
    run(tiny.sst2(tmp_path / "whole", "--save-step", 1, "--epochs", 3))
    first = start_run(arguments)
    while first.is_alive() and not (tmp_path / "run" / "checkpoints" / "step-00000002").exists():
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGSTOP)  # it would end too soon
    with pytest.raises(UserError, match=rf"run is in use by another run \(process {first.pid} on "):
        run(arguments)
    first.kill()
    first.join()
    run(arguments)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
