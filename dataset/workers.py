"""Processes that prepare batches, and the signals that are not for them."""

import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

#: What asks a run to stop: Ctrl-C; a scheduler's end; a terminal that hangs up; a scheduler's early warning.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def batches_of(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches, from processes that no signal of `STOPPING` ends.

    A terminal and a scheduler send it to every process of a run. The main one saves a checkpoint and needs its batches
    until then; its workers end with it.
    """
    # Workers inherit what is blocked, so that they are deaf from their first moment on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stopping(number: int) -> None:
    """For `worker_init_fn`: the same where a start method inherits nothing. `number` is the worker's."""
    for one in STOPPING:
        signal.signal(one, signal.SIG_IGN)
