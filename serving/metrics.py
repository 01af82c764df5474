"""What `/metrics` tells Prometheus, in a registry of the server's own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms of one server.

    Attributes:
        content_type: of `text`.
    """

    content_type = CONTENT_TYPE_PLAIN_1_0_0

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "serving_requests", "Prediction requests by HTTP status.", ["status"], registry=self._registry
        )
        self.latency = Histogram(
            "serving_latency_seconds",
            "From the request's arrival to its answer, answered requests only.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.rows = Counter(
            "serving_rows", "Rows predicted, by task and ratio.", ["task", "ratio"], registry=self._registry
        )
        self.batch_rows = Histogram("serving_batch_rows", "Rows of a batch.", buckets=_ROWS, registry=self._registry)
        self.batch_seconds = Histogram(
            "serving_batch_seconds",
            "The model's time for a batch.",
            ["ratio"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.dropped = Counter(
            "serving_rows_dropped",
            "Rows that were not predicted, as their request was over: given up, late, failed, or at the end.",
            registry=self._registry,
        )
        self.ratio_changes = Counter("serving_ratio_changes", "Changes of the ratio.", registry=self._registry)
        self._queue = Gauge("serving_queue_rows", "Rows that wait for the model.", registry=self._registry)
        self._ratio = Gauge("serving_ratio", "The compression ratio in use.", registry=self._registry)

    def watch(self, queue_rows: Callable[[], int], ratio: Callable[[], int]) -> None:
        """Where the gauges read their values when somebody asks."""
        self._queue.set_function(queue_rows)
        self._ratio.set_function(ratio)

    def text(self) -> bytes:
        """All values in Prometheus' text format."""
        return generate_latest(self._registry)
