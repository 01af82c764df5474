"""The columns of the report: what each shows, and by which number it is sorted and drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def cells(row: Row, rows: Sequence[Row]) -> list[str]:
    """The texts of a row; a latency has the letter of its circumstances, where those of the table differ."""
    letters = _letters(rows)
    texts = [column.text(row) for column in COLUMNS]
    if len(letters) > 1 and row.latency_ms is not None:
        at = [column.key for column in COLUMNS].index("latency_ms")
        texts[at] += f" [{letters[_setting(row)]}]"
    return texts


def remarks(rows: Sequence[Row]) -> list[str]:
    """What has to be known before two latencies of the table are compared."""
    letters, timed = _letters(rows), [row for row in rows if row.latency_ms is not None]
    moments = {row.circumstances.at if row.circumstances else "" for row in timed}
    if len(letters) < 2 and len(moments) < 2 and moments != {""}:
        return []
    found = [f"latency [{letter}]: {setting}" for setting, letter in letters.items()] if len(letters) > 1 else []
    known = sorted(moment for moment in moments if moment)
    if len(timed) > 1:
        when = f" ({known[0]} to {known[-1]})" if len(known) > 1 else ""
        found.append(
            f"latencies were measured in {len(moments)} processes{when}"
            if "" not in moments
            else "when some of the latencies were measured is not recorded"
        )
        found[-1] += "; small differences may be the machine's: utils.plan measures several models in turns"
    return found


def _letters(rows: Sequence[Row]) -> dict[str, str]:
    """Circumstances of latencies -> a letter."""
    settings = dict.fromkeys(_setting(row) for row in rows if row.latency_ms is not None)
    return {setting: _letter(number) for number, setting in enumerate(settings)}


def _letter(number: int) -> str:
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def _setting(row: Row) -> str:
    return row.circumstances.setting if row.circumstances else "not recorded"


def _named(row: Row) -> str:
    if row.note:
        return f"{row.name} ({row.note})"
    return row.name + ("" if row.is_finished else " (not finished)")


def _minutes(row: Row) -> float | None:
    return None if row.train_seconds is None else row.train_seconds / 60


COLUMNS = (
    Column("name", "run", _named),
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
