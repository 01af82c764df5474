"""Table and plot of `benchmarks.serve_load`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.writing import atomic_file

_COLOURS = {"fixed": "tab:red", "dynamic": "tab:blue"}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; NaN of none."""
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1] if values else math.nan


def summary(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of some requests: their number, the share that was refused, latencies and accuracy of the others.

    `ratio` is the mean over answered requests, NaN where there is none, as are the percentiles and the accuracy.
    """
    answered = [sample for sample in samples if sample["status"] == 200]
    latencies = [sample["latency_ms"] for sample in answered]
    rows = sum(sample["rows"] for sample in answered)
    refused = sum(sample["status"] == 429 for sample in samples)
    return {
        "requests": len(samples),
        "refused": refused / len(samples) if samples else math.nan,
        "failed": len(samples) - len(answered) - refused,
        **{f"p{round(share * 100)}_ms": percentile(latencies, share) for share in (0.5, 0.95, 0.99)},
        "accuracy": sum(sample["right"] for sample in answered) / rows if rows else math.nan,
        "ratio": sum(sample["ratio"] for sample in answered) / len(answered) if answered else math.nan,
    }


def table(measured: Mapping[str, Any]) -> list[str]:
    """Markdown lines: every step with both servers, then all steps together."""
    lines = [
        "| load | server | requests | p50 ms | p95 ms | p99 ms | refused (429) | accuracy | mean ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for step, share in enumerate([*measured["steps"], None]):
        for name, samples in measured["samples"].items():
            chosen = samples if share is None else [sample for sample in samples if sample["step"] == step]
            lines.append(_row("all" if share is None else f"{share:.0%}", name, summary(chosen)))
    failed = sum(int(summary(samples)["failed"]) for samples in measured["samples"].values())
    return [
        *lines,
        "",
        f"Load in shares of the fixed server's capacity ({measured['capacity_per_s']:.1f} requests/s of "
        f"{measured['rows_per_request']} rows), {measured['step_seconds']:g} s each, in this order; latency target "
        f"{measured['target_ms']:.0f} ms; one request alone takes {measured['alone_ms']:.1f} ms. {failed} requests "
        f"failed otherwise. {measured['threads']} thread(s), torch {measured['torch']}, {os.cpu_count()} cores shared "
        "with the client. Latency counts from the moment a request was due.",
    ]


def _row(load: str, name: str, values: Mapping[str, float]) -> str:
    times = " | ".join(f"{values[key]:.0f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
    return (
        f"| {load} | {name} | {values['requests']} | {times} | {values['refused']:.1%} | {values['accuracy']:.4f} | "
        f"{values['ratio']:.2f} |"
    )


def write_plot(measured: Mapping[str, Any], path: Path) -> None:
    """Load, 95th percentile and ratio, second by second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, bottom) = pyplot.subplots(2, 1, figsize=(8, 5), sharex=True, height_ratios=(2, 1))
    seconds = range(math.ceil(len(measured["steps"]) * measured["step_seconds"]))
    for name, samples in measured["samples"].items():
        each = [summary([s for s in samples if second <= s["due_s"] < second + 1]) for second in seconds]
        top.plot(seconds, [one["p95_ms"] for one in each], color=_COLOURS[name], label=f"{name} ratio")
        bottom.step(seconds, [one["ratio"] for one in each], where="post", color=_COLOURS[name])
    top.axhline(measured["target_ms"], color="black", linestyle="--", linewidth=1, label="target")
    top.set(yscale="log", ylabel="p95 latency (ms)")
    top.legend(loc="upper right", fontsize=8)
    for step, share in enumerate(measured["steps"]):
        begin = step * measured["step_seconds"]
        for axes in (top, bottom):
            axes.axvline(begin, color="lightgrey", linewidth=1, zorder=0)
        bottom.text(begin, 1.02, f" {share:.0%} load", transform=bottom.get_xaxis_transform(), fontsize=8)
    bottom.set(xlabel="seconds", ylabel="mean ratio")
    figure.tight_layout()
    with atomic_file(path) as file:
        figure.savefig(file, dpi=90)
    pyplot.close(figure)
