"""A classifier of sentences as one writes it for a general server: plain Transformers, one padded batch at a time."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class Classifier:
    """Tokenizer and model of a directory; answers have the form of the toolkit's own server."""

    def __init__(self, directory: str, threads: int, precision: str, length: int) -> None:
        torch.set_num_threads(threads)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(directory, trust_remote_code=False).eval()
        self.bf16, self.length = precision == "bf16", length

    @torch.inference_mode()
    def predict(self, requests: Sequence[Any]) -> list[dict[str, Any]]:
        """Answers to bodies `{"rows": [{"sentence": text}, …]}`, computed as one batch."""
        texts = [[row["sentence"] for row in request["rows"]] for request in requests]
        flat = [text for rows in texts for text in rows]
        batch = self.tokenizer(flat, padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext():
            logits = self.model(**batch).logits
        names = self.model.config.id2label
        answers = [
            {
                "label": names[max(range(len(row)), key=row.__getitem__)],
                "scores": {names[i]: p for i, p in enumerate(row)},
            }
            for row in logits.float().softmax(-1).tolist()
        ]
        found = iter(answers)
        return [{"predictions": [next(found) for _ in rows]} for rows in texts]


def arguments() -> argparse.Namespace:
    """What `benchmarks.serve_peers` starts a peer with; taken out of `sys.argv`, which some libraries read as well."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    for name in ("threads", "max_seq_length", "max_batch", "max_wait_ms", "queue_rows", "request_timeout_s"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--precision", required=True)
    given = parser.parse_args()
    del sys.argv[1:]
    return given
