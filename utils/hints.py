"""Commands that a message proposes, so that they work when they are copied."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def python() -> str:
    """How to start the interpreter that runs this: `python` where PATH leads to it, otherwise its path."""
    here, found = Path(sys.executable), shutil.which("python")
    if found is not None and Path(found).parent == here.parent:  # not resolved: environments are links
        return "python"
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)
