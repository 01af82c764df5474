"""The flags of `python -m utils.export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.arguments import MODEL, PLACE, Parser
from utils.errors import UserError
from utils.outputs import guard

FORMATS = ("onnx", "torch", "standalone", "card")
WITH_CARD = ("standalone", "card")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = Parser(
        prog="python -m utils.export",
        description="Write a model in a form that runs without this toolkit, and check it (docs/export.md).",
    )
    made.add_argument(
        "--model", required=True, reads=MODEL, help="directory of a saved model, or of a run with its best one"
    )
    made.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    made.add_argument("--output", required=True, type=Path, help="the file; with --format standalone the directory")
    made.add_argument(
        "--plugin_path", type=Path, reads=PLACE, help="directory of plugins that were saved without the backbone"
    )
    made.add_argument(
        "--ratio", type=int, help="of the plugins, fixed in the file (1: without); standalone begins with it"
    )
    made.add_argument(
        "--task_name", dest="task", default="", help="whose plugins, where the model has those of several tasks"
    )
    made.add_argument("--opset", type=int, help="ONNX opset (default: torch's)")
    made.add_argument(
        "--tolerance", type=float, least=0, default=1e-3, help="largest allowed difference (default: 1e-3)"
    )
    made.add_argument("--batch", type=int, least=1, default=8, help="rows of the timed forward (default: 8)")
    made.add_argument("--length", type=int, least=1, default=128, help="tokens of the timed forward (default: 128)")
    made.add_argument("--repeats", type=int, least=0, default=20, help="timed pairs; 0: no timing (default: 20)")
    made.add_argument("--base_model", help="hub id that the model card names as the origin (default: the run's)")
    made.add_argument("--overwrite", action="store_true", help="replace an existing file")
    made.add_argument("--debug", action="store_true", help="show tracebacks")
    given = made.parse_args(arguments)
    _check(given)
    return given


def _check(given: argparse.Namespace) -> None:
    guard("utils.export" if given.format != "standalone" else "utils.export, standalone", given)
    if given.opset is not None and given.format != "onnx":
        raise UserError("--opset is for --format onnx.")
    if given.base_model is not None and given.format not in WITH_CARD:
        raise UserError(f"--base_model is for the model card: --format {' or '.join(WITH_CARD)}.")
    if given.format == "torch" and given.output.suffix != ".pt2":
        raise UserError(f"--output {given.output}: the name of what --format torch writes ends in .pt2.")
    check_place(given)


def check_place(given: argparse.Namespace) -> None:
    """Refuse an --output that is there, where --overwrite does not say that it may be replaced.

    Raises:
        UserError: it is.
    """
    is_there = given.output.exists()
    if given.format == "standalone":
        if is_there and (not given.output.is_dir() or any(given.output.iterdir())):
            raise UserError(f"--output {given.output} is there already: name a new or an empty directory.")
    elif given.output.is_dir():
        raise UserError(f"--output {given.output} is a directory, expected the file to write.")
    elif is_there and not given.overwrite:
        raise UserError(f"--output {given.output} is there already: --overwrite replaces it.")
