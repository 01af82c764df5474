"""Runs in processes of their own, with the processes that prepare their batches."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.tiny import run
from utils.errors import run_as_script
from utils.studies.faults.moments import before_each_step


def slow_steps(_: int) -> None:
    """A process group of its own, and steps that last."""
    os.setpgid(0, 0)
    multiprocessing.set_start_method("fork", force=True)  # that of a command line
    before_each_step(lambda _: time.sleep(0.05))


def workers_of(process: int) -> list[int]:
    """Processes whose parent is `process`."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                fields = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == process and fields[0] != "Z":
                found.append(int(place.name))
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for what takes a second."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("nothing happened in half a minute")


def script(arguments: Sequence[str]) -> None:
    """The entry script, as a command line starts it; what it says of errors is in a file beside its folder."""
    output = Path(arguments[arguments.index("--output-path") + 1])
    with output.with_name("errors.txt").open("a", encoding="utf-8") as sys.stderr:
        run_as_script(lambda: run(list(arguments)), debug=False)
