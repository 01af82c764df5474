"""The flags of `python -m utils.quickstart_report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.arguments import ToolParser


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ToolParser(prog="python3 -m utils.quickstart_report", description="Writes the quickstart's report.")
    parser.add_argument("--task_name", dest="dataset", required=True, help="name of the task")
    parser.add_argument(
        "--group",
        required=True,
        nargs="+",
        action="append",
        metavar=("METHOD", "NAME=DIR"),
        help="a method's name, then its evaluations: the folder of each with its result.json or evaluation.json",
    )
    parser.add_argument(
        "--output_dir", dest="output", type=Path, default=Path("outputs/quickstart"), help="folder of the report"
    )
    parser.add_argument("--times", type=Path, metavar="FILE", help="what each stage of the quickstart took")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)
