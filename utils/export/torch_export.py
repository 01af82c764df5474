"""`.pt2` files of torch.export: the graph with its weights, read by torch alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from utils.export.checks import Runner, running_errors, telling
from utils.export.source import Source
from utils.export.trace import quiet, runner_of, trace
from utils.writing import patient_stream


def write(source: Source, path: Path) -> dict[str, Any]:
    """Write the file; gives what its record says of it.

    Raises:
        OSError: the disk refuses.
    """
    traced = trace(source)
    with patient_stream(path) as stream, quiet():
        torch.export.save(traced.program, stream)
    return {"inputs": traced.inputs, "outputs": traced.outputs, "plans": traced.plans}


def read(path: Path, inputs: tuple[str, ...], named: Path | None = None) -> Runner:
    """The file that `write` has just made, read back; `named` is what messages call it.

    Torch unpickles what is in it, so never a stranger's.

    Raises:
        UserError: it cannot be read, or (from the runner) does not run.
    """
    with quiet(), running_errors(f"{named or path} was written, but cannot be read back"):
        return telling(runner_of(torch.export.load(path).module(), inputs), named or path)
