"""One line for the user from a place that has no log: told once, and by the main process alone."""

from __future__ import annotations

import os
import sys

from utils.addresses import without_secrets

#: Where launchers say which process this is.
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
_told: set[str] = set()


def launched_rank() -> str:
    """Which process this is, as far as a launcher says so."""
    return next((os.environ[name] for name in _RANKS if name in os.environ), "0")


def tell(line: str) -> None:
    """Print `line` on standard output, if it was not told before."""
    _print(line, error=False)


def warn(line: str) -> None:
    """Print `line` as a warning on standard error, if it was not told before."""
    _print(f"warning: {line}", error=True)


def _print(line: str, error: bool) -> None:
    line = without_secrets(line)
    if launched_rank() != "0" or line in _told:
        return
    _told.add(line)
    print(line, file=sys.stderr if error else sys.stdout, flush=True)
