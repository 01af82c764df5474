"""Processes that prepare batches, and the signals that are not for them."""

import os
import signal
import threading
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


def heed_parent_alone(number: int) -> None:
    """For `worker_init_fn`: end at a SIGTERM of the parent, which ends its workers so, and at nobody else's.

    Args:
        number: the worker's.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # where the start method inherits nothing
    threading.Thread(target=_await_parent, args=(os.getppid(),), daemon=True).start()


def _await_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
