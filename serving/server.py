"""One process: the listening socket, the event loop, signals, and an end that loses no request."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from serving.connections import ConnectionLimits, TimedConfig, quiet_logs, sweep
from utils.errors import UserError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: After the time to finish, answers that say so are still sent for so long.
_LAST_ANSWERS_S = 2
_SWEEP_TICKS = 5  # of a tenth of a second


class Service(Protocol):
    """What is told that the end comes; see `Engine`."""

    def not_ready(self) -> None:
        """The end comes soon: health checks fail from now on."""

    def refuse_more(self) -> None:
        """Nothing new is taken any more. Called inside a signal handler."""

    def give_up(self) -> None:
        """There is no more time: what waits is answered with an error."""


@dataclass(frozen=True)
class ServerSettings:
    """How connections are treated, and the end; see `ServingArguments`."""

    connections: ConnectionLimits
    drain_s: float = 30.0
    shutdown_delay_s: float = 0.0


class _Server(uvicorn.Server):
    """Ends in peace at a signal, where uvicorn's own raises it again once it has ended."""

    def __init__(self, config: TimedConfig, settings: ServerSettings, service: Service) -> None:
        super().__init__(config)
        self._settings, self._service = settings, service
        self._told_at: float | None = None
        self.asked_at: float | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # where signals cannot be listened to
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end: at once, or after `shutdown_delay_s` or a second signal."""
        if self._told_at is None and self._settings.shutdown_delay_s > 0:
            self._told_at = time.monotonic()
            self._service.not_ready()
            return
        self.asked_at = self.asked_at or time.monotonic()
        self._service.refuse_more()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """What is done ten times a second; whether the server ends."""
        if counter % _SWEEP_TICKS == 0:
            sweep(self.server_state.connections)
        is_told = self._told_at is not None and not self.should_exit
        if is_told and time.monotonic() >= (self._told_at or 0.0) + self._settings.shutdown_delay_s:
            self.handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is idle, and wait for the rest as long as `drain_s` allows."""
        timer = asyncio.get_running_loop().call_later(self._settings.drain_s, self._service.give_up)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address; nobody can connect before `run`.

    Raises:
        UserError: the address is not this machine's, or the port is taken.
    """
    # asyncio switches the delay of small packets off only where the socket says that it is one of TCP.
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        return bound
    except OSError as error:
        bound.close()
        raise UserError(f"--host {host} --port {port}: cannot listen there: {error.strerror or error}.") from error


def run(app: ASGIApp, bound: socket.socket, settings: ServerSettings, service: Service) -> float:
    """Answer requests until SIGTERM or SIGINT, then those that are under way.

    Args:
        bound: of `bind`; closed at the end.

    Returns:
        What is left of the time to finish, in seconds.
    """
    server = _Server(
        TimedConfig(
            app,
            settings.connections,
            timeout_graceful_shutdown=math.ceil(settings.drain_s) + _LAST_ANSWERS_S,
        ),
        settings,
        service,
    )
    with quiet_logs():
        server.run(sockets=[bound])
    asked_at = time.monotonic() if server.asked_at is None else server.asked_at
    return max(0.0, asked_at + settings.drain_s - time.monotonic())
