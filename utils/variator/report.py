"""The cost table of `--mode valid`: metric, MACs, latency and size of the dense model and at every ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metric.cost import delta_bytes, latency_ms, macs_at_lengths, parameter_counts, peak_memory_bytes
from model import use_ratio
from model.plugin.surgery import plugin_modules
from utils.engine import Runtime
from utils.variator.data import TaskData

#: Tokens that the decoder reads in the cost figures: [start, <extra_id_0>], as classification does.
_DECODER_TOKENS = 2


@dataclass(frozen=True)
class CostSettings:
    """Shape and repetitions of the latency measurement."""

    batch: int = 8
    length: int = 128
    repeats: int = 20
    warmup: int = 3


def lengths_of(data: TaskData, limit: int = 2000) -> list[int]:
    """Real lengths of the validation rows (the first `limit` lines of a corpus)."""
    if data.features:
        return [len(feature.input_ids) for feature in data.features]
    lengths: list[int] = []
    for batch in data.valid.batches(0):
        lengths += batch["attention_mask"].sum(1).tolist()
        if len(lengths) >= limit:
            break
    return lengths


def cost_row(
    model: Any,
    ratio: int,
    lengths: Sequence[int],
    runtime: Runtime,
    settings: CostSettings,
    plugin_file: Path | None,
) -> dict[str, Any]:
    """Costs at one ratio.

    `macs` are multiply-accumulates per example at real, unpadded lengths with a decoder of two tokens,
    `encoder_macs` those of the encoder alone; `latency_ms` is one forward of `latency_batch` x `latency_length`.
    """
    device = runtime.device
    model.eval()

    def forward(batch: int, length: int, whole: bool = True) -> Any:
        ids = torch.full((batch, length), 5, device=device)
        if not whole:
            return model.get_encoder()(input_ids=ids)
        return model(input_ids=ids, decoder_input_ids=ids.new_zeros((batch, _DECODER_TOKENS)), use_cache=False)

    with torch.inference_mode(), use_ratio(model, ratio):
        macs = macs_at_lengths(lambda length: forward(1, length), lengths)
        encoder_macs = macs_at_lengths(lambda length: forward(1, length, whole=False), lengths)
        with runtime.accelerator.autocast():
            run = lambda: forward(settings.batch, settings.length)  # noqa: E731 - a named thunk
            latency = latency_ms(run, warmup=settings.warmup, repeats=settings.repeats, device=device)
            memory = peak_memory_bytes(run, device=device)
    plugin_params = sum(p.numel() for m in plugin_modules(model, ratio) for p in m.parameters()) if ratio > 1 else 0
    all_plugins = sum(p.numel() for n, p in model.named_parameters() if ".bank." in n)
    dense_params = parameter_counts(model).total - all_plugins
    return {
        "ratio": ratio,
        "macs": macs,
        "encoder_macs": encoder_macs,
        "latency_ms": latency.p50_ms,
        "latency_p95_ms": latency.p95_ms,
        "latency_batch": settings.batch,
        "latency_length": settings.length,
        "peak_memory_bytes": memory,
        "num_params": dense_params + plugin_params,
        "plugin_params": plugin_params,
        "plugin_share": plugin_params / dense_params,
        "delta_bytes": delta_bytes(plugin_file) if plugin_file is not None and ratio > 1 else 0,
    }


def format_table(rows: Sequence[dict[str, Any]], metric: str) -> str:
    """The rows as a plain table for the console, and what MACs count; costs where they were measured."""
    costs = "macs" in rows[0]
    head = f"{'model':<22} {metric:>12}"
    if costs:
        head += f" {'MACs/example':>13} {'dense/this':>10} {'latency p50':>12} {'p95':>10} {'params':>12} {'delta':>10}"
    lines = [head, "-" * len(head)]
    for row in rows:
        line = f"{row['name']:<22} {row[metric]:>12.4f}"
        if costs:
            line += (
                f" {row['macs'] / 1e6:>11.2f} M {rows[0]['macs'] / row['macs']:>10.2f} {row['latency_ms']:>9.2f} ms"
                f" {row['latency_p95_ms']:>7.2f} ms {row['num_params']:>12,} {row['delta_bytes'] / 1e6:>7.2f} MB"
            )
        lines.append(line)
    return "\n".join([*lines, "MACs/example: at its real length, mean over the rows"] if costs else lines)
