"""`.pt2` files of torch.export: the graph with its weights, read by torch alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from utils.errors import writing
from utils.export.checks import Runner, running_errors, telling
from utils.export.source import Source
from utils.export.trace import quiet, runner_of, trace


def write(source: Source, path: Path) -> dict[str, Any]:
    """Write the file; gives what its record says of it."""
    traced = trace(source)
    with writing(path), quiet():
        torch.export.save(traced.program, path)
    return {"inputs": traced.inputs, "outputs": traced.outputs, "plans": traced.plans}


def read(path: Path, inputs: tuple[str, ...]) -> Runner:
    """The file that `write` has just made, read back. Torch unpickles what is in it, so never a stranger's.

    Raises:
        UserError: it cannot be read, or (from the runner) does not run.
    """
    with quiet(), running_errors(f"{path} was written, but cannot be read back"):
        return telling(runner_of(torch.export.load(path).module(), inputs), path)
