"""Addresses as they may be shown and recorded: without names, passwords and tokens."""

from __future__ import annotations

import re
from typing import Any

#: An address in a text; of a path that was made from one, a single slash is left. What ends a sentence ends it.
_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]+:/+[^\s'\"<>`]*[^\s'\"<>`.,:;)\]…]")
_PARTS = re.compile(r"(?P<scheme>[^:]+:/+)(?P<host>[^/?#]*)(?P<path>[^?#]*)(?P<query>[?#].*)?", re.DOTALL)
_HOST = re.compile(r"\[[0-9A-Fa-f:.%]+\](:\d+)?|[^:@]*(:\d+)?")


def shown(url: str) -> str:
    """An address without what may be secret: the user and password before the host, and all behind `?` or `#`."""
    if (parts := _PARTS.fullmatch(url)) is None:
        return url
    host, path = parts["host"].rpartition("@")[2], parts["path"]
    if not _HOST.fullmatch(host):  # a password with a slash, which was to be written %2F
        host, path = "…", path.rpartition("@")[2] if "@" in path else ""
    query = parts["query"] or ""
    return f"{parts['scheme']}{host}{path}{'?…' if len(query) > 1 else query}"


def without_secrets(text: str) -> str:
    """A text with all addresses in it as they may be shown."""
    return _ADDRESS.sub(lambda found: shown(found.group()), text)


def as_recorded(value: Any) -> Any:
    """JSON values with all texts in them as they may be recorded."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {key: as_recorded(inner) for key, inner in value.items()}
    return [as_recorded(inner) for inner in value] if isinstance(value, list | tuple) else value
