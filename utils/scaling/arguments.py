"""The flags of `python -m utils.scaling`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.arguments import PLACE, ToolParser
from utils.errors import UserError

#: Keys of `utils.scaling.setups.SETUPS`.
NAMES = ("t5-large", "t5-3b", "bert-large")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = ToolParser(
        prog="python -m utils.scaling",
        description="Memory per GPU and step time of large trainings, worked out from shapes (docs/scaling.md).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--setup", nargs="+", choices=NAMES, default=list(NAMES), help="which trainings")
    made.add_argument("--gpus", nargs="+", type=int, default=[8, 64, 512], help="numbers of GPUs")
    made.add_argument("--rows", type=int, help="rows of a GPU's micro-batch (default: the training's)")
    made.add_argument("--length", type=int, help="input tokens of a row (default: the training's)")
    made.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of the layers' products; auto: bf16, which the GPUs that this is about have",
    )
    made.add_argument(
        "--tokens_per_second", type=float, help="measured on one GPU for the one --setup: tokens_per_second in its log"
    )
    made.add_argument("--gmacs_per_second", type=float, help="10^9 multiply-accumulates per second of a training step")
    made.add_argument(
        "--recorded", type=Path, reads=PLACE, help="take the rate of the training step on this page of results"
    )
    made.add_argument("--measure", action="store_true", help="take the rate of a small step on this machine's CPU")
    made.add_argument("--link_inside", type=float, default=300.0, help="assumed GB/s and GPU inside a machine")
    made.add_argument("--link_between", type=float, default=25.0, help="assumed GB/s and GPU between machines")
    made.add_argument("--gpus_per_machine", type=int, default=8, help="from one more on, the links between them count")
    made.add_argument("--page", type=Path, help="put the tables into this Markdown page, between its markers")
    given = made.parse_args(arguments)
    given.precision = given.precision.replace("auto", "bf16")
    _check(given)
    return given


def _check(given: argparse.Namespace) -> None:
    counted = [("gpus", n) for n in given.gpus] + [("gpus_per_machine", given.gpus_per_machine)]
    counted += [(name, getattr(given, name)) for name in ("rows", "length") if getattr(given, name) is not None]
    for name, value in counted:
        if value < 1:
            raise UserError(f"--{name} must be at least 1, found {value}.")
    if given.tokens_per_second is not None and len(given.setup) != 1:
        raise UserError("--tokens_per_second is the rate of one training: name it with --setup.")
    devices = {"tokens_per_second": given.tokens_per_second, "gmacs_per_second": given.gmacs_per_second}
    if sum(rate is not None for rate in (*devices.values(), given.recorded)) + given.measure > 1:
        names = "--tokens_per_second, --gmacs_per_second, --recorded and --measure"
        raise UserError(f"{names} all say how fast a device is: give one of them.")
    for name, rate in {"link_inside": given.link_inside, "link_between": given.link_between, **devices}.items():
        if rate is not None and not rate > 0:
            raise UserError(f"--{name} must be above 0, found {rate:g}.")
