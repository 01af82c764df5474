"""Measured numbers in Markdown pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError
from utils.writing import write_text


def read_measured(page: Path, name: str = "") -> list[str]:
    """The lines between a page's markers; see `write_measured`."""
    return _parts(page, name)[1].strip("\n").splitlines()


def write_measured(page: Path, lines: Sequence[str], name: str = "") -> None:
    """Replace what stands between a page's markers, so that no measured number is typed by hand.

    Args:
        name: of the block, where a page has several: `<!-- measured NAME -->` … `<!-- /measured NAME -->`.

    Raises:
        UserError: the page has no such block.
    """
    head, _, tail = _parts(page, name)
    write_text(page, head + "\n" + "\n".join(lines) + "\n" + tail)


def _parts(page: Path, name: str) -> tuple[str, str, str]:
    """The text up to the block's first marker, what is in it, and the text from its last marker on."""
    label = f"measured {name}".strip()
    begin, end = f"<!-- {label} -->", f"<!-- /{label} -->"
    head, found, rest = page.read_text(encoding="utf-8").partition(begin)
    inside, closed, tail = rest.partition(end)
    if not found or not closed:
        raise UserError(f"{page} has no block {begin} … {end} to write into.")
    return head + begin, inside, end + tail
