"""The thread that runs the model: requests in through a bounded queue, answers out through futures."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from serving.batching import LengthQueue, Waiting, length_bucket
from serving.controller import RatioController
from serving.metrics import Metrics
from serving.predictor import MEASURED_ROWS, Encoded, Prediction, Predictor

logger = logging.getLogger(__name__)

#: The worker looks at the ratio this often although nothing waits.
_IDLE_S = 0.25
#: A batch that takes longer, and longer than a request may, is one that does not end.
_STUCK_S = 60.0
#: This part of the queue's room is kept for small requests.
_KEPT_SHARE = 8


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


class Expired(Exception):
    """The request's time was over before the model had a look at all its rows."""


class Failed(Exception):
    """The model gave no answer to rows of this request; the log says more."""


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


@dataclass(eq=False)
class _Request:
    """What is known of a request until all its rows are answered."""

    name: str
    arrived: float
    encoded: Sequence[Encoded]
    future: Future[Answer]
    answers: dict[int, RowAnswer] = field(default_factory=dict)
    compute_s: float = 0.0


@dataclass(frozen=True)
class EngineSettings:
    """Sizes of queue and batches, and the time of a request; see `ServingArguments`."""

    queue_rows: int = 512
    max_batch: int = 32
    max_wait_s: float = 0.002
    threads: int | None = None
    max_batch_tokens: int = 2048
    request_timeout_s: float = 60.0


class Engine:
    """Batches rows and predicts them in a thread of its own, at the ratio that the controller chooses.

    A caller reserves room (`reserve`), encodes its rows, and hands them in (`submit`) or gives the room back
    (`release`). Who cancels the future takes the rows out of the queue. All methods may be called from any thread.

    Attributes:
        is_ready: health checks succeed.
        accepting: requests are taken.
        is_broken: the model's thread has ended by an error; nothing can be answered any more.
    """

    def __init__(
        self,
        predictor: Predictor,
        controller: RatioController,
        settings: EngineSettings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.predictor, self.controller, self.metrics, self.settings = predictor, controller, metrics, settings
        self._clock = clock
        self._queue = LengthQueue(
            settings.queue_rows,
            settings.max_batch,
            settings.max_wait_s,
            settings.max_batch_tokens,
            kept=settings.queue_rows // _KEPT_SHARE,
        )
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._pending: set[_Request] = set()
        self._stopping = self._gave_up = self.is_broken = False
        self._unanswered = 0
        self._batch_begun_at: float | None = None
        self.is_ready = self.accepting = True
        metrics.watch(lambda: len(self._queue), lambda: self.controller.ratio)

    @property
    def trouble(self) -> str | None:
        """Why health checks fail; None where they do not."""
        if self.is_broken:
            return "the model does not work any more"
        begun = self._batch_begun_at
        if begun is not None and self._clock() > begun + max(_STUCK_S, self.settings.request_timeout_s):
            return "the model does not come to an end with a batch"
        return None if self.is_ready and self.accepting else "the server is about to end"

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
            self._check_open()
            if not self._queue.reserve(rows):
                seconds = self.controller.seconds_for(self._queue.work)
                raise Refused(max(1, math.ceil(seconds)))

    def release(self, rows: int) -> None:
        """Give room back."""
        with self._changed:
            self._queue.release(rows)
            self._changed.notify_all()

    def submit(self, task: str, encoded: Sequence[Encoded], arrived: float, name: str = "-") -> Future[Answer]:
        """Hand in the rows of a request, for which room was reserved.

        Args:
            arrived: by `now`.
            name: the request's, for the log.
        """
        request = _Request(name, arrived, encoded, Future())
        with self._changed:
            if self._gave_up or self.is_broken:
                self._queue.release(len(encoded))
                self._unanswered += 1
                _fail(request, Ending())
                return request.future
            self._pending.add(request)
            for index, row in enumerate(encoded):
                bucket = length_bucket(len(row.feature.input_ids))
                self._queue.put(Waiting(task, bucket, arrived, request, index))
                self.controller.arrived(arrived, bucket)
            self._changed.notify_all()
        request.future.add_done_callback(lambda _: self._forget(request))
        return request.future

    def now(self) -> float:
        """The engine's clock, in seconds."""
        return self._clock()

    def not_ready(self) -> None:
        """Fail health checks from now on, and still take requests; safe inside a signal handler."""
        self.is_ready = False

    def refuse_more(self) -> None:
        """Take no more requests from now on; safe inside a signal handler."""
        self.accepting = False

    def give_up(self) -> None:
        """Answer all that wait with `Ending`: there is no more time."""
        self.refuse_more()
        with self._changed:
            self._gave_up = True
        self._fail_pending(Ending())

    def stop(self, seconds: float) -> bool:
        """Take no more requests, finish those that are there, and end; whether all of them were answered."""
        self.refuse_more()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        self._fail_pending(Ending())
        return not self._unanswered and not self.is_broken and not self._thread.is_alive()

    def _check_open(self) -> None:
        if not self.accepting or self.is_broken:
            raise Ending

    def _forget(self, request: _Request) -> None:
        """Take out what waits of a request that is over."""
        gave_up = request.future.cancelled() or isinstance(request.future.exception(), Expired)
        with self._changed:
            self._pending.discard(request)
            dropped = self._queue.give_up(request, self._clock()) if gave_up else self._queue.discard(request)
        self.metrics.dropped.inc(dropped)

    def _fail_pending(self, error: Exception) -> None:
        """Answer all requests that are there with an error."""
        with self._changed:
            requests = list(self._pending)
            self._unanswered += len(requests)
        for request in requests:
            _fail(request, error)

    def _work(self) -> None:
        """The thread's life. However it ends, nobody is left to wait."""
        try:
            if self.settings.threads is not None:
                torch.set_num_threads(self.settings.threads)
            while batch := self._next_batch():
                self._run_safely(*batch)
        except BaseException:
            logger.exception("the model's thread has ended: every request is refused")
            self.is_broken = True
            self._fail_pending(Failed("the model does not work any more"))

    def _run_safely(self, rows: Sequence[Waiting], ratio: int) -> None:
        """Run a batch; one that fails ends its own requests, and the engine where an empty row fails as well."""
        try:
            self._run(rows, ratio)
        except Exception:
            self._batch_begun_at = None
            requests = _requests_of(rows)
            names = ", ".join(request.name for request in requests)
            logger.exception("a batch of %d rows failed (requests %s)", len(rows), names)
            for request in requests:
                _fail(request, Failed("the model failed on a batch with rows of this request"))
            self.predictor.probe(rows[0].task, ratio)

    def _next_batch(self) -> tuple[list[Waiting], int] | None:
        """The next batch and its ratio, once there is one; None at the end."""
        while True:
            self._expire()
            with self._changed:
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

    def _expire(self) -> None:
        """End the requests whose time is over, before anything is computed for them."""
        with self._changed:
            late: list[Any] = self._queue.arrived_before(self._clock() - self.settings.request_timeout_s)
        for request in late:
            _fail(request, Expired())

    def _run(self, rows: Sequence[Waiting], ratio: int) -> None:
        self._batch_begun_at = begin = self._clock()
        pairs: list[tuple[Any, int]] = [(row.request, row.index) for row in rows]
        features = [request.encoded[index].feature for request, index in pairs]
        predictions = self.predictor.predict(rows[0].task, ratio, features)
        end = self._clock()
        self._batch_begun_at = None
        self.metrics.batch_rows.observe(len(rows))
        self.metrics.batch_seconds.labels(str(ratio)).observe(end - begin)
        self.metrics.rows.labels(rows[0].task, str(ratio)).inc(len(rows))
        if len(rows) >= min(self._queue.rows_per_batch(rows[0].bucket), MEASURED_ROWS):
            with self._changed:
                self.controller.ran(ratio, sum(row.bucket for row in rows), end - begin)
        for request in _requests_of(rows):
            request.compute_s += end - begin
        for (request, index), prediction in zip(pairs, predictions, strict=True):
            if prediction is None:
                logger.error("the model gave row %d of request %s no finite scores", index, request.name)
                _fail(request, Failed(f"the model gave no finite scores for row {index}"))
                continue
            request.answers[index] = RowAnswer(prediction, ratio, request.encoded[index].truncated)
            if len(request.answers) == len(request.encoded):
                self._finish(request, end)

    def _finish(self, request: _Request, end: float) -> None:
        answers = [request.answers[i] for i in range(len(request.encoded))]
        whole_ms, compute_ms = (end - request.arrived) * 1e3, request.compute_s * 1e3
        with self._changed:
            self.controller.answered(end, whole_ms)
        answer = Answer(answers, max(whole_ms - compute_ms, 0.0), compute_ms)
        _settle(request, lambda: request.future.set_result(answer))


def _requests_of(rows: Sequence[Waiting]) -> list[Any]:
    return list(dict.fromkeys(row.request for row in rows))


def _fail(request: _Request, error: Exception) -> None:
    _settle(request, lambda: request.future.set_exception(error))


def _settle(request: _Request, settle: Callable[[], None]) -> None:
    """End a request; one that is over already, as somebody else was faster, stays as it is."""
    with suppress(InvalidStateError):
        settle()
