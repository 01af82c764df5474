"""The report as Markdown: the table, what its columns mean, and every row's commands."""

from __future__ import annotations

import re
from collections.abc import Sequence

from utils.outputs import REPORT_MARK
from utils.report.columns import COLUMNS, cells, remarks
from utils.report.rows import Row

#: What Markdown or HTML would read as something else than text.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&])")


def markdown(title: str, rows: Sequence[Row]) -> str:
    """The whole page."""
    notes = [f"- {column.title}: {column.note}" for column in COLUMNS if column.note]
    notes += [f"- {_text(remark)}" for remark in remarks(rows)]
    head = [f"<!-- {REPORT_MARK} -->", f"# {_text(title)}", ""]
    lines = [*head, *table(rows), "", *notes, "", "## Commands and versions", ""]
    for row in rows:
        lines += [f"### {_text(row.name)} ({_text(row.task)})", "", *_details(row), ""]
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> list[str]:
    """One line per row."""
    head = "| " + " | ".join(column.title for column in COLUMNS) + " |"
    marks = "|" + "".join("---|" if column.number is None else "---:|" for column in COLUMNS)
    return [head, marks, *("| " + " | ".join(map(_text, cells(row, rows))) + " |" for row in rows)]


def _details(row: Row) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in row.versions.items())
    commands = [command or f"# {folder}: no arguments recorded" for folder, command in row.commands]
    body = "\n".join(commands).splitlines()
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", "\n".join(body))), default=0))
    return [_text(versions or "versions not recorded"), "", fence, *body, fence]


def _text(value: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(value.split()))
