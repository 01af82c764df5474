"""The classifier behind mosec: `python -m benchmarks.peers.mosec_server`, started by `benchmarks.serve_peers`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import mosec

from benchmarks.peers.classifier import Classifier, arguments

_GIVEN = "SERVE_PEERS"


class Inference(mosec.Worker):
    """The only stage; mosec forms the batches."""

    def __init__(self) -> None:
        super().__init__()
        given = json.loads(os.environ[_GIVEN])
        self.classifier = Classifier(given["model"], given["threads"], given["precision"], given["max_seq_length"])

    def forward(self, data: Sequence[Any]) -> list[dict[str, Any]]:
        """Bodies in, answers out."""
        return self.classifier.predict(data)


def main() -> None:
    """Serve until SIGTERM."""
    given = arguments()
    os.environ[_GIVEN] = json.dumps(vars(given), allow_nan=False)  # mosec makes the worker in a process of its own
    sys.argv += ["--address", "127.0.0.1", "--port", str(given.port), "--capacity", str(given.queue_rows)]
    sys.argv += ["--timeout", str(given.request_timeout_s * 1000), "--log-level", "error"]
    server = mosec.Server()
    server.append_worker(
        Inference, max_batch_size=given.max_batch, max_wait_time=given.max_wait_ms, route="/v1/predict"
    )
    server.run()


if __name__ == "__main__":
    main()
