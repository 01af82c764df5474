"""One process: the listening socket, the event loop, signals, and an end that loses no request."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from utils.errors import UserError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Server(uvicorn.Server):
    """Ends in peace at a signal, where uvicorn's own raises it again once it has ended."""

    def __init__(self, config: uvicorn.Config, on_signal: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_signal = on_signal
        self.asked_at: float | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.asked_at = self.asked_at or time.monotonic()
        self._on_signal()
        super().handle_exit(sig, frame)


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address; nobody can connect before `run`.

    Raises:
        UserError: the address is not this machine's, or the port is taken.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        return bound
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: cannot listen there: {error.strerror or error}.") from error


def run(app: FastAPI, bound: socket.socket, drain_seconds: float, on_signal: Callable[[], None]) -> float:
    """Answer requests until SIGTERM or SIGINT, then those that are under way.

    Args:
        drain_seconds: time for those that are under way.
        on_signal: called when the signal comes.

    Returns:
        What is left of that time, in seconds.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
    server = _Server(config, on_signal)
    server.run(sockets=[bound])
    asked_at = time.monotonic() if server.asked_at is None else server.asked_at
    return max(0.0, asked_at + drain_seconds - time.monotonic())
