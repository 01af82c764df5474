"""The flags of `python -m utils.report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.arguments import PLACE, ToolParser

#: What the chart can show the metric against: column -> title and unit of the axis.
AXES = {
    "macs": ("MACs per example (M)", 1e6),
    "latency_ms": ("latency (ms)", 1.0),
    "num_params": ("parameters (M)", 1e6),
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ToolParser(
        prog="python -m utils.report",
        description="Puts runs side by side, as an HTML page and as Markdown (docs/report.md).",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, reads=PLACE, metavar="RUN_DIR", help="a run's folder, or one of such folders"
    )
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="(default: %(default)s)")
    parser.add_argument("--title", default="Runs side by side", help="(default: %(default)s)")
    parser.add_argument("--metric", help="shown where it was measured (default: the one that selects)")
    parser.add_argument(
        "--x", choices=list(AXES), default="macs", help="first axis of the chart (default: %(default)s)"
    )
    parser.add_argument(
        "--dense",
        nargs="+",
        type=Path,
        default=[],
        reads=PLACE,
        metavar="RUN_DIR",
        help="runs of the dense models that retention is against (default: the model's own teacher)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)
