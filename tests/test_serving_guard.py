"""Who may ask, what is noted of it, and that a server whose model is broken says so."""

from __future__ import annotations

import asyncio
import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.__main__ import _app_settings
from serving.access import AllowedHosts, read_token
from serving.app import AppSettings
from serving.arguments import parse_arguments
from serving.controller import ControllerSettings, RatioController
from serving.engine import Engine, EngineSettings
from serving.guard import GuardSettings
from serving.metrics import Metrics
from serving.predictor import Prediction, Tag
from tests.tiny_server import Server, StubPredictor, body_of, predict
from utils.errors import UserError

TOKEN = "0123456789abcdef"


def server(predictor: StubPredictor | None = None, **guard: Any) -> Server:
    made = Server(
        predictor or StubPredictor(), EngineSettings(max_wait_s=0.0), AppSettings(guard=GuardSettings(**guard))
    )
    made.engine.start()
    return made


# --- hosts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "host", "allowed", "refused"),
    [
        (
            [],
            "127.0.0.1",
            ["localhost", "LOCALHOST:8000", "127.0.0.1:80", "[::1]:8000", "localhost.", ""],
            [
                "evil.example",
                "localhost.evil.example",
                "127.0.0.1.evil.example",
                "10.0.0.1",
                "[::2]",
                "[::1]x",
                "[",
                "*",
            ],
        ),
        ([], "10.1.2.3", ["10.1.2.3", "localhost"], ["10.1.2.4", "evil.example"]),
        ([], "0.0.0.0", ["192.168.0.7:8000", "[fe80::1]:80", "localhost"], ["evil.example", "1.2.3.4.example"]),
        ([], "::", ["192.168.0.7", "[2001:db8::1]"], ["evil.example:8000"]),
        ([], "0", ["192.168.0.7"], ["evil.example"]),
        (["API.example.org"], "0.0.0.0", ["api.example.org:443"], ["localhost", "10.0.0.1", "xapi.example.org"]),
        (["*.example.org"], "127.0.0.1", ["a.b.example.org"], ["example.org", "badexample.org", "example.org.evil"]),
        (["*"], "127.0.0.1", ["anything.at.all", "1.2.3.4"], []),
    ],
)
def test_only_names_that_are_served_are_answered(
    names: list[str], host: str, allowed: list[str], refused: list[str]
) -> None:
    """By default what names this machine; a page from elsewhere cannot make its own name one of these."""
    hosts = AllowedHosts.of(names, host)
    assert [one for one in allowed if one not in hosts] == []
    assert [one for one in refused if one in hosts] == []


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/model", 400), ("/metrics", 400), ("/openapi.json", 400), ("/healthz", 200)]
)
def test_a_foreign_host_gets_400_everywhere_but_at_health(path: str, status: int) -> None:
    """A load balancer asks for health by whatever name it has."""
    made = server()
    assert made.get(path, headers={"host": "evil.example"}).status_code == status
    assert made.talk(lambda client: predict(client, body_of("a"), host="evil.example")).status_code == 400
    assert made.engine.predictor.seen == []  # type: ignore[attr-defined]
    assert made.engine.stop(10.0)


# --- token --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
        ("", 401),
        (TOKEN, 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN}0", 401),
        (f"Bearer {TOKEN.upper()}", 401),
        ("Bearer ", 401),
    ],
)
def test_without_the_token_nothing_is_answered_but_health(header: str, status: int) -> None:
    """Every path; the refusal says which scheme is expected, and repeats nothing."""
    made = server(token=TOKEN)
    for path in ("/v1/model", "/metrics", "/openapi.json", "/nothing"):
        found = made.get(path, headers={"authorization": header})
        assert (found.status_code == 401) == (status == 401)
    answer = made.talk(lambda client: predict(client, body_of("a"), authorization=header))
    assert answer.status_code == status and TOKEN not in answer.text
    assert status == 200 or answer.headers["www-authenticate"] == "Bearer"
    assert made.get("/healthz").status_code == 200
    assert made.engine.stop(10.0)


@pytest.mark.parametrize("text", ["", "\n", "short", "two words of it", "one\ntwo line token", "tökentöken", "a" * 7])
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: str) -> None:
    """In one sentence that does not repeat what it holds."""
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(UserError, match="--token_file") as refused:
        read_token(path)
    assert not text.strip() or text.strip() not in str(refused.value).replace(str(path), "")


@pytest.mark.parametrize("kind", ["missing", "folder", "bytes"])
def test_a_token_that_cannot_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    """With the reason."""
    path = {"missing": tmp_path / "none", "folder": tmp_path, "bytes": tmp_path / "bytes"}[kind]
    if kind == "bytes":
        path.write_bytes(b"\xff\xfe" * 8)
    with pytest.raises(UserError, match="cannot be read"):
        read_token(path)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_token_that_everyone_can_read_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int, warned: bool
) -> None:
    """The file is used all the same; its end of line is no part of it."""
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(mode)
    settings = _app_settings(parse_arguments(["--model", "d", "--token-file", str(path)]))
    assert settings.guard.token == TOKEN
    assert ("warning: --token_file" in capsys.readouterr().err) == warned


# --- ids and logs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("a1", True),
        ("3f2504e0-4f89-11d3-9a0c-0305e82c3301", True),
        ("Root=1-67891233-abcdef012345678912345678", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("", False),
        ("a b", False),
        ("a%0ab", False),
        ("<script>", False),
        ("-a", False),
        ('a"b', False),
    ],
)
def test_a_request_has_an_id(given: str, is_kept: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The client's own if it is a plain word; it is in the answer and in the log, whatever the status."""
    with caplog.at_level(logging.INFO, "serving.access"):
        made = server(access_log=True)

        async def twice(client: httpx.AsyncClient) -> list[httpx.Response]:
            return [await predict(client, body, **{"x-request-id": given}) for body in (body_of("a"), b"{")]

        found = made.talk(twice)
    ids = [answer.headers["x-request-id"] for answer in found]
    assert [answer.status_code for answer in found] == [200, 422]
    assert (ids == [given] * 2) == is_kept and (is_kept or len(set(ids)) == 2)
    assert [record.getMessage().split("id=")[1] for record in caplog.records] == ids
    assert made.engine.stop(10.0)


def test_the_access_log_is_a_line_for_each_request_where_it_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    """Refused ones too; what is in a path cannot begin another line, and no text or token is in it."""
    for wanted in (True, False):
        made = server(access_log=wanted, token=TOKEN)
        with caplog.at_level(logging.INFO, "serving.access"):
            made.get("/%0aINFO%20fake?secret=1", headers={"authorization": f"Bearer {TOKEN}"})
            made.get("/" + "a" * 5000, headers={"host": "evil.example"})
            made.talk(lambda client: predict(client, body_of("a private text"), authorization=f"Bearer {TOKEN}"))
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 3 * wanted
        assert all("\n" not in line and len(line) < 400 for line in lines)
        assert all(word not in line for line in lines for word in (TOKEN, "private", "secret"))
        if wanted:
            assert [line.split(" ")[3] for line in lines] == ["404", "400", "200"]
        caplog.clear()
        assert made.engine.stop(10.0)


def test_an_error_that_nobody_foresaw_is_a_500_with_the_id_and_one_entry_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer tells nothing of it but where to look."""
    predictor = StubPredictor()

    def breaks(name: str, rows: Any) -> Any:
        raise KeyError("what only the log may know")

    predictor.encode = breaks  # type: ignore[method-assign]
    made = server(predictor)
    answer = made.talk(lambda client: predict(client, body_of("a"), **{"x-request-id": "r7"}))
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "r7")
    assert "r7" in answer.json()["detail"] and "only the log" not in answer.text
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "request r7 failed"
    ]
    assert 'serving_requests_total{status="500"} 1.0' in made.told()
    assert made.engine.stop(10.0)


# --- health -------------------------------------------------------------------------------------------------------


def test_health_and_metrics_are_there_for_head_too() -> None:
    """As load balancers ask."""
    made = server()
    for path in ("/healthz", "/metrics"):
        found = made.talk(partial(httpx.AsyncClient.head, url=path))
        assert (found.status_code, found.headers["content-type"]) == (200, made.get(path).headers["content-type"])
    assert made.talk(lambda client: client.head("/v1/predict")).status_code == 405
    assert made.engine.stop(10.0)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), MemoryError(), SystemExit(1), KeyboardInterrupt()])
def test_a_model_that_works_no_more_ends_what_waits_and_fails_health(error: BaseException) -> None:
    """Whatever ended it: what runs and what waits gets 500 at once, what comes then 503, and so does health."""
    predictor = StubPredictor(is_open=False)

    def dies(length: int) -> Prediction:
        raise error

    predictor.answer = dies
    made = server(predictor)

    async def conversation(client: httpx.AsyncClient) -> list[int]:
        asked = [asyncio.ensure_future(predict(client, body_of(text))) for text in ("a", "a b " * 9, "a b " * 30)]
        while not predictor.entered.is_set() or "serving_queue_rows 2.0" not in made.told():
            await asyncio.sleep(0.005)
        before = await client.get("/healthz")
        predictor.gate.set()
        first = [(await one).status_code for one in asked]
        later, health = await predict(client, body_of("a")), await client.get("/healthz")
        return [before.status_code, *first, later.status_code, health.status_code]

    assert made.talk(conversation) == [200, 500, 500, 500, 503, 503]
    assert made.engine.is_broken and not made.engine.stop(1.0)


def test_a_model_that_does_not_come_to_an_end_fails_health_until_it_does() -> None:
    """A batch of more than a minute, and of more than the time of a request."""
    for timeout_s in (10.0, 300.0):
        predictor, now = StubPredictor(is_open=False), [0.0]
        controller = RatioController(ControllerSettings(100.0), {1: 1e-6})
        settings = EngineSettings(max_wait_s=0.0, request_timeout_s=timeout_s)
        engine = Engine(predictor, controller, settings, Metrics(), clock=lambda now=now: now[0])  # type: ignore[misc]
        engine.start()
        engine.reserve(1)
        future = engine.submit("sst2", predictor.encode("sst2", [["a"]]), 0.0)
        assert predictor.entered.wait(30)
        limit = max(60.0, timeout_s)
        found = []
        for now[0] in (limit - 1, limit + 1):
            found.append(engine.trouble is None)
        assert found == [True, False]
        predictor.gate.set()
        future.result(30)
        assert engine.trouble is None and engine.stop(10.0)


def test_a_batch_that_fails_alone_does_not_fail_health() -> None:
    """A model that still predicts a plain row goes on."""
    predictor = StubPredictor()

    def answer(length: int) -> Prediction:
        if length > 40:
            raise RuntimeError("out of memory")
        return Prediction("positive")

    predictor.answer = answer
    made = server(predictor)
    assert made.post(body_of("a " * 50)).status_code == 500
    assert made.get("/healthz").status_code == 200 and made.post(body_of("a")).status_code == 200
    assert made.engine.stop(10.0)


# --- scores that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, None])
def test_no_answer_holds_a_score_that_is_none(score: float | None) -> None:
    """Rows without finite scores make their own request a 500; those in the same batch are answered."""
    predictor = StubPredictor(is_open=False)
    good = Prediction("positive", {"positive": 1.0})
    bad = None if score is None else Prediction("positive", {"positive": score})
    predictor.answer = lambda length: bad if length == 2 else good
    made = server(predictor)

    async def conversation(client: httpx.AsyncClient) -> list[httpx.Response]:
        first = asyncio.ensure_future(predict(client, body_of("a a a")))
        while not predictor.entered.is_set():
            await asyncio.sleep(0.005)
        others = [asyncio.ensure_future(predict(client, body_of("a", text))) for text in ("a", "a b", "a b c")]
        while "serving_queue_rows 6.0" not in made.told():
            await asyncio.sleep(0.005)
        predictor.gate.set()
        return [await one for one in (first, *others)]

    found = made.talk(conversation)
    assert [answer.status_code for answer in found] == [200, 200, 500, 200]
    assert "null" not in found[1].text.replace('"tags":null', "") and "NaN" not in found[2].text
    assert len(predictor.seen) == 2  # all of them were in one batch
    assert made.engine.stop(10.0)


def test_no_tag_holds_a_score_that_is_none() -> None:
    """The same for words."""
    predictor = StubPredictor("wnut17")
    predictor.answer = lambda length: Prediction(tags=(Tag("O", 1.0), Tag("O", math.nan)))
    made = server(predictor)
    assert made.post({"rows": [{"tokens": "a b"}]}).status_code == 500
    assert made.engine.stop(10.0)


# --- the interface, described -------------------------------------------------------------------------------------


def test_the_description_knows_every_status_and_the_body() -> None:
    """Each status that the server gives is described, with the form of its answer."""
    made = server()
    page = made.get("/openapi.json").json()
    told = page["paths"]["/v1/predict"]["post"]
    assert set(told["responses"]) == {str(status) for status in (200, 400, 401, 408, 413, 415, 422, 429, 500, 503, 504)}
    for status, form in (("200", "PredictAnswer"), ("422", "Problems"), ("503", "Refusal")):
        assert told["responses"][status]["content"]["application/json"]["schema"]["$ref"].endswith(f"/{form}")
    rows = told["requestBody"]["content"]["application/json"]["schema"]["properties"]["rows"]
    assert rows["items"]["additionalProperties"] == {"type": "string"}
    assert set(page["paths"]["/healthz"]["get"]["responses"]) >= {"200", "503"}
    assert made.engine.stop(10.0)


# --- flags --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--host", ""], "--host: expected a value"),
        (["--host", "  "], "--host: expected a value"),
        (["--allowed_hosts", "localhost", "a.example:8000"], "--allowed_hosts: 'a.example:8000'"),
        (["--allowed_hosts", "http://a.example"], "--allowed_hosts: 'http://a.example'"),
        (["--allowed_hosts", ""], "--allowed_hosts: expected a value"),
        (["--allowed_hosts", "a.*.example"], "--allowed_hosts: 'a.*.example'"),
        (["--request_timeout_s", "0"], "--request_timeout_s must be above 0"),
        (["--header_timeout_s", "nan"], "--header_timeout_s: expected a finite number"),
        (["--idle_timeout_s", "inf"], "--idle_timeout_s: expected a finite number"),
        (["--drain_seconds", "inf"], "--drain_seconds: expected a finite number"),
        (["--shutdown_delay_s", "-1"], "--shutdown_delay_s must be at least 0"),
        (["--max_connections", "0"], "--max_connections must be at least 1"),
        (["--max_batch_tokens", "0"], "--max_batch_tokens must be at least 1"),
        (["--tokenizer_threads", "0"], "--tokenizer_threads must be at least 1"),
    ],
)
def test_flags_that_make_no_sense_are_named(flags: list[str], text: str) -> None:
    """With what was found."""
    with pytest.raises(UserError) as refused:
        parse_arguments(["--model", "d", *flags])
    assert text in str(refused.value)
