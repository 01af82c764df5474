"""The end of a server: health fails first, then nothing new is taken, and everyone who waits gets an answer."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from serving.app import AppSettings
from serving.connections import ConnectionLimits, TimedConfig
from serving.engine import EngineSettings
from serving.server import ServerSettings, _Server, bind
from tests.tiny_server import Server, StubPredictor, body_of


class Running:
    """The whole server in threads of this process, on a free port, with a model that waits."""

    def __init__(self, drain_s: float, delay_s: float) -> None:
        self.predictor = StubPredictor(is_open=False)
        made = Server(self.predictor, EngineSettings(max_wait_s=0.0), AppSettings())
        self.engine, self.metrics = made.engine, made.told
        settings = ServerSettings(ConnectionLimits(most=20, backlog=16), drain_s, delay_s)
        bound = bind("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        self._server = _Server(TimedConfig(made.app, settings.connections, 5), settings, self.engine)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [bound]})
        self.engine.start()
        self._thread.start()
        until(lambda: self._server.started)
        self._pool = ThreadPoolExecutor(8)

    def ask_all(self, first: str, *more: str) -> list[Any]:
        """Requests in other threads, as futures of their status; the first one runs then, and the others wait."""
        asked = [self._pool.submit(self.post, first)]
        until(self.predictor.entered.is_set)
        asked += [self._pool.submit(self.post, text) for text in more]
        until(lambda: f"serving_queue_rows {len(more)}.0" in self.metrics())
        return asked

    def post(self, text: str) -> int:
        return httpx.post(f"{self.address}/v1/predict", json=body_of(text), timeout=30, trust_env=False).status_code

    def health(self) -> int:
        return httpx.get(f"{self.address}/healthz", timeout=30, trust_env=False).status_code

    def signal(self) -> None:
        self._server.handle_exit(signal.SIGTERM, None)

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        self.predictor.gate.set()
        self._server.should_exit = True
        self._thread.join(30)
        self.engine.stop(10.0)
        self._pool.shutdown()
        assert self.is_over


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    """Makes servers, and ends them."""
    made: list[Running] = []

    def make(drain_s: float, delay_s: float = 0.0) -> Running:
        made.append(Running(drain_s, delay_s))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_a_drain_that_runs_out_of_time_answers_503(run: Callable[..., Running]) -> None:
    """What runs and what waits: nobody loses the connection, and the engine knows that not all was done."""
    one = run(drain_s=0.3)
    asked = one.ask_all("a", "a b " * 9, "a b " * 30)
    one.signal()
    assert [each.result(30) for each in asked] == [503, 503, 503]
    until(lambda: one.is_over)
    one.predictor.gate.set()
    assert not one.engine.stop(10.0)


def test_a_drain_in_time_answers_all(run: Callable[..., Running]) -> None:
    """The model goes on shortly after the signal."""
    one = run(drain_s=20.0)
    asked = one.ask_all("a", "a b " * 9)
    one.signal()
    one.predictor.gate.set()
    assert [each.result(30) for each in asked] == [200, 200]
    until(lambda: one.is_over)
    assert one.engine.stop(10.0)


def test_health_fails_before_connections_are_refused(run: Callable[..., Running]) -> None:
    """For the time of the delay requests are still answered, so that a load balancer loses none.

    A second signal ends the delay: who does not want to wait an hour says so again.
    """
    one = run(drain_s=5.0, delay_s=3600.0)
    one.predictor.gate.set()
    assert (one.health(), one.post("a")) == (200, 200)
    one.signal()
    assert (one.health(), one.post("a"), one.health()) == (503, 200, 503)
    one.signal()
    until(lambda: one.is_over)
    assert one.engine.stop(10.0)


def test_the_delay_comes_to_an_end(run: Callable[..., Running]) -> None:
    """Without a second signal too."""
    one = run(drain_s=5.0, delay_s=0.2)
    one.predictor.gate.set()
    one.signal()
    until(lambda: one.is_over)
    assert one.engine.stop(10.0)
