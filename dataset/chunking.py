"""Cuts iterables into chunks."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chunked(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` consecutive rows; the last one may be smaller."""
    remaining = iter(rows)
    while chunk := list(islice(remaining, size)):
        yield chunk
