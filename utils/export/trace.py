"""From a model to a graph of tensor operations, with batch and length left open."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from model.exporting import exportable
from utils.errors import UserError
from utils.export.checks import Runner, example_shape, make_inputs, most_positions
from utils.export.source import Forward, Source, output_names


class Traced(NamedTuple):
    """A graph, and what belongs to it.

    Attributes:
        program: torch's graph of `Forward`.
        inputs, outputs: names, in order.
        axes: per input, the names of its open axes.
        plans: of decomposed matrices.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: tuple[dict[int, str], ...]
    plans: dict[str, str]


def trace(source: Source) -> Traced:
    """The graph of the model at its ratio, for any batch and length.

    Raises:
        ModelError, UserError: it cannot be traced.
    """
    copy, plans = exportable(source.model, source.ratio, source.task)
    example = make_inputs(source, example_shape(source.model.config), padded=True)
    outputs = output_names(source.model, example)
    axes = tuple({0: "batch", 1: "target" if name == "decoder_input_ids" else "length"} for name in source.inputs)
    open_axes = {"batch": Dim("batch"), "target": Dim("target")}
    open_axes["length"] = Dim("length", max=most_positions(source.model.config))
    shapes = tuple({axis: open_axes[name] for axis, name in one.items()} for one in axes)
    forward = Forward(copy, source.inputs, outputs)
    with torch.no_grad(), quiet(), tracing_errors(source):
        program = torch.export.export(forward, tuple(example.values()), dynamic_shapes=(shapes,), strict=False)
    return Traced(program, source.inputs, outputs, axes, plans)


@contextmanager
def tracing_errors(source: Source) -> Iterator[None]:
    """What torch's exporters cannot do with a model, as one sentence.

    Raises:
        UserError: they cannot.
    """
    try:
        yield
    except Exception as error:  # of many types, most of them private
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{source.directory}: torch's exporter cannot write this {type(source.model).__name__}: {reason} "
            "(--debug shows all of it)."
        ) from error


def runner_of(function: Any, inputs: tuple[str, ...]) -> Runner:
    """A function of tensors in order, as one of named tensors."""

    def run(given: dict[str, Tensor]) -> Any:
        return function(*(given[name] for name in inputs))

    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' notes for their developers; what goes wrong is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
