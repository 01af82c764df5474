"""Servers for tests: an engine with its application, in process, with a real model or one that does as it is told."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
from fastapi import FastAPI

from dataset import Collator, Feature, get_task
from serving.app import AppSettings, create_app
from serving.controller import ControllerSettings, RatioController
from serving.engine import Engine, EngineSettings
from serving.metrics import Metrics
from serving.predictor import Encoded, Prediction, Predictor, ServedTask

Send = Callable[[httpx.AsyncClient], Awaitable[Any]]


class Server:
    """An engine with its application; it runs once `engine.start` is called."""

    def __init__(
        self,
        predictor: Predictor,
        settings: EngineSettings,
        app: AppSettings,
        controller: RatioController | None = None,
    ) -> None:
        self.metrics = Metrics()
        chosen = controller or RatioController(ControllerSettings(100.0), {1: 1e-6})
        self.engine = Engine(predictor, chosen, settings, self.metrics)
        self.app: FastAPI = create_app(self.engine, self.metrics, app)

    def talk(self, send: Send) -> Any:
        """Run a conversation with the application."""

        async def conversation() -> Any:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await asyncio.wait_for(send(client), 120)  # a request that nobody answers fails

        return asyncio.run(conversation())

    def post(self, body: Any) -> httpx.Response:
        """One prediction request."""
        return self.talk(lambda client: predict(client, body))

    def get(self, path: str, **options: Any) -> httpx.Response:
        """One request for something else."""
        return self.talk(lambda client: client.get(path, **options))

    def told(self) -> str:
        """The metrics."""
        return self.metrics.text().decode()


def predict(client: httpx.AsyncClient, body: Any, **headers: str) -> Awaitable[httpx.Response]:
    """Send a prediction request: something for JSON, or bytes as they are."""
    if isinstance(body, bytes):
        return client.post("/v1/predict", content=body, headers={"content-type": "application/json", **headers})
    return client.post("/v1/predict", json=body, headers=headers)


def body_of(*texts: str, **more: Any) -> dict[str, Any]:
    """A request with rows of one sentence."""
    return {"rows": [{"sentence": text} for text in texts], **more}


def _no_logits(model: Any, batch: Any) -> Any:
    raise AssertionError("there is no model")


class StubPredictor(Predictor):
    """A model that does as it is told: a token for each word, one answer to all, and a gate that batches wait at.

    Attributes:
        seen: lengths of the rows of every batch.
        gate: a batch waits until it is open.
        entered: a batch has come to the gate.
        answer: what it says of a row of this length.
    """

    def __init__(self, task: str = "sst2", is_open: bool = True) -> None:
        served = ServedTask(get_task(task), "", 64, lambda rows, most: (), Collator(0), _no_logits)
        self.tasks, self.ratios, self.model = {served.task.name: served}, (1,), None
        self.seen: list[list[int]] = []
        self.gate, self.entered = threading.Event(), threading.Event()
        if is_open:
            self.gate.set()
        self.answer: Callable[[int], Prediction | None] = lambda length: Prediction("positive", {"positive": 1.0})

    def encode(self, name: str, rows: Sequence[Sequence[str]]) -> list[Encoded]:
        """Rows of as many tokens as they have words."""
        return [Encoded(Feature(0, array("i", [1] * max(1, len(row[0].split())))), False) for row in rows]

    def predict(self, name: str, ratio: int, features: Sequence[Feature]) -> list[Prediction | None]:
        """What `answer` says, once the gate is open."""
        self.entered.set()
        assert self.gate.wait(60)
        self.seen.append([len(feature.input_ids) for feature in features])
        return [self.answer(len(feature.input_ids)) for feature in features]
