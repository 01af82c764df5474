"""The flags of `python -m utils.quantize`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.arguments import MODEL, Parser

#: As `model.quantization.layers.Activations`.
ACTIVATIONS = ("float", "int8")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m utils.quantize",
        description="Round the weights of a saved model to int8, after all other edits.",
    )
    parser.add_argument("--model", required=True, reads=MODEL, help="a saved model or the directory of a run")
    parser.add_argument("--output_dir", type=Path, required=True, help="a new directory for the rounded model")
    parser.add_argument(
        "--activations",
        choices=ACTIVATIONS,
        default="float",
        help="int8 rounds what the layers read too, with a scale per position (default: %(default)s)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)
