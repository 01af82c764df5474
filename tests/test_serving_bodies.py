"""Whatever a body of the allowed size holds, reading it costs little, and the answer says what was expected."""

from __future__ import annotations

import asyncio
import json
import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from serving.app import AppSettings
from serving.engine import EngineSettings
from serving.guard import GuardSettings
from serving.schema import BadRequest, PredictRequest, check, read_request, told
from tests.tiny_server import Server, StubPredictor, body_of, predict

SIZE = 1 << 20
ROWS, COLUMNS = 64, 2


def filled(begin: str, unit: str, end: str = "", size: int = SIZE) -> bytes:
    """A body of this size: a beginning, the same again and again, an end."""
    times = (size - len(begin) - len(end)) // len(unit)
    return (begin + unit * times + end).encode()


MANY = {
    "numbers as rows": filled('{"rows":[', "1,", "1]}"),
    "numbers in a row": filled('{"rows":[{"sentence":[', "12,", "1]}]}"),
    "truths and nulls": filled('{"rows":[', "true,null,", "1]}"),
    "empty rows": filled('{"rows":[', "{},", "{}]}"),
    "empty lists": filled('{"rows":[', "[],", "[]]}"),
    "one list in another": filled('{"rows":', "["),
    "one object in another": filled('{"rows":', '{"a":'),
    "unknown keys": filled("{", '"a":1,', '"b":2}'),
    "unknown keys in a row": filled('{"rows":[{', '"a":"b",', '"c":"d"}]}'),
    "texts in a list": filled("[", '"",', '""]'),
    "tasks": filled('{"task":[', '"sst2",', '"sst2"]}'),
    "keys that differ": ("{" + ",".join(f'"{i}":0' for i in range(100_000)) + "}").encode(),
    "blanks between": filled('{"rows":[', "1 ,\n", "1]}"),
    "escapes in keys": filled("{", '"\\"":1,', '"b":2}'),
    "marks only": filled("", ","),
    "no JSON at all": filled("", "[{:,"),
}
FEW = {
    "one number": filled('{"rows":', "1", "}"),
    "one word": filled("", "a"),
    "quotes": filled("", '"'),
    "blanks": filled("", " "),
    "an open text": filled('{"rows":[{"sentence":"', "a"),
    "an open text of escapes": filled('{"rows":[{"sentence":"', '\\"'),
    "an open text of marks": filled('{"rows":[{"sentence":"', '\\",'),
    "backslashes": filled('"', "\\"),
    "no UTF-8": b'{"rows":[{"sentence":"' + b"\xff" * 1000 + b'"}]}',
    "half a pair": filled('{"rows":[{"sentence":"', "\\ud83d", '"}]}'),
    "UTF-16": json.dumps(body_of("a")).encode("utf-16"),
    "a long task": json.dumps({"task": "s" * 100_000, "rows": 3}).encode(),
    "nothing": b"",
}


@pytest.mark.parametrize("body", MANY.values(), ids=MANY)
def test_a_body_of_too_many_values_is_refused_before_it_is_read(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million bytes of small values: no value is made of them, whatever they are, and memory does not grow."""
    monkeypatch.setattr(PredictRequest, "model_validate_json", lambda _: pytest.fail("the body was read"))
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest) as refused:
            read_request(body, ROWS, COLUMNS)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert told(refused.value.problems)[0]["loc"] == ["body"]


@pytest.mark.parametrize("body", FEW.values(), ids=FEW)
def test_a_body_of_few_values_is_refused_with_few_words(body: bytes) -> None:
    """Long numbers and texts, broken text and other encodings: what is told is short, and can be sent."""
    with pytest.raises(BadRequest) as refused:
        read_request(body, ROWS, COLUMNS)
    assert 1 <= len(json.dumps(told(refused.value.problems)).encode()) < 2000


def texts(seed: int) -> Iterator[str]:
    """Texts of all that means something in JSON."""
    rng = random.Random(seed)
    while True:
        yield "".join(rng.choice('",:{}[]\\/\n\t ab0\u00e9\u4e2d\U0001f600') for _ in range(rng.randrange(400)))


@pytest.mark.parametrize("seed", range(20))
def test_what_a_request_holds_is_read_as_it_is(seed: int) -> None:
    """The largest requests, of texts full of marks and escapes, written in several ways: the very same texts."""
    source = texts(seed)
    rows = [{"sentence1": next(source), "sentence2": next(source)} for _ in range(ROWS)]
    given = {"task": "rte", "rows": rows}
    for spaces, is_ascii in ((None, True), (None, False), (4, False)):
        body = json.dumps(given, indent=spaces, ensure_ascii=is_ascii).encode()
        assert read_request(body, ROWS, COLUMNS).model_dump() == given


def test_a_few_rows_too_many_are_counted_for_the_client() -> None:
    """Near the limit the answer says the limit and what was found."""
    request = read_request(json.dumps(body_of(*["a"] * 100)).encode(), ROWS, 1)
    with pytest.raises(BadRequest) as refused:
        check(request, StubPredictor().tasks, ROWS, 10)
    assert told(refused.value.problems)[0]["msg"] == "at most 64 rows a request, found 100"


def server(task: str = "sst2", **guard: Any) -> Server:
    made = Server(StubPredictor(task), EngineSettings(), AppSettings(guard=GuardSettings(**guard)))
    made.engine.start()
    return made


def test_a_million_bytes_of_anything_get_422_and_the_server_goes_on() -> None:
    """Over HTTP, one after the other; the request after them is answered."""
    made = server()
    for body in (MANY["numbers as rows"], MANY["unknown keys"], FEW["half a pair"]):
        answer = made.post(body)
        assert (answer.status_code, len(answer.content) < 500) == (422, True)
    assert made.post(body_of("a good film")).status_code == 200
    assert made.engine.stop(10.0)


def test_the_largest_request_is_answered() -> None:
    """As many rows and characters as are allowed."""
    made = server(max_body_bytes=2 << 20)
    answer = made.post(body_of(*["ab, " * 5000] * ROWS))
    assert (answer.status_code, len(answer.json()["predictions"])) == (200, ROWS)
    assert made.engine.stop(10.0)


def test_a_row_of_tagged_words_has_a_bound() -> None:
    """A million bytes of one-letter words would be an answer of 500,000 tags."""
    made = server("wnut17")
    answer = made.post({"rows": [{"tokens": "a " * 500}, {"tokens": "a " * 5000}]})
    assert answer.status_code == 422
    assert answer.json()["detail"] == [
        {"type": "too_long", "loc": ["body", "rows", 1, "tokens"], "msg": "at most 512 words, found 5000"}
    ]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/json5"])
def test_only_json_is_read(kind: str) -> None:
    """A page in a browser may send other kinds to any server without asking; the answer says what is expected."""
    made = server()
    answer = made.talk(lambda client: client.post("/v1/predict", content=b"{}", headers={"content-type": kind}))
    assert (answer.status_code, "application/json" in answer.json()["detail"]) == (415, True)


def test_bodies_that_wait_have_a_bound_together() -> None:
    """The 65th of the largest bodies at once is refused with 429, and its bytes are given back."""
    made = server(max_body_bytes=1000)
    made.engine.predictor.gate.clear()  # type: ignore[attr-defined]

    async def crowd(client: Any) -> list[int]:
        body = json.dumps(body_of("a" * 940)).encode()
        asked = [asyncio.ensure_future(predict(client, body)) for _ in range(70)]
        while sum(one.done() for one in asked) < 2:
            await asyncio.sleep(0.01)
        made.engine.predictor.gate.set()  # type: ignore[attr-defined]
        first = [(await one).status_code for one in asked]
        return [*first, (await predict(client, body)).status_code]

    found = made.talk(crowd)
    assert found.count(429) in range(1, 6) and found.count(200) == 71 - found.count(429) and found[-1] == 200
    assert made.engine.stop(10.0)
