"""How the library's warnings reach a user: each as one line `warning: …` on standard error, once."""

from __future__ import annotations

import logging
import sys

#: The folders whose modules warn through `logging`.
_ROOMS = ("dataset", "metric", "model", "serving", "utils")


class _Once(logging.Filter):
    """Lets each text pass once: rows are read again by every stage of a run."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is new."""
        text = record.getMessage()
        is_new = text not in self._told
        self._told.add(text)
        return is_new


class _Lines(logging.Handler):
    """A line per warning, though a path in it may hold line ends."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it to standard error as that is now."""
        print(f"warning: {record.getMessage()}".replace("\n", "\\n"), file=sys.stderr)


def show_warnings(is_main: bool) -> None:
    """Show the warnings of this process, if it is the main one: the others read the same data."""
    handler: logging.Handler = _Lines(logging.WARNING) if is_main else logging.NullHandler()
    handler.addFilter(_Once())
    for name in _ROOMS:
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(handler)
