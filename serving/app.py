"""The HTTP interface: predictions, what is served, health and metrics."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.engine import Answer, Ending, Engine, Refused
from serving.metrics import Metrics
from serving.schema import (
    BadRequest,
    ModelDescription,
    PredictAnswer,
    PredictRequest,
    RowPrediction,
    TaskDescription,
    WordTag,
    check,
    told,
)

PREDICT = "/v1/predict"


@dataclass(frozen=True)
class AppSettings:
    """Limits of a request, and what `/v1/model` tells; see `ServingArguments`."""

    max_rows: int = 64
    max_chars: int = 20000
    max_body_bytes: int = 1 << 20
    latency_target_ms: float | None = None


def create_app(engine: Engine, metrics: Metrics, settings: AppSettings) -> FastAPI:
    """The application. The engine is started and stopped by the caller."""
    # No pages of documentation: they would load scripts from elsewhere.
    app = FastAPI(title="Predictions at dynamic compression ratios", docs_url=None, redoc_url=None)
    app.add_middleware(_Watch, engine=engine, metrics=metrics, max_body_bytes=settings.max_body_bytes)
    app.add_exception_handler(RequestValidationError, _unprocessable)
    app.add_exception_handler(BadRequest, _unprocessable)
    encoder = ThreadPoolExecutor(1, thread_name_prefix="encoder")  # a tokenizer is for one thread at a time

    @app.post(PREDICT)
    async def predict(request: PredictRequest) -> PredictAnswer:
        arrived = engine.now()
        name, texts = check(request, engine.predictor.tasks, settings.max_rows, settings.max_chars)
        _reserve(engine, len(texts))
        try:
            encoded = await asyncio.get_running_loop().run_in_executor(encoder, engine.predictor.encode, name, texts)
        except BaseException:
            engine.release(len(texts))
            raise
        try:
            answer = await asyncio.wrap_future(engine.submit(name, encoded, arrived))
        except Ending:
            raise _unavailable() from None
        return _answer(name, answer)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        if not engine.accepting:
            raise _unavailable()
        return {"status": "ok"}

    @app.get("/v1/model")
    async def model() -> ModelDescription:
        return _description(engine, settings)

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    return app


def _reserve(engine: Engine, rows: int) -> None:
    try:
        engine.reserve(rows)
    except Refused as refused:
        raise HTTPException(429, str(refused), {"Retry-After": str(refused.retry_after_s)}) from None
    except Ending:
        raise _unavailable() from None


def _unavailable() -> HTTPException:
    return HTTPException(503, "the server is about to end", {"Retry-After": "5"})


async def _unprocessable(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError | BadRequest)
    problems = error.errors() if isinstance(error, RequestValidationError) else error.problems
    return JSONResponse({"detail": told(problems)}, 422)


def _answer(name: str, answer: Answer) -> PredictAnswer:
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
    return PredictAnswer(task=name, predictions=rows, queue_ms=answer.queue_ms, compute_ms=answer.compute_ms)


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
            "max_body_bytes": settings.max_body_bytes,
        },
    )


class _Watch:
    """Refuses bodies that are too large, by what they say and by what they are, and counts requests and latencies."""

    def __init__(self, app: ASGIApp, engine: Engine, metrics: Metrics, max_body_bytes: int) -> None:
        self._app, self._engine, self._metrics, self._most = app, engine, metrics, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status, seen = self._engine.now(), 500, 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise HTTPException(413, f"a request has at most {self._most} bytes")
            return message

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if _announced(scope) > self._most:
                answer = JSONResponse({"detail": f"a request has at most {self._most} bytes"}, 413)
                await answer(scope, receive, noting)
            else:
                await self._app(scope, limited, noting)
        finally:
            if scope["path"] == PREDICT:
                self._metrics.requests.labels(str(status)).inc()
                if status == 200:
                    self._metrics.latency.observe(self._engine.now() - begin)


def _announced(scope: Scope) -> int:
    """The body's size as the request says it, 0 where it does not."""
    text = dict(scope["headers"]).get(b"content-length", b"0")
    return int(text) if text.isdigit() else 0
