"""Whose rows run next: no client's long rows keep a short one waiting, and nothing runs for a client that is gone."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from dataset import GlueExample
from dataset.classification import encode_pairs
from serving.app import AppSettings
from serving.batching import LengthQueue, Waiting, length_bucket
from serving.engine import Engine, EngineSettings, Expired
from serving.predictor import Encoded
from tests.tiny_bert import tiny_word_pieces
from tests.tiny_server import Server, StubPredictor, body_of, predict

#: Tokens that the simulated model reads in a second.
SPEED = 5000.0


class Simulated:
    """One model and its queue, without a clock or a thread."""

    def __init__(self, limit: int = 512, max_tokens: int = 2048) -> None:
        self.queue = LengthQueue(limit, 32, 0.002, max_tokens)
        self.now, self.done = 0.0, dict[str, float]()
        self._left, self._number = dict[str, int](), 0

    def ask(self, name: str, rows: int, length: int) -> bool:
        """A request comes now; whether there is room."""
        if not self.queue.reserve(rows):
            return False
        for index in range(rows):
            self.queue.put(Waiting("a", length_bucket(length), self.now, name, index))
        self._left[name] = rows
        return True

    def step(self) -> list[Waiting]:
        """Run a batch."""
        batch = self.queue.take(self.now, flush=True)
        self.now += max(sum(row.bucket for row in batch) / SPEED, 0.001)
        for row in batch:
            name = str(row.request)
            self._left[name] -= 1
            if not self._left[name]:
                self.done[name] = self.now
        return batch


@pytest.mark.parametrize("long_rows", [(8, 64, 512), (64, 8, 512), (500, 1, 512), (8, 64, 100)])
def test_long_rows_of_one_client_do_not_hold_up_a_short_request(long_rows: tuple[int, int, int]) -> None:
    """A queue full of long rows: a short request that comes then is answered after three batches at most."""
    requests, rows, length = long_rows
    one = Simulated()
    for number in range(requests):
        assert one.ask(f"long{number}", rows, length) or number > 500 // rows
    for number in range(6):
        for _ in range(number):
            one.step()
        begin = one.now
        one.queue.limit += 1
        assert one.ask(f"short{number}", 1, 12)
        batches = 0
        while f"short{number}" not in one.done:
            one.step()
            batches += 1
        assert batches <= 3 and one.now - begin < 3.1 * 2048 / SPEED


def test_a_long_request_is_answered_while_short_ones_never_end() -> None:
    """Half of the turns are the oldest request's, whatever comes."""
    one = Simulated()
    one.ask("long", 64, 512)
    for number in range(400):
        for i in range(40):
            one.ask(f"short{number}.{i}", 1, 12)
        one.step()
        if "long" in one.done:
            break
    assert number < 2 * 16 + 4  # of its 16 batches of four rows, each second one is its own


@pytest.mark.parametrize(("tokens", "length", "rows"), [(2048, 512, 4), (2048, 48, 32), (100, 64, 1), (10, 512, 1)])
def test_a_batch_has_no_more_tokens_than_it_may(tokens: int, length: int, rows: int) -> None:
    """Long rows make small batches; one row always fits."""
    one = Simulated(max_tokens=tokens)
    one.ask("a", 64, length)
    assert len(one.step()) == rows


def test_a_full_batch_by_tokens_does_not_wait_for_more_rows() -> None:
    """Four rows of 512 tokens are full where 2048 may be in one."""
    queue = LengthQueue(10, 32, 1.0, 2048)
    for index in range(4):
        assert queue.reserve(1)
        assert queue.take(0.5) == []
        queue.put(Waiting("a", 512, 0.0, "one", index))
    assert [row.index for row in queue.take(0.5)] == [0, 1, 2, 3]


@pytest.mark.parametrize("rows", [3, 9, 64])
def test_large_requests_leave_room_for_small_ones(rows: int) -> None:
    """However many come: an eighth of the room is left to requests of one row; one that is alone may have all."""
    queue = LengthQueue(512, 32, 1.0, kept=64)
    taken = sum(queue.reserve(rows) for _ in range(1000))
    small = sum(queue.reserve(1) for _ in range(1000))
    assert taken * rows + small == queue.reserved == 512
    assert (small >= 64) == (rows > 8)
    queue.release(512)
    assert queue.reserve(512)


def test_a_request_of_all_the_rows_is_taken_where_nothing_waits() -> None:
    """The smallest queue that `--max_rows` allows, over HTTP."""
    made = server(StubPredictor(), queue_rows=64)
    assert [made.post(body_of(*["a"] * 64)).status_code for _ in range(2)] == [200, 200]
    assert made.engine.stop(10.0)


@pytest.mark.parametrize("seed", range(10))
def test_counts_hold_whatever_happens(seed: int) -> None:
    """Rows come, run, expire and are given up at random: none is lost, doubled or counted wrongly."""
    rng = random.Random(seed)
    queue, now, inside, room = LengthQueue(40, 5, 0.5, 200), 0.0, dict[str, set[int]](), 0
    buckets: dict[tuple[str, int], int] = {}
    for step in range(2000):
        now += rng.random() * 0.2
        what, name = rng.random(), f"r{step}"
        if what < 0.4:
            rows = rng.randrange(1, 9)
            assert queue.reserve(rows) == (sum(map(len, inside.values())) + rows <= 40)
            if sum(map(len, inside.values())) + rows <= 40:
                inside[name] = set(range(rows))
                for index in range(rows):
                    bucket = length_bucket(rng.choice((5, 20, 60, 150)))
                    buckets[name, index] = bucket
                    queue.put(Waiting(rng.choice("ab"), bucket, now, name, index))
        elif what < 0.8:
            batch = queue.take(now, flush=rng.random() < 0.2)
            assert len({(row.task, row.bucket) for row in batch}) <= 1 and len(batch) <= 5
            assert len(batch) <= 1 or sum(row.bucket for row in batch) <= 200
            for row in batch:
                inside[str(row.request)].remove(row.index)
        elif inside:
            gone = rng.choice(list(inside))
            assert queue.give_up(gone, now) == len(inside.pop(gone)) and queue.discard(gone) == 0
        inside = {name: rows for name, rows in inside.items() if rows}
        assert len(queue) == sum(map(len, inside.values()))
        assert queue.work == sum(buckets[name, index] for name, rows in inside.items() for index in rows)
        assert (queue.due_at() is None) == (not inside)
    assert {str(row.request) for row in queue.clear()} == set(inside) and len(queue) == queue.work == 0
    assert room == queue.reserved == 0


def served_in_time(patience_s: float, load: float, seed: int, drops: bool = True) -> float:
    """Share of what could be served in time that is, where clients give up; `drops`: and the queue learns of it."""
    rng, one = random.Random(seed), Simulated()
    per_second, asked = load * SPEED / length_bucket(48), deque[tuple[float, str]]()
    arrival, number, end, in_time = 0.0, 0, 60.0, 0
    while one.now < end:
        arrival = max(arrival, one.now - 1.0)
        while arrival <= one.now:
            if one.ask(f"{number}", 1, 48):
                asked.append((arrival, f"{number}"))
            number += 1
            arrival += rng.expovariate(per_second)
        while drops and asked and asked[0][0] + patience_s <= one.now:
            one.queue.give_up(asked.popleft()[1], one.now)
        for row in one.step():
            in_time += one.now - row.arrived <= patience_s
    return in_time / (end * SPEED / length_bucket(48))


@pytest.mark.parametrize("load", [1.2, 1.8, 4.0])
def test_under_overload_what_is_computed_is_still_wanted(load: float) -> None:
    """Clients that give up after two seconds: most of what the model can do is answers in time."""
    for seed in range(2):
        assert served_in_time(2.0, load, seed) > 0.75
    assert served_in_time(2.0, 4.0, 0, drops=False) < 0.5  # or this test could not fail


# --- clients that are gone --------------------------------------------------------------------------------------------


def server(predictor: StubPredictor, **settings: Any) -> Server:
    made = Server(predictor, EngineSettings(max_wait_s=0.0, **settings), AppSettings())
    made.engine.start()
    return made


async def until(holds: Any) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.005)


class Client:
    """A client on the application's other side, which can go away."""

    def __init__(self, app: Any, body: Any) -> None:
        self.status: int | None = None
        self._gone = asyncio.Event()
        self._messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/predict",
            "raw_path": b"/v1/predict",
            "query_string": b"",
            "headers": headers,
            "http_version": "1.1",
            "scheme": "http",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "root_path": "",
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    def go(self) -> None:
        """Close the connection."""
        self._gone.set()

    async def _receive(self) -> Any:
        if self._messages:
            return self._messages.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]


def test_rows_of_a_client_that_is_gone_are_not_computed() -> None:
    """It leaves while its rows wait: they make room at once, are counted as 499, and the others are answered."""
    predictor = StubPredictor(is_open=False)
    made = server(predictor, queue_rows=16, max_batch=8)

    async def conversation() -> None:
        first = Client(made.app, body_of("one"))
        await until(predictor.entered.is_set)
        gone = [Client(made.app, body_of("a b c d", "a b c d")) for _ in range(3)]
        stays = Client(made.app, body_of("a b", "a b"))
        await until(lambda: "serving_queue_rows 8.0" in made.told())
        for client in gone:
            client.go()
            await asyncio.wait_for(client.task, 20)
        assert "serving_queue_rows 2.0" in made.told()
        predictor.gate.set()
        await asyncio.wait_for(asyncio.gather(first.task, stays.task), 20)
        assert (first.status, stays.status) == (200, 200)

    asyncio.run(conversation())
    assert predictor.seen == [[1], [2, 2]]
    text = made.told()
    assert 'serving_requests_total{status="499"} 3.0' in text and "serving_rows_dropped_total 6.0" in text
    assert made.engine.stop(10.0)


def test_a_client_that_leaves_while_its_body_comes_or_its_text_is_tokenised_leaves_nothing() -> None:
    """No entry in the log, no room kept."""
    predictor = StubPredictor()
    made, hold = server(predictor, queue_rows=64), threading.Event()
    encode = predictor.encode

    def slow(name: str, rows: Any) -> list[Encoded]:
        assert hold.wait(30)
        return encode(name, rows)

    predictor.encode = slow  # type: ignore[method-assign]

    async def conversation() -> list[int | None]:
        clients = [Client(made.app, body_of("a")) for _ in range(5)]
        await asyncio.sleep(0.05)
        for client in clients:
            client.go()
        await asyncio.wait_for(asyncio.gather(*(client.task for client in clients)), 20)
        cut = Client(made.app, body_of("a"))
        cut._messages[0]["more_body"] = True
        cut.go()
        await asyncio.wait_for(cut.task, 20)
        hold.set()
        return [client.status for client in (*clients, cut)]

    assert asyncio.run(conversation()) == [499] * 6
    assert made.post(body_of(*["a"] * 64)).status_code == 200  # all the room is there
    assert made.engine.stop(10.0)


def test_a_request_that_waits_too_long_gets_504_and_is_not_computed() -> None:
    """Its time is over while another batch runs."""
    predictor = StubPredictor(is_open=False)
    made = server(predictor, request_timeout_s=0.3)

    async def conversation(client: httpx.AsyncClient) -> list[int]:
        first = asyncio.ensure_future(predict(client, body_of("one")))
        await until(predictor.entered.is_set)
        late = await asyncio.gather(*(predict(client, body_of("a b")) for _ in range(3)), first)
        predictor.gate.set()
        return [answer.status_code for answer in (*late, await predict(client, body_of("a b c")))]

    assert made.talk(conversation) == [504, 504, 504, 504, 200]
    assert predictor.seen == [[1], [3]]
    assert made.engine.stop(10.0)


AGES = (("a", 3600.0), ("a b", 0.0))


def test_the_engine_itself_computes_nothing_that_is_late() -> None:
    """Also where the application does not notice: a row of an hour ago is refused, one of now is not."""
    predictor = StubPredictor()
    engine: Engine = server(predictor).engine
    engine.reserve(2)
    old, new = (engine.submit("sst2", predictor.encode("sst2", [[text]]), engine.now() - age) for text, age in AGES)
    with pytest.raises(Expired):
        old.result(20)
    assert new.result(20).rows[0].prediction.label == "positive" and predictor.seen == [[2]]
    assert engine.stop(10.0)


# --- threads that tokenise ------------------------------------------------------------------------------------------


def test_long_texts_leave_a_thread_to_short_ones() -> None:
    """Four requests of long texts are being tokenised: a short one is answered meanwhile."""
    predictor, hold = StubPredictor(), threading.Event()
    made, encode, running = server(predictor), predictor.encode, list[int]()

    def slow(name: str, rows: Any) -> list[Encoded]:
        if len(rows[0][0]) > 1000:
            running.append(1)
            assert hold.wait(30)
        return encode(name, rows)

    predictor.encode = slow  # type: ignore[method-assign]

    async def conversation(client: httpx.AsyncClient) -> list[int]:
        long = [asyncio.ensure_future(predict(client, body_of(*["ab " * 6000] * 3))) for _ in range(4)]
        await until(lambda: running)
        short = await predict(client, body_of("a"))
        assert len(running) == 1 and not any(one.done() for one in long)
        hold.set()
        return [short.status_code, *[(await one).status_code for one in long]]

    assert made.talk(conversation) == [200] * 5
    assert made.engine.stop(10.0)


def test_a_tokenizer_gives_the_same_in_several_threads_at_once() -> None:
    """The library's own, shared by four threads, without padding and cuts, as the server calls it."""
    tokenizer, rng = tiny_word_pieces(), random.Random(0)
    words = ("a", "good", "film", "it", "is", "bad", "plot", "dull")
    texts = [" ".join(rng.choice(words) for _ in range(rng.randrange(1, 200))) for _ in range(200)]

    def ids(text: str) -> list[list[int]]:
        return [list(one.input_ids) for one in encode_pairs([GlueExample(0, text, text[:40])], tokenizer, 64)]

    expected = [ids(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ids, texts * 3)) == expected * 3
