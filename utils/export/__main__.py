"""Export a model for use without this toolkit: docs/export.md.

python -m utils.export --help
python -m utils.export --model runs/mrpc/best --format onnx --output mrpc.onnx
python -m utils.export --model t5-with-plugins --format onnx --ratio 4 --output k4.onnx
python -m utils.export --model runs/mrpc/best --format standalone --output mrpc-standalone
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from utils.export.arguments import WITH_CARD, check_place, parse

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse)  # before the libraries load


from utils.errors import run_as_script
from utils.export.card import card
from utils.export.checks import (
    Difference,
    ManyRunner,
    Runner,
    Shape,
    differences,
    example_shape,
    lines_of,
    make_inputs,
    most_positions,
    one_by_one,
    timing,
)
from utils.export.source import Forward, Source, load_source, output_names
from utils.export.trace import runner_of
from utils.hints import next_lines
from utils.lock import locked
from utils.tool_steps import after_export
from utils.writing import atomic_directory, atomic_file, write_json, write_text

_PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "safetensors")
#: Written into a standalone directory.
RECORD = "export.json"
#: Exit code where the file was written, but computes something else.
TOO_FAR = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Load, write, read back, compare, time, record."""
    given = parse(arguments)
    needs_ratio = given.format not in WITH_CARD
    source = load_source(given.model, given.ratio, given.task, given.plugin_path, needs_ratio)
    print(f"model: {source.directory}, {type(source.model).__name__}{_stack(source)}", flush=True)
    if given.format == "card":
        write_text(given.output, card(source, carries_code=False, base_model=given.base_model))
        print(f"made: {given.output}")
        return
    outputs = output_names(source.model, make_inputs(source, example_shape(source.model.config), padded=True))
    expected = runner_of(Forward(source.model, source.inputs, outputs), source.inputs)
    record_of = (lambda path: path / RECORD) if given.format == "standalone" else (lambda path: Path(f"{path}.json"))
    atomic = atomic_directory if given.format == "standalone" else atomic_file
    with locked(given.output), atomic(given.output) as place:
        check_place(given)  # once more, as another call may have been faster
        written, found, timed = _WRITERS[given.format](source, given, place, outputs)
        print("written; comparing it with the model …", flush=True)
        compared = differences(source, expected, found)
        print("\n".join(lines_of(compared)))
        record = _record(source, given, written, compared)
        if timed is not None and given.repeats:
            record["timing"] = _timed(source, given, expected, timed)
        write_json(record_of(place), record)
    print(f"made: {given.output}\nmade: {record_of(given.output)}")
    _judge(record, given)


def _stack(source: Source) -> str:
    kinds = " + ".join(edit["kind"] for edit in source.edits)
    ratio = f", at ratio {source.ratio}" if source.ratio > 1 else ""
    return f", edits: {kinds or 'none'}{ratio}"


_Written = tuple[dict[str, Any], ManyRunner, Runner | None]


def _onnx(source: Source, given: argparse.Namespace, place: Path, _: Sequence[str]) -> _Written:
    from utils.export import onnx  # onnxruntime takes a second to load, and the other formats do not need it

    written = onnx.write(source, place, given.opset)
    run = onnx.read(place, source.inputs, given.output)
    return written, one_by_one(run), run


def _torch(source: Source, given: argparse.Namespace, place: Path, _: Sequence[str]) -> _Written:
    from utils.export import torch_export

    written = torch_export.write(source, place)
    run = torch_export.read(place, source.inputs, given.output)
    return written, one_by_one(run), run


def _standalone(source: Source, given: argparse.Namespace, place: Path, outputs: Sequence[str]) -> _Written:
    from utils.export import standalone

    written = standalone.write(source, place, outputs)
    write_text(place / "README.md", card(source, bool(written["code"]), given.base_model))
    return written, standalone.read(place, given.output), None


_WRITERS: dict[str, Callable[[Source, argparse.Namespace, Path, Sequence[str]], _Written]] = {
    "onnx": _onnx,
    "torch": _torch,
    "standalone": _standalone,
}


def _record(
    source: Source, given: argparse.Namespace, written: dict[str, Any], compared: Sequence[Difference]
) -> dict[str, Any]:
    largest = max(one.largest for one in compared)
    return {
        "source": str(source.directory),
        "format": given.format,
        "architecture": type(source.model).__name__,
        "edits": source.edits,
        "ratio": source.ratio,
        "task": source.task,
        **written,
        "max_difference": largest,
        "tolerance": given.tolerance,
        "within_tolerance": largest <= given.tolerance,
        "compared": [{**one.shape._asdict(), "padded": one.padded, "difference": one.largest} for one in compared],
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}},
    }


def _timed(source: Source, given: argparse.Namespace, expected: Runner, found: Runner) -> dict[str, Any]:
    """Time the two in turns, say it, and give what the record says of it."""
    shape = Shape(given.batch, min(given.length, most_positions(source.model.config) or given.length), 2)
    made = timing(source, expected, found, shape, given.repeats)
    print(
        f"{shape.batch} x {shape.length} tokens, {made.pairs} pairs in turns: model {made.first_ms:.3g} ms, "
        f"file {made.second_ms:.3g} ms, model/file {made.ratio:.2f} (quartiles {made.ratio_p25:.2f} to "
        f"{made.ratio_p75:.2f})"
    )
    sides = {"first": "model", "second": "file"}
    return {**shape._asdict(), **{_renamed(name, sides): value for name, value in asdict(made).items()}}


def _renamed(name: str, sides: dict[str, str]) -> str:
    first, _, rest = name.partition("_")
    return f"{sides[first]}_{rest}" if first in sides else name


def _judge(record: dict[str, Any], given: argparse.Namespace) -> None:
    """Say whether the file is what the model is; end with an exit code where it is not."""
    largest = record["max_difference"]
    print(f"max difference: {largest:.3g} (tolerance {given.tolerance:g})")
    if not record["within_tolerance"]:
        print(
            f"error: {given.output} computes something else than the model: the largest difference is {largest:.3g}, "
            f"--tolerance is {given.tolerance:g}.",
            file=sys.stderr,
        )
        raise SystemExit(TOO_FAR)
    print(next_lines(after_export(given.format, given.output)))


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
