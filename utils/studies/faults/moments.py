"""Moments at which something befalls a process: named places at the end of a stage, steps, and times."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from utils.engine import Trainer, trainer
from utils.engine.engines import Engine
from utils.engine.logs import RunLog
from utils.engine.stop_signals import StopSignals

#: What a stage of 8 steps, saved every second one, does at its end, in this order: where the call is found, and which
#: of them (from 1) it is.
PLACES: Mapping[str, tuple[Any, str, int]] = {
    "last_step": (Trainer, "_step", 8),
    "last_checkpoint_of_a_step": (trainer, "save_checkpoint", 4),
    "evaluation": (Trainer, "_evaluate_and_keep", 1),
    "best": (Trainer, "_save_best", 1),
    "end_of_the_epochs": (Trainer, "_run_epochs", 1),
    "last_checkpoint": (trainer, "save_checkpoint", 5),
    "letting_go": (Engine, "finish", 1),
    "end_of_the_training": (Trainer, "_run_to_the_end", 1),
    "handlers_go": (StopSignals, "__exit__", 1),
    "log_closes": (RunLog, "close", 1),
    "stop_is_looked_for": (Trainer, "_stop_if_asked", 9),
    "stage_is_over": (Trainer, "fit", 1),
}


def signal_at(place: str, behind: bool, number: int) -> None:
    """From here on this process signals itself at a place, just before the call or right behind it."""
    owner, name, wanted = PLACES[place]
    original, seen = getattr(owner, name), 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == wanted and not behind:
            os.kill(os.getpid(), number)
        made = original(*arguments, **named)
        if seen == wanted and behind:
            os.kill(os.getpid(), number)
        return made

    setattr(owner, name, call)


def signal_after(seconds: float, number: int) -> None:
    """From here on this process signals itself once it has computed for so long, however busy the machine is."""

    def wait() -> None:
        while time.process_time() < until:
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    until = time.process_time() + seconds
    threading.Thread(target=wait, daemon=True).start()


def before_each_step(work: Callable[[int], object]) -> None:
    """From here on `work` is done with the number of steps so far before each step."""
    original = Trainer._step

    def step(self: Trainer, group: Any) -> None:
        work(self.progress.step)
        original(self, group)

    Trainer._step = step  # type: ignore[method-assign]
