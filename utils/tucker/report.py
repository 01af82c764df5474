"""What a classifier costs, beside what it reaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from metric.cost import count_macs, latency_ms, macs_at_lengths, parameter_counts, peak_memory_bytes
from utils.engine import Runtime

#: Shape of the latency measurement.
LATENCY_BATCH, LATENCY_LENGTH = 8, 128
_MOST_ROWS = 2000
#: Parts of a BERT and of an EncT5 that are no layers.
_NO_LAYERS = ("embeddings.", "pooler.", "shared.", "prompt", "classifier.")


def costs(model: Any, lengths: Sequence[int], runtime: Runtime) -> dict[str, Any]:
    """Parameters, MACs per example at real lengths, and the median time and peak memory of one forward.

    `encoder_params` are those of the layers, the part that is decomposed; `latency_ms` is of `latency_batch` x
    `latency_length` tokens (or the most positions that the model has).
    """
    length = min(LATENCY_LENGTH, getattr(model.config, "max_position_embeddings", LATENCY_LENGTH))

    def forward(rows: int, tokens: int) -> Any:
        ids = torch.ones((rows, tokens), dtype=torch.int64, device=runtime.device)
        return model(input_ids=ids)

    counted = list(lengths[:_MOST_ROWS])
    model.eval()
    with torch.inference_mode(), frozen(model):
        for tokens in set(counted):  # counted once for nothing: weights that are formed once per model do not count,
            count_macs(partial(forward, 1, tokens))  # and the counter has them formed anew
        macs = macs_at_lengths(lambda tokens: forward(1, tokens), counted)
        with runtime.accelerator.autocast():
            run = partial(forward, LATENCY_BATCH, length)
            latency = latency_ms(run, device=runtime.device)
            memory = peak_memory_bytes(run, device=runtime.device)
    return {
        "num_params": parameter_counts(model).total,
        "encoder_params": encoder_params(model),
        "macs": macs,
        "latency_ms": latency.p50_ms,
        "latency_batch": LATENCY_BATCH,
        "latency_length": length,
        "peak_memory_bytes": memory,
    }


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """No parameter asks for a gradient meanwhile.

    An expanded one (EncT5's prompt) would otherwise still do so where none are computed, and the counter would stop.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def encoder_params(model: Any) -> int:
    """Parameters of the layers and of what replaces their matrices."""
    kept = {id(p): p.numel() for n, p in model.base_model.named_parameters() if not n.startswith(_NO_LAYERS)}
    return sum(kept.values())


def format_values(values: dict[str, Any]) -> str:
    """Metrics and costs on two lines for the console; of a model with plugins two for each ratio."""
    if ratios := values.get("ratios"):
        return "\n".join(f"k = {ratio}: {format_values(found)}" for ratio, found in ratios.items())
    metrics = " | ".join(f"{name}: {value:.4f}" for name, value in values["metrics"].items())
    if "macs" not in values:
        return metrics
    return (
        f"{metrics}\nparameters: {values['num_params']:,} (encoder {values['encoder_params']:,}) | "
        f"MACs/example (real length): {values['macs'] / 1e6:.2f} M | latency of {values['latency_batch']} x "
        f"{values['latency_length']}: {values['latency_ms']:.2f} ms"
    )
