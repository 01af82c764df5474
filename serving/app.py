"""The HTTP interface: predictions, what is served, health and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from serving.engine import Answer, Ending, Engine, Expired, Failed, Refused
from serving.guard import HEALTH, PREDICT, Guard, GuardSettings
from serving.metrics import Metrics
from serving.schema import (
    BadRequest,
    ModelDescription,
    PredictAnswer,
    PredictRequest,
    Problems,
    Refusal,
    RowPrediction,
    TaskDescription,
    WordTag,
    check,
    read_request,
    told,
)

T = TypeVar("T")

#: A larger body is read in another thread, and an answer with more tags is written there.
_SMALL_BODY, _FEW_TAGS = 1 << 14, 1000
#: A request with more characters may not take the last thread that tokenises.
_FEW_CHARS = 20000
#: A status that no client sees: it was gone before there was an answer.
GONE = 499
_REFUSALS = {
    400: "The Host header names none of the hosts that are served.",
    401: "The token is missing or wrong.",
    408: "The body took too long to come.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    429: "The queue has no room for the rows; `Retry-After` says in how many seconds it should.",
    500: "The model failed on rows of this request.",
    503: "The server is about to end, has too many connections, or its model does not work any more.",
    504: "The request was not answered within the time that the server gives it.",
}


@dataclass(frozen=True)
class AppSettings:
    """Limits of a request, and what `/v1/model` tells; see `ServingArguments`."""

    max_rows: int = 64
    max_chars: int = 20000
    latency_target_ms: float | None = None
    tokenizer_threads: int = 2
    guard: GuardSettings = field(default_factory=GuardSettings)


class _Gone(Exception):
    """The client has closed its connection."""


class _Threads:
    """Threads that tokenise; large requests leave one of them to small ones, where there are several."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenizer")
        self._large = asyncio.Semaphore(max(1, threads - 1))

    async def run(self, is_large: bool, function: Callable[..., T], *arguments: Any) -> T:
        """What the function gives."""
        if is_large:
            async with self._large:
                return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


def create_app(engine: Engine, metrics: Metrics, settings: AppSettings) -> FastAPI:
    """The application. The engine is started and stopped by the caller."""
    # No pages of documentation: they would load scripts from elsewhere.
    app = FastAPI(title="Predictions at dynamic compression ratios", docs_url=None, redoc_url=None)
    app.add_middleware(Guard, metrics=metrics, settings=settings.guard, clock=engine.now)
    app.add_exception_handler(BadRequest, _unprocessable)
    predicting = _Predicting(engine, settings)
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "model": Refusal} for status, text in _REFUSALS.items()
    }
    wrong = {"description": "The request is not what is expected; `detail` names each mistake.", "model": Problems}

    @app.post(
        PREDICT,
        response_model=PredictAnswer,
        responses={**refusals, 422: wrong},
        openapi_extra={"requestBody": {"required": True, "content": _described(PredictRequest)}},
    )
    async def predict(request: Request) -> Response:
        return await predicting.answer(request)

    @app.head(HEALTH, include_in_schema=False)
    @app.get(HEALTH, responses={503: refusals[503]})
    async def health() -> dict[str, str]:
        if (trouble := engine.trouble) is not None:
            raise _unavailable(trouble)
        return {"status": "ok"}

    @app.get("/v1/model", responses={status: refusals[status] for status in (400, 401)})
    async def model() -> ModelDescription:
        return _description(engine, settings)

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics", responses={status: refusals[status] for status in (400, 401)})
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    return app


class _Predicting:
    """A request's way: its body is read, its rows are checked, tokenised, predicted, and written down."""

    def __init__(self, engine: Engine, settings: AppSettings) -> None:
        self._engine, self._settings = engine, settings
        self._threads = _Threads(settings.tokenizer_threads)
        self._columns = max(len(served.task.columns) for served in engine.predictor.tasks.values())

    async def answer(self, request: Request) -> Response:
        """The answer to a request; 504 when its time is over, 499 for the log when its client is gone."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise HTTPException(415, "expected the header content-type: application/json")
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=GONE)
        arrived = self._engine.now()
        try:
            async with _while_there(request.receive), asyncio.timeout(self._engine.settings.request_timeout_s):
                name, answer = await self._predicted(body, arrived, request.state.request_id)
                is_small = sum(len(row.prediction.tags or ()) for row in answer.rows) <= _FEW_TAGS
                text = _text(name, answer) if is_small else await self._threads.run(True, _text, name, answer)
        except _Gone:
            return Response(status_code=GONE)
        except (TimeoutError, Expired):
            raise HTTPException(504, "the server had no time for this request") from None
        except Ending:
            raise _unavailable(self._engine.trouble) from None
        except Failed as error:
            raise HTTPException(500, str(error)) from None
        return Response(text, media_type="application/json")

    async def _predicted(self, body: bytes, arrived: float, request_id: str) -> tuple[str, Answer]:
        engine = self._engine
        is_small = len(body) <= _SMALL_BODY
        name, texts = self._read(body) if is_small else await self._threads.run(True, self._read, body)
        _reserve(engine, len(texts))
        try:
            is_large = not is_small and sum(len(text) for row in texts for text in row) > _FEW_CHARS
            encoded = await self._threads.run(is_large, engine.predictor.encode, name, texts)
        except BaseException:
            engine.release(len(texts))
            raise
        return name, await asyncio.wrap_future(engine.submit(name, encoded, arrived, request_id))

    def _read(self, body: bytes) -> tuple[str, list[list[str]]]:
        """The task's name and the rows' texts of a body."""
        settings = self._settings
        request = read_request(body, settings.max_rows, self._columns)
        return check(request, self._engine.predictor.tasks, settings.max_rows, settings.max_chars)


@asynccontextmanager
async def _while_there(receive: Receive) -> AsyncIterator[None]:
    """Do something for a client as long as it is there, once its body has come.

    Raises:
        _Gone: it has closed its connection; what was done is cancelled.
    """
    doing, gone = asyncio.current_task(), False
    assert doing is not None

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        doing.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and doing.uncancel() == 0:
            raise _Gone from None
        raise
    finally:
        watching.cancel()


def _described(request: type[PredictRequest]) -> dict[str, Any]:
    return {"application/json": {"schema": request.model_json_schema()}}


def _reserve(engine: Engine, rows: int) -> None:
    try:
        engine.reserve(rows)
    except Refused as refused:
        raise HTTPException(429, str(refused), {"Retry-After": str(refused.retry_after_s)}) from None


def _unavailable(trouble: str | None) -> HTTPException:
    return HTTPException(503, trouble or "the server is about to end", {"Retry-After": "5"})


async def _unprocessable(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BadRequest)
    return JSONResponse({"detail": told(error.problems)}, 422)


def _text(name: str, answer: Answer) -> str:
    """The answer as JSON."""
    rows = [
        RowPrediction(
            label=row.prediction.label,
            scores=dict(row.prediction.scores),
            tags=None if (tags := row.prediction.tags) is None else [WordTag(**tag._asdict()) for tag in tags],
            ratio=row.ratio,
            truncated=row.truncated,
        )
        for row in answer.rows
    ]
    whole = PredictAnswer(task=name, predictions=rows, queue_ms=answer.queue_ms, compute_ms=answer.compute_ms)
    return whole.model_dump_json()


def _description(engine: Engine, settings: AppSettings) -> ModelDescription:
    tasks = {
        name: TaskDescription(
            kind=served.task.kind,
            columns=list(served.task.columns),
            labels=list(served.task.labels),
            ratios=list(engine.predictor.ratios),
            max_length=served.max_length,
        )
        for name, served in engine.predictor.tasks.items()
    }
    return ModelDescription(
        edits=engine.predictor.edits(),
        tasks=tasks,
        ratio=engine.controller.ratio,
        ratio_mode="fixed" if settings.latency_target_ms is None else "auto",
        latency_target_ms=settings.latency_target_ms,
        **engine.predictor.choice.fields,
        limits={
            "max_rows": settings.max_rows,
            "max_chars": settings.max_chars,
            "max_body_bytes": settings.guard.max_body_bytes,
        },
    )
