"""The thread that runs the model: requests in through a bounded queue, answers out through futures."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from serving.batching import LengthQueue, Waiting, length_bucket
from serving.controller import RatioController
from serving.metrics import Metrics
from serving.predictor import MEASURED_ROWS, Encoded, Prediction, Predictor

logger = logging.getLogger(__name__)

#: The worker looks at the ratio this often although nothing waits.
_IDLE_S = 0.25


class Refused(Exception):
    """There is no room in the queue.

    Attributes:
        retry_after_s: when there should be.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("too many rows are waiting")
        self.retry_after_s = retry_after_s


class Ending(Exception):
    """The server is about to end and takes no more requests, or has no more time for this one."""


class RowAnswer(NamedTuple):
    """A prediction, and the ratio that served it."""

    prediction: Prediction
    ratio: int
    truncated: bool


class Answer(NamedTuple):
    """The answer to a request.

    Attributes:
        rows: in the order of the request.
        queue_ms: from its arrival to its end, less `compute_ms`.
        compute_ms: the model's time for the batches that its rows were in.
    """

    rows: list[RowAnswer]
    queue_ms: float
    compute_ms: float


@dataclass
class _Request:
    """What is known of a request until all its rows are answered."""

    arrived: float
    encoded: Sequence[Encoded]
    future: Future[Answer]
    answers: dict[int, RowAnswer] = field(default_factory=dict)
    compute_s: float = 0.0


@dataclass(frozen=True)
class EngineSettings:
    """Sizes of queue and batches; see `ServingArguments`."""

    queue_rows: int = 512
    max_batch: int = 32
    max_wait_s: float = 0.002
    threads: int | None = None


class Engine:
    """Batches rows and predicts them in a thread of its own, at the ratio that the controller chooses.

    A caller reserves room (`reserve`), encodes its rows, and hands them in (`submit`) or gives the room back
    (`release`). All methods may be called from any thread.
    """

    def __init__(
        self,
        predictor: Predictor,
        controller: RatioController,
        settings: EngineSettings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.predictor, self.controller, self.metrics = predictor, controller, metrics
        self._settings, self._clock = settings, clock
        self._queue = LengthQueue(settings.queue_rows, settings.max_batch, settings.max_wait_s)
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._stopping = False
        self.accepting = True
        metrics.watch(lambda: len(self._queue), lambda: self.controller.ratio)

    def start(self) -> None:
        """Begin to run batches."""
        self._thread.start()

    def reserve(self, rows: int) -> None:
        """Keep room for the rows of a request.

        Raises:
            Refused: there is none.
            Ending: the server takes no more requests.
        """
        with self._changed:
            if not self.accepting:
                raise Ending
            if not self._queue.reserve(rows):
                seconds = self.controller.seconds_for(self._queue.work)
                raise Refused(max(1, math.ceil(seconds)))

    def release(self, rows: int) -> None:
        """Give room back."""
        with self._changed:
            self._queue.release(rows)
            self._changed.notify_all()

    def submit(self, task: str, encoded: Sequence[Encoded], arrived: float) -> Future[Answer]:
        """Hand in the rows of a request, for which room was reserved; `arrived` by `now`."""
        request = _Request(arrived, encoded, Future())
        with self._changed:
            for index, row in enumerate(encoded):
                bucket = length_bucket(len(row.feature.input_ids))
                self._queue.put(Waiting(task, bucket, arrived, (request, index)))
                self.controller.arrived(arrived, bucket)
            self._changed.notify_all()
        return request.future

    def now(self) -> float:
        """The engine's clock, in seconds."""
        return self._clock()

    def refuse_more(self) -> None:
        """Take no more requests from now on; safe inside a signal handler."""
        self.accepting = False

    def stop(self, seconds: float) -> bool:
        """Take no more requests, finish those that are there, and end; whether the time was enough for all."""
        self.refuse_more()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        with self._changed:
            left = self._queue.clear()
        for request in {id(row.payload[0]): row.payload[0] for row in left}.values():
            _fail(request, Ending())
        return not left and not self._thread.is_alive()

    def _work(self) -> None:
        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)
        while batch := self._next_batch():
            rows, ratio = batch
            try:
                self._run(rows, ratio)
            except Exception as error:
                logger.exception("a batch of %d rows failed", len(rows))
                for row in rows:
                    _fail(row.payload[0], error)

    def _next_batch(self) -> tuple[list[Waiting], int] | None:
        """The next batch and its ratio, once there is one; None at the end."""
        with self._changed:
            while True:
                now = self._clock()
                waiting = self._queue.work
                rows = self._queue.take(now, flush=self._stopping)
                before = self.controller.ratio
                ratio = self.controller.decide(now, waiting)
                if ratio != before:
                    self.metrics.ratio_changes.inc()
                if rows:
                    return rows, ratio
                if self._stopping and not self._queue.reserved:
                    return None
                due = self._queue.due_at()
                self._changed.wait(_IDLE_S if due is None else min(max(due - now, 0.0), _IDLE_S))

    def _run(self, rows: Sequence[Waiting], ratio: int) -> None:
        begin = self._clock()
        pairs = [(row.payload[0], row.payload[1]) for row in rows]
        features = [request.encoded[index].feature for request, index in pairs]
        predictions = self.predictor.predict(rows[0].task, ratio, features)
        end = self._clock()
        self.metrics.batch_rows.observe(len(rows))
        self.metrics.batch_seconds.labels(str(ratio)).observe(end - begin)
        self.metrics.rows.labels(rows[0].task, str(ratio)).inc(len(rows))
        if len(rows) >= min(self._settings.max_batch, MEASURED_ROWS):
            with self._changed:
                self.controller.ran(ratio, sum(row.bucket for row in rows), end - begin)
        for request in {id(request): request for request, _ in pairs}.values():
            request.compute_s += end - begin
        for (request, index), prediction in zip(pairs, predictions, strict=True):
            request.answers[index] = RowAnswer(prediction, ratio, request.encoded[index].truncated)
            if len(request.answers) == len(request.encoded):
                self._finish(request, end)

    def _finish(self, request: _Request, end: float) -> None:
        answers = [request.answers[i] for i in range(len(request.encoded))]
        whole_ms, compute_ms = (end - request.arrived) * 1e3, request.compute_s * 1e3
        with self._changed:
            self.controller.answered(end, whole_ms)
        if request.future.set_running_or_notify_cancel():
            request.future.set_result(Answer(answers, max(whole_ms - compute_ms, 0.0), compute_ms))


def _fail(request: _Request, error: Exception) -> None:
    if not request.future.done() and request.future.set_running_or_notify_cancel():
        request.future.set_exception(error)
