"""Memory per GPU and step time of large trainings, from shapes and one device's throughput: docs/scaling.md.

python -m utils.scaling --help
python -m utils.scaling --setup t5-3b --gpus 8 64 512 --tokens-per-second 9000
python -m utils.scaling --recorded docs/results/pruned_speed.md --page docs/scaling.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from utils.errors import UserError, run_as_script
from utils.pages import write_measured
from utils.scaling.measure import macs_per_second
from utils.scaling.memory import Links
from utils.scaling.recorded import recorded_step
from utils.scaling.setups import SETUPS, Setup
from utils.scaling.table import Rate, Worked, table, work_out


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m utils.scaling",
        description="Memory per GPU and step time of large trainings, worked out from shapes (docs/scaling.md).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--setup", nargs="+", choices=tuple(SETUPS), default=list(SETUPS), help="which trainings")
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
        "--tokens-per-second", type=float, help="measured on one GPU for the one --setup: tokens_per_second in its log"
    )
    made.add_argument("--gmacs-per-second", type=float, help="10^9 multiply-accumulates per second of a training step")
    made.add_argument("--recorded", type=Path, help="take the rate of the training step on this page of results")
    made.add_argument("--measure", action="store_true", help="take the rate of a small step on this machine's CPU")
    made.add_argument("--link-inside", type=float, default=300.0, help="assumed GB/s and GPU inside a machine")
    made.add_argument("--link-between", type=float, default=25.0, help="assumed GB/s and GPU between machines")
    made.add_argument("--gpus-per-machine", type=int, default=8, help="from one more on, the links between them count")
    made.add_argument("--page", type=Path, help="put the tables into this Markdown page, between its markers")
    given = made.parse_args(arguments)
    given.precision = given.precision.replace("auto", "bf16")
    _check(given)
    return given


def _check(given: argparse.Namespace) -> None:
    counted = [("gpus", n) for n in given.gpus] + [("gpus-per-machine", given.gpus_per_machine)]
    counted += [(name, getattr(given, name)) for name in ("rows", "length") if getattr(given, name) is not None]
    for name, value in counted:
        if value < 1:
            raise UserError(f"--{name} must be at least 1, found {value}.")
    if given.tokens_per_second is not None and len(given.setup) != 1:
        raise UserError("--tokens-per-second is the rate of one training: name it with --setup.")
    devices = {"tokens-per-second": given.tokens_per_second, "gmacs-per-second": given.gmacs_per_second}
    if sum(rate is not None for rate in (*devices.values(), given.recorded)) + given.measure > 1:
        names = "--tokens-per-second, --gmacs-per-second, --recorded and --measure"
        raise UserError(f"{names} all say how fast a device is: give one of them.")
    for name, rate in {"link-inside": given.link_inside, "link-between": given.link_between, **devices}.items():
        if rate is not None and not rate > 0:
            raise UserError(f"--{name} must be above 0, found {rate:g}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Work out, print, and write where asked."""
    given = parse(arguments)
    links = Links(given.link_inside * 1e9, given.link_between * 1e9, given.gpus_per_machine)
    rate = _rate(given)
    for name in given.setup:
        worked = work_out(_changed(SETUPS[name], given), given.precision == "bf16")
        lines = _lines(worked, given, rate, links)
        print("\n".join(["", f"## {name}", *lines]), flush=True)
        if given.page is not None:
            write_measured(given.page, lines, name)
            print(f"made: {given.page}")


def _rate(given: argparse.Namespace) -> Rate:
    """That of the flag, and in words where it is from."""
    if given.tokens_per_second is not None:
        return Rate(given.tokens_per_second, told=f"{given.tokens_per_second:,g} tokens per second")
    if given.recorded is not None:
        step = recorded_step(given.recorded)
        source = f"{step.gmacs} G MACs in {step.ms} ms, {given.recorded.name}"
        return _in_macs(step.macs_per_second, f" ({source})")
    if given.measure:
        return _in_macs(macs_per_second(), " (a small step on this CPU)")
    return Rate() if given.gmacs_per_second is None else _in_macs(given.gmacs_per_second * 1e9)


def _in_macs(macs: float, source: str = "") -> Rate:
    return Rate(macs=macs, told=f"{macs / 1e9:.1f} G MACs per second{source}")


def _changed(setup: Setup, given: argparse.Namespace) -> Setup:
    return replace(setup, shape=(given.rows or setup.shape[0], given.length or setup.shape[1]))


def _lines(worked: Worked, given: argparse.Namespace, rate: Rate, links: Links) -> list[str]:
    setup = worked.setup
    rows, length = setup.shape
    targets = f", {setup.targets} targets" if setup.targets else ""
    about = (
        f"{setup.what}: {rows} rows x {length} tokens{targets} per GPU, {given.precision}; "
        f"{worked.sizes.trained / 4e6:,.1f} M of {(worked.sizes.trained + worked.sizes.frozen) / 4e6:,.1f} M numbers "
        f"trained; {worked.plain.macs / 1e12:.2f} T MACs per GPU and step, "
        f"{worked.checkpointing.macs / 1e12:.2f} T with gradient checkpointing"
        f"{f'; steps at {rate.told}' if rate.told else ''}"
    )
    return [about, "", *table(worked, given.gpus, rate, links)]


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
