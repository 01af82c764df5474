"""ONNX files, written by torch's exporter and read back by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from utils.errors import UserError
from utils.export.checks import Runner, running_errors, telling
from utils.export.source import Source
from utils.export.trace import quiet, trace, tracing_errors

#: The oldest that torch's exporter has all operators for; it converts to older ones, which fails for some.
OLDEST_OPSET = 18
#: Of onnxruntime's own log: what it raises, it need not print as well.
_FATAL = 4


def write(source: Source, path: Path, opset: int | None) -> dict[str, Any]:
    """Write the file; gives what its record says of it.

    Raises:
        UserError: the opset is none that torch can write.
        OSError: the disk refuses.
    """
    if opset is not None and opset < OLDEST_OPSET:
        raise UserError(f"--opset {opset}: torch's exporter writes opset {OLDEST_OPSET} or newer.")
    traced = trace(source)
    with quiet(), tracing_errors(source):
        program = torch.onnx.export(
            traced.program,
            (),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=list(traced.inputs),
            output_names=list(traced.outputs),
            dynamic_shapes=(traced.axes,),
        )
    assert program is not None
    program.save(path)
    used = program.model.opset_imports[""]
    return {"inputs": traced.inputs, "outputs": traced.outputs, "opset": used, "plans": traced.plans}


def read(path: Path, inputs: tuple[str, ...], named: Path | None = None) -> Runner:
    """The file in onnxruntime on the CPU, with as many threads as torch has; `named` is what messages call it.

    Raises:
        UserError: it cannot be read, or (from the runner) does not run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _FATAL
    with running_errors(f"{named or path} was written, but cannot be read back"):
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    known = {one.name for one in session.get_inputs()}  # a graph has no input that it does not use

    def run(given: dict[str, Tensor]) -> Sequence[Tensor]:
        fed = {name: given[name].numpy() for name in inputs if name in known}
        return [torch.from_numpy(one) for one in session.run(None, fed)]

    return telling(run, named or path)
