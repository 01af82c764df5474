"""A growing file that appears under its name when it is complete, and goes on where an earlier run stopped."""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from utils.errors import writing
from utils.writing import publish, write_json


class GrowingFile:
    """Text that is appended in steps, each of which survives a kill.

    What is written lies in `.NAME.partial`; `.NAME.state.json` beside it says how far that is good, and what it was
    made with. A run with the same settings goes on there, one with others starts anew. The names are fixed, so that
    whoever makes one holds the target's lock (`utils.lock.locked`).

    Args:
        target: the name to appear under.
        settings: JSON values that decide what the file holds.

    Attributes:
        num_bytes: what the file holds already.
        counts: the sums of what `append` was told.
    """

    def __init__(self, target: Path, settings: dict[str, Any]) -> None:
        self.target = target
        self._partial = target.with_name(f".{target.name}.partial")
        self._state = target.with_name(f".{target.name}.state.json")
        self._settings = settings
        self.counts: Counter[str] = Counter()
        self.num_bytes = 0
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._open()

    def _open(self) -> IO[bytes]:
        before = self._read_state()
        if before is None:
            return self._partial.open("wb")
        self.counts, self.num_bytes = Counter(before["counts"]), before["num_bytes"]
        stream = self._partial.open("r+b")
        stream.truncate(self.num_bytes)
        stream.seek(0, os.SEEK_END)
        return stream

    def _read_state(self) -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = json.loads(self._state.read_text(encoding="utf-8"))
            whole = self._partial.stat().st_size >= state["num_bytes"]
            return state if whole and state["settings"] == self._settings else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # nothing to go on with

    def append(self, text: str, **counts: int) -> None:
        """Add text and make it last, together with how much of whatever is counted it holds."""
        data = text.encode("utf-8")
        with writing(self.target):
            self._stream.write(data)
            self._stream.flush()
            os.fsync(self._stream.fileno())
        self.num_bytes += len(data)
        self.counts.update(counts)
        state = {"settings": self._settings, "counts": dict(self.counts), "num_bytes": self.num_bytes}
        write_json(self._state, state)

    def finish(self) -> None:
        """Give the file its name."""
        self._stream.close()
        with writing(self.target):
            publish(self._partial, self.target)
        self._state.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop; what was appended to an unfinished file stays for the next run."""
        with suppress(OSError):  # of a full disk it is told already, and what is not whole is made anew
            self._stream.close()
