"""The flags of `python -m utils.cost`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from utils.arguments import MODEL, Parser
from utils.engine.names import AskedForward


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = Parser(
        prog="python -m utils.cost",
        description="What a saved model costs as it stands: measured, never worked out from its parts.",
    )
    made.add_argument(
        "--model", required=True, reads=MODEL, help="directory of a saved model, or of a run that made one"
    )
    made.add_argument("--batch", type=int, least=1, default=8, help="rows of a forward (default: %(default)s)")
    made.add_argument("--length", type=int, least=1, default=128, help="tokens of a row (default: %(default)s)")
    made.add_argument("--ratios", type=int, nargs="+", help="plugin ratios to measure (default: all that there are)")
    made.add_argument("--repeats", type=int, least=1, default=20, help="timed forwards (default: %(default)s)")
    made.add_argument("--threads", type=int, least=1, help="CPU threads (default: torch's)")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    made.add_argument(
        "--precision",
        choices=get_args(AskedForward),
        default="auto",
        help="of the products; auto: bf16 where this machine is fast at it, fp32 elsewhere (default: %(default)s)",
    )
    made.add_argument("--json", type=Path, help="write the costs to this file, a list with one entry per ratio")
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = made.parse_args(arguments)
    return given
