"""Real sockets: no delay of small packets, a time limit on each phase of a connection, and a bound on their number."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from serving.connections import ConnectionLimits, TimedConfig, quiet_logs, room_for_connections
from serving.server import ServerSettings, _Server, bind
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


class Told:
    """Notes what a server tells of its end."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def not_ready(self) -> None:
        self.said.append("not ready")

    def refuse_more(self) -> None:
        self.said.append("refuse more")

    def give_up(self) -> None:
        self.said.append("give up")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with as many bytes as came, or as many as the path says."""
    size, more = 0, True
    while more and scope["method"] == "POST":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    body = b"x" * int(scope["path"][1:] or size)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Running:
    """A server in a thread of this process."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.bound = bind("127.0.0.1", 0)
        self.address = self.bound.getsockname()
        settings = ServerSettings(limits, drain_s=1.0)
        self.server = _Server(TimedConfig(echo, limits, 3), settings, Told())
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.bound]})
        self._thread.start()
        until(lambda: self.server.started)

    @property
    def connections(self) -> list[Any]:
        return list(self.server.server_state.connections)

    def connect(self, data: bytes = b"") -> socket.socket:
        made = socket.create_connection(self.address, timeout=20)
        made.sendall(data)
        return made

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def answer(one: socket.socket, closed: bool = False) -> bytes:
    """What comes: the header and a short body, or all until the server closes."""
    found = b""
    while closed or b"\r\n\r\n" not in found:
        try:
            piece = one.recv(65536)
        except ConnectionResetError:
            break
        if not piece:
            break
        found += piece
    return found


QUICK = ConnectionLimits(most=4, backlog=4, header_s=0.4, body_s=0.6, idle_s=0.8)


@pytest.fixture(scope="module")
def quick() -> Iterator[Running]:
    """A server with little patience."""
    running = Running(QUICK)
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _apart(quick: Running) -> Iterator[None]:
    """Each test begins without connections."""
    yield
    until(lambda: not quick.connections)


def test_small_packets_are_not_held_back(quick: Running) -> None:
    """TCP_NODELAY is set on what is accepted: without it each request on an open connection waits for 40 ms."""
    assert quick.bound.proto == socket.IPPROTO_TCP
    with quick.connect(GET) as one:
        assert answer(one).startswith(b"HTTP/1.1 200")
        (connection,) = quick.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_each_kind_of_address_is_one_of_tcp(host: str) -> None:
    """Also where it is given by name."""
    with bind(host, 0) as bound:
        assert (bound.proto, bound.type) == (socket.IPPROTO_TCP, socket.SOCK_STREAM)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),  # never says anything
        (b"G", b"408"),
        (GET[:-2], b"408"),
        (GET + GET[:-2], b"408"),  # an answer, and then half a request
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n", b"408"),
        (POST % 9 + b"half", b""),  # the application has its own answer to it, and is cut where it has none
        (POST % 9, b""),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", b""),
    ],
)
def test_a_request_that_does_not_come_is_ended(quick: Running, sent: bytes, status: bytes) -> None:
    """Half a header is told that it is late, half a body is cut; neither keeps a connection."""
    with quick.connect(sent) as one:
        found = answer(one, closed=True)
    assert found.endswith(b'"detail":"the request took too long to come"}') == bool(status)
    assert (b" " + status + b" ") in found if status else b"408" not in found


def test_a_byte_now_and_then_buys_no_time(quick: Running) -> None:
    """The limit is on the whole header, and not on each piece of it."""
    with quick.connect(GET[:-2]) as one, pytest.raises(OSError):
        for _ in range(200):
            one.sendall(b"x: y\r\n")
            time.sleep(0.05)


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(quick: Running) -> None:
    """Requests at intervals below the limit go on for longer than it."""
    with quick.connect() as one:
        begin = time.monotonic()
        while time.monotonic() < begin + 1.5 * QUICK.idle_s:
            one.sendall(GET)
            assert answer(one).startswith(b"HTTP/1.1 200")
            time.sleep(0.2)
        assert one.recv(1) == b""


def test_a_client_that_does_not_read_is_cut(quick: Running) -> None:
    """A large answer does not stay in memory for it."""
    with quick.connect(GET.replace(b"GET /", b"GET /30000000")):
        until(lambda: bool(quick.connections))
        until(lambda: not quick.connections)


def test_connections_beyond_the_most_are_told_and_those_that_are_there_go_on() -> None:
    """The fifth is answered 503, those beyond the backlog too are cut, and all is well once there is room again."""
    running = Running(ConnectionLimits(most=4, backlog=16))
    with quiet_logs():
        kept = [running.connect(GET) for _ in range(4)]
        assert all(answer(one).startswith(b"HTTP/1.1 200") for one in kept)
        with running.connect(GET) as fifth:
            assert answer(fifth).startswith(b"HTTP/1.1 503")
        crowd, seen = [], []
        for _ in range(40):
            crowd.append(running.connect())
            seen.append(len(running.connections))
        assert max(seen) <= 20
        for one in kept[:2]:
            one.sendall(GET)
            assert answer(one).startswith(b"HTTP/1.1 200")
        for one in (*kept, *crowd):
            one.close()
        until(lambda: not running.connections)
        with running.connect(GET) as again:
            assert answer(again).startswith(b"HTTP/1.1 200")
    running.stop()


def test_a_flood_of_lines_is_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """20 of a logger's lines in 10 seconds; others are counted. Other loggers write as they did."""
    with caplog.at_level(logging.WARNING), quiet_logs():
        for i in range(5000):
            logging.getLogger("uvicorn.error").warning("Invalid HTTP request %d received.", i)
            logging.getLogger("asyncio").error("socket.accept() out of system resource")
        logging.getLogger("utils.errors").warning("something else")
    names = [record.name for record in caplog.records]
    assert (names.count("uvicorn.error"), names.count("asyncio"), names.count("utils.errors")) == (20, 20, 1)


# --- open files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "files", "expected"),
    [(None, 1 << 20, (1000, 128)), (None, 1000, (840, 128)), (None, 256, (168, 56)), (50, 256, (50, 56))],
)
def test_the_limit_of_open_files_bounds_the_connections(
    asked: int | None, files: int, expected: tuple[int, int]
) -> None:
    """Connections, those that are refused, and what else the process opens fit in."""
    assert room_for_connections(asked, files) == expected
    most, backlog = expected
    assert most + backlog + 32 <= files


@pytest.mark.parametrize(("asked", "files"), [(None, 40), (None, 0), (5000, 1024), (1, 32)])
def test_too_few_files_are_told_at_the_start(asked: int | None, files: int) -> None:
    """With the number that there is room for."""
    with pytest.raises(UserError, match="ulimit -n"):
        room_for_connections(asked, files)


SERVE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
from serving.connections import ConnectionLimits, room_for_connections
from serving.server import ServerSettings, bind, run
from tests.test_serving_connections import Told, echo
# The limit is met where the application keeps files of its own, which nobody knew of at the start.
limits = ConnectionLimits(*(room_for_connections(None) if sys.argv[1] == "bounded" else (1000, 128)))
bound = bind("127.0.0.1", 0)
print(bound.getsockname()[1], flush=True)
run(echo, bound, ServerSettings(limits, drain_s=1.0), Told())
print("ended", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bounded", "blind"])
def test_out_of_descriptors_the_server_neither_dies_nor_burns(kind: str) -> None:
    """120 connections where 100 files may be open: little work, few lines, answers while and after they are there."""
    command = [sys.executable, "-c", SERVE, kind]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            address = ("127.0.0.1", int(process.stdout.readline()))
            first = patiently(address)
            crowd = [socket.create_connection(address, timeout=20) for _ in range(120)]
            before, begin = used(process.pid), time.monotonic()
            time.sleep(2.5)
            assert (used(process.pid) - before) / (time.monotonic() - begin) < 0.4  # of a processor
            first.sendall(GET)
            assert answer(first).startswith(b"HTTP/1.1 200")
            for one in crowd:
                one.close()
            time.sleep(1.5)
            with socket.create_connection(address, timeout=20) as again:
                again.sendall(GET)
                assert answer(again).startswith(b"HTTP/1.1 200")
            process.terminate()
            assert process.stdout.read() == "ended\n"
            assert len(process.stderr.read()) < 100_000
        finally:
            process.kill()


def patiently(address: tuple[str, int]) -> socket.socket:
    """A connection to a server that is about to listen."""
    while True:
        try:
            return socket.create_connection(address, timeout=20)
        except ConnectionRefusedError:
            time.sleep(0.05)


def used(pid: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
