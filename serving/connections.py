"""Connections: how many there are at once, how long each may take, and log lines that are no flood.

A connection waits for a request (idle), receives one's header, receives its body, or works, that is, waits for the
answer. Every phase but the last has a time limit, and so has a client that does not read its answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from utils.errors import UserError

#: Most connections where neither a flag nor the limit of open files says less.
MOST_CONNECTIONS = 1000
#: Of connections that nobody has accepted yet; also how many are accepted beyond the most, to be told so.
_BACKLOG = 128
#: Files that the process may open besides connections and those that are open at the start.
_SPARE_FILES = 32
_FEWEST = 8
#: A connection beyond the most has so long to say what it wants, before it is closed.
_SURPLUS_S = 2.0
#: A connection is closed in peace for so long, and then cut.
_CLOSING_S = 5.0
#: The application's own answer to a slow body comes first.
_BODY_GRACE_S = 1.0
#: Lines of one logger within a time.
_LINES, _LINES_S = 20, 10.0

_SLOW = b'{"detail":"the request took too long to come"}'
_TIMEOUT = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_SLOW), _SLOW)
)


@dataclass(frozen=True)
class ConnectionLimits:
    """Numbers and times of connections, in seconds.

    Attributes:
        most: connections that are served; up to `backlog` more are told that there are too many.
        backlog: connections that wait to be accepted.
        header_s: from the first byte of a request (of a connection, for its first request) to the end of its header.
        body_s: from there to the end of its body; also the longest time that a client does not read its answer.
        idle_s: from an answer to the next request.
    """

    most: int = MOST_CONNECTIONS
    backlog: int = _BACKLOG
    header_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 75.0


def room_for_connections(asked: int | None, files: int | None = None) -> tuple[int, int]:
    """Most connections and the backlog that the limit of open files (`ulimit -n`) has room for.

    Args:
        asked: `--max_connections`.
        files: that the process may open besides those that it has; default: as the system says.

    Raises:
        UserError: there is no room for as many as were asked for, or for any.
    """
    limit, free = _files() if files is None else (files, files)
    free = max(free - _SPARE_FILES, 0)
    backlog = min(_BACKLOG, free // 4)
    room = free - backlog
    if room < (asked or _FEWEST):
        wanted = f"--max_connections {asked}" if asked is not None else "The server"
        least = asked or _FEWEST
        raise UserError(
            f"{wanted}: {limit} open files (ulimit -n) leave room for {room} connections, and {least} are the least: "
            "raise the limit."
        )
    return min(asked or MOST_CONNECTIONS, room), max(backlog, 1)


def _files() -> tuple[int, int]:
    """How many files this process may open, and how many more than it has."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        limit = 1 << 20
    try:
        opened = len(os.listdir("/proc/self/fd"))
    except OSError:  # not on Linux
        opened = _SPARE_FILES
    return limit, limit - opened


class TimedConfig(uvicorn.Config):
    """uvicorn's settings for connections with time limits."""

    def __init__(self, app: ASGIApp, limits: ConnectionLimits, timeout_graceful_shutdown: int) -> None:
        super().__init__(
            app,
            http=TimedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=limits.backlog,
            timeout_graceful_shutdown=timeout_graceful_shutdown,
        )
        self.limits = limits
        self.timeout_keep_alive = limits.idle_s  # type: ignore[assignment]


class Phase(Enum):
    """What a connection does."""

    IDLE = "waits for a request"
    HEADER = "receives a header"
    BODY = "receives a body"
    WORK = "waits for the answer"


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a bound on connections and a time limit on each phase; `sweep` enforces them."""

    config: TimedConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._clock: Callable[[], float] = time.monotonic
        self._phase, self._since = Phase.HEADER, self._clock()
        self._unread_since: float | None = None
        self._closing_since: float | None = None
        self._is_surplus = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection beyond the most is told so once it asks; one beyond the backlog too is cut."""
        limits = self.config.limits
        if len(self.connections) >= limits.most + limits.backlog:
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)
        if len(self.connections) > limits.most:
            self._is_surplus = True
            self.limit_concurrency = 0  # uvicorn answers 503 itself

    def data_received(self, data: bytes) -> None:
        """As uvicorn's; notes what the connection does."""
        if self._phase is Phase.IDLE:
            self._begin(Phase.HEADER)
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        """As uvicorn's; notes what the connection does."""
        super().on_response_complete()
        self._note()

    def pause_writing(self) -> None:
        """The client does not read."""
        self._unread_since = self._clock()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client has read."""
        self._unread_since = None
        super().resume_writing()

    def _note(self) -> None:
        their = self.conn.their_state
        if their is h11.IDLE:
            done = self.cycle is not None and not self.conn.trailing_data[0]
            phase = Phase.IDLE if done else Phase.HEADER
        else:
            phase = Phase.BODY if their is h11.SEND_BODY else Phase.WORK
        if phase is not self._phase:
            self._begin(phase)

    def _begin(self, phase: Phase) -> None:
        self._phase, self._since = phase, self._clock()

    def enforce(self, now: float) -> None:
        """Close the connection if its time is over."""
        limits = self.config.limits
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
            if now > self._closing_since + _CLOSING_S:
                self.transport.abort()
        elif self._unread_since is not None and now > self._unread_since + limits.body_s:
            self.transport.abort()
        elif self._phase is Phase.HEADER:
            if now > self._since + (min(_SURPLUS_S, limits.header_s) if self._is_surplus else limits.header_s):
                if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
                    self.transport.write(_TIMEOUT)
                self.transport.close()
        elif self._phase is Phase.IDLE and now > self._since + limits.idle_s:
            self.transport.close()  # also after a body that nobody read, where uvicorn's own timer does not run
        elif self._phase is Phase.BODY and now > self._since + limits.body_s + _BODY_GRACE_S:
            self.transport.abort()


def sweep(connections: Iterable[Any]) -> None:
    """Close the connections whose time is over."""
    now = time.monotonic()
    for connection in list(connections):
        connection.enforce(now)


class _Slower(logging.Filter):
    """Lets so many lines through in a time, and says how many it left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._begin, self._seen = clock(), 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        left_out = max(0, self._seen - _LINES)
        if now >= self._begin + _LINES_S:
            self._begin, self._seen = now, 0
            if left_out:
                record.msg, record.args = f"{left_out} lines left out; {record.getMessage()}", ()
        self._seen += 1
        return self._seen <= _LINES


@contextmanager
def quiet_logs() -> Iterator[None]:
    """What clients and a lack of files make others log: at most 20 lines in 10 seconds."""
    filters = {name: _Slower() for name in ("uvicorn.error", "asyncio", "serving.guard", "serving.engine")}
    for name, one in filters.items():
        logging.getLogger(name).addFilter(one)
    try:
        yield
    finally:
        for name, one in filters.items():
            logging.getLogger(name).removeFilter(one)
