"""Measured numbers in Markdown pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError


def write_measured(page: Path, lines: Sequence[str], name: str = "") -> None:
    """Replace what stands between a page's markers, so that no measured number is typed by hand.

    Args:
        name: of the block, where a page has several: `<!-- measured NAME -->` … `<!-- /measured NAME -->`.

    Raises:
        UserError: the page has no such block.
    """
    label = f"measured {name}".strip()
    begin, end = f"<!-- {label} -->", f"<!-- /{label} -->"
    text = page.read_text(encoding="utf-8")
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise UserError(f"{page} has no block {begin} … {end} to write into.")
    page.write_text(f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{tail}", encoding="utf-8")
