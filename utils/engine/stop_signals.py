"""The signals that ask a run to stop: it ends its step, saves, and can be resumed."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from dataset.workers import STOPPING

#: Those that stay ignored where somebody ignores them already, as `nohup` does.
_MAY_BE_IGNORED = (signal.SIGHUP, signal.SIGUSR1)


class StopSignals:
    """Notes the signals that come while the block runs; the handlers of before are back behind it.

    Attributes:
        number: the last signal that came, None if none did.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in STOPPING:
            if not (number in _MAY_BE_IGNORED and signal.getsignal(number) is signal.SIG_IGN):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:  # asked again: at once
            raise KeyboardInterrupt
        self.number = number
