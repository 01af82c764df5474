"""The flags of `python -m utils.convert_t5`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.arguments import MODEL, Parser


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m utils.convert_t5",
        description="Convert a T5 between ModelCenter (the original release's library) and Hugging Face.",
    )
    parser.add_argument("source", type=Path, reads=MODEL, help="directory to read")
    parser.add_argument("target", type=Path, help="directory to write; must not exist")
    parser.add_argument("--to", choices=("hf", "modelcenter"), default="hf", help="default: %(default)s")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)
