"""The classifier behind LitServe: `python -m benchmarks.peers.litserve_server`, started by `benchmarks.serve_peers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import litserve

from benchmarks.peers.classifier import Classifier, arguments


class Inference(litserve.LitAPI):
    """LitServe forms the batches."""

    def __init__(self, given: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.given = given

    def setup(self, device: str) -> None:
        """Load the model, in LitServe's worker."""
        given = self.given
        self.classifier = Classifier(given["model"], given["threads"], given["precision"], given["max_seq_length"])

    def batch(self, inputs: Sequence[Any]) -> list[Any]:
        """Bodies as they came."""
        return list(inputs)

    def predict(self, x: Sequence[Any]) -> list[dict[str, Any]]:
        """Bodies in, answers out."""
        return self.classifier.predict(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """One answer for each body."""
        return output


def main() -> None:
    """Serve until SIGTERM."""
    given = arguments()
    wait_s = given.max_wait_ms / 1000
    api = Inference(vars(given), max_batch_size=given.max_batch, batch_timeout=wait_s, api_path="/v1/predict")
    server = litserve.LitServer(api, accelerator="cpu", timeout=given.request_timeout_s)
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False, log_level="error")


if __name__ == "__main__":
    main()
