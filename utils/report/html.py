"""The report as one HTML page that needs nothing else: style, script and data are in it, and nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from utils.report.arguments import AXES
from utils.report.columns import COLUMNS, MISSING, Column, cells, remarks, spread_text
from utils.report.rows import Row

_HERE = Path(__file__).parent
_BY_KEY = {column.key: column for column in COLUMNS}
#: What a point tells.
_TIP = ("name", "task", "edits", "metric", "retention", "num_params", "macs", "latency_ms")


def page(title: str, rows: Sequence[Row], x: str = "macs") -> str:
    """The whole page.

    Args:
        x: what the chart shows first, a key of `AXES`.
    """
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    runs = sum(len(row.commands) for row in rows)
    notes = [f"{escape(column.title)}: {escape(column.note)}." for column in COLUMNS if column.note]
    notes += [f"{escape(remark)}." for remark in remarks(rows)]
    return Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        about=f"{len(rows)} rows of {runs} measurements; runs that differ only in their seed are one row.",
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        head="".join(_header(column) for column in COLUMNS),
        rows="\n".join(_line(index, row, cells(row, rows)) for index, row in enumerate(rows)),
        notes=" ".join(notes),
        data=_embedded(_data(rows, x)),
    )


def _hash(text: str) -> str:
    """By which the page's policy knows its own style and script, and runs no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(values: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(values, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(rows: Sequence[Row], x: str) -> dict[str, Any]:
    axes = [{"key": key, "title": title, "unit": unit, "percent": False} for key, (title, unit) in AXES.items()]
    tasks = {row.task for row in rows if getattr(row, x) is not None}
    y = "retention" if len(tasks) > 1 else "metric"  # what can be compared between tasks
    return {"axes": axes, "x": x, "y": y, "rows": [_values(index, row) for index, row in enumerate(rows)]}


def _values(index: int, row: Row) -> dict[str, Any]:
    """What the chart knows of a row."""
    return {
        "id": index,
        "name": row.name,
        "task": row.task,
        "method": row.method,
        "metric_name": row.metric,
        "metric": row.mean,
        "deviation": row.deviation,
        "retention": row.retention,
        **{key: getattr(row, key) for key in AXES},
        "tip": [[_tip_title(row, key), _BY_KEY[key].text(row)] for key in _TIP],
    }


def _tip_title(row: Row, key: str) -> str:
    return (row.metric or "metric") if key == "metric" else _BY_KEY[key].title


def _header(column: Column) -> str:
    kind = "text" if column.number is None else "number"
    note = f' title="{escape(column.note)}"' if column.note else ""
    return f'<th scope="col" class="{kind}"{note}><button type="button">{escape(column.title)}</button></th>'


def _line(index: int, row: Row, texts: Sequence[str]) -> str:
    found = (_cell(row, column, text) for column, text in zip(COLUMNS, texts, strict=True))
    return f'<tr data-row="{index}">' + "".join(found) + "</tr>"


def _cell(row: Row, column: Column, text: str) -> str:
    number = column.number(row) if column.number is not None else None
    key = text if column.number is None else "" if number is None else repr(float(number))
    kinds = ["text" if column.number is None else "number"]
    kinds += ["name"] if column.key == "name" else []
    kinds += ["missing"] if text.startswith(MISSING) else []
    inner = _details(row, text) if column.key == "name" else escape(text)
    return f'<td class="{" ".join(kinds)}" data-sort="{escape(key)}">{inner}</td>'


def _details(row: Row, name: str) -> str:
    """The row's name, behind which its commands and versions unfold."""
    commands = "".join(
        f"<pre>{escape(command or f'# {folder}: no arguments recorded')}</pre>" for folder, command in row.commands
    )
    versions = ", ".join(f"{name} {version}" for name, version in row.versions.items()) or "versions not recorded"
    values = ", ".join(f"{value:.4f}" for value in row.values)
    seeds = f" (seeds {', '.join(map(str, row.seeds))})" if row.seeds else ""
    told = f"{spread_text(row)}: {values}{seeds}" if values else spread_text(row)
    about = f"<dl><dt>{escape(row.metric or 'metric')}</dt><dd>{escape(told)}</dd>"
    if row.circumstances is not None and row.latency_ms is not None:
        about += f"<dt>latency</dt><dd>{escape(row.circumstances.setting)}; {escape(row.circumstances.at)}</dd>"
    about += f"<dt>versions</dt><dd>{escape(versions)}</dd></dl>"
    return f"<details><summary>{escape(name)}</summary>{about}{commands}</details>"
