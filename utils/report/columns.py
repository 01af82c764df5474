"""The columns of the report: what each shows, and by which number it is sorted and drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from utils.report.rows import Row

MISSING = "not measured"


class Column(NamedTuple):
    """One column.

    Attributes:
        key: its name in the page.
        text: of a row.
        number: of a row, for columns of numbers; None where nothing was measured.
        note: what the number is.
    """

    key: str
    title: str
    text: Callable[[Row], str]
    number: Callable[[Row], float | None] | None = None
    note: str = ""


def spread_text(row: Row) -> str:
    """`0.815 ± 0.003 (n = 3)`."""
    if row.mean is None:
        return MISSING
    deviation = "" if row.deviation is None else f" ± {row.deviation:.3f}"
    return f"{row.mean:.3f}{deviation} (n = {len(row.values)})"


def _measured(form: str, number: Callable[[Row], float | None], scale: float = 1.0) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = number(row)
        return MISSING if value is None else form.format(value / scale)

    return text


def _latency(row: Row) -> str:
    if row.latency_ms is None:
        return MISSING
    shape = "" if row.latency_shape is None else f" ({row.latency_shape[0]} × {row.latency_shape[1]})"
    return f"{row.latency_ms:.1f}{shape}"


def _minutes(row: Row) -> float | None:
    return None if row.train_seconds is None else row.train_seconds / 60


COLUMNS = (
    Column("name", "run", lambda row: row.name + ("" if row.is_finished else " (not finished)")),
    Column("task", "task", lambda row: row.task),
    Column("edits", "edits", lambda row: row.edits),
    Column("metric_name", "metric", lambda row: row.metric or MISSING),
    Column("metric", "value", spread_text, lambda row: row.mean, "mean ± standard deviation over n seeds"),
    Column(
        "retention",
        "retention",
        _measured("{:.1%}", lambda row: row.retention),
        lambda row: row.retention,
        "share of the dense model's value",
    ),
    Column("num_params", "parameters", _measured("{:,.0f}", lambda row: row.num_params), lambda row: row.num_params),
    Column(
        "macs",
        "MACs (M)",
        _measured("{:,.1f}", lambda row: row.macs, 1e6),
        lambda row: row.macs,
        "millions of multiply-accumulates per example at its real length",
    ),
    Column("latency_ms", "latency (ms)", _latency, lambda row: row.latency_ms, "median of one forward (rows × tokens)"),
    Column(
        "memory",
        "memory (MB)",
        _measured("{:,.0f}", lambda row: row.memory_bytes, 1e6),
        lambda row: row.memory_bytes,
        "peak of that forward",
    ),
    Column(
        "tokens",
        "training (k tokens)",
        _measured("{:,.0f}", lambda row: row.tokens, 1e3),
        lambda row: row.tokens,
        "of the run that made the model with all of its stages, not of what it began with; mean over seeds",
    ),
    Column("minutes", "training (min)", _measured("{:,.1f}", _minutes), _minutes, "of the same"),
)
