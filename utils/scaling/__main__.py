"""Memory per GPU and step time of large trainings, from shapes and one device's throughput: docs/scaling.md.

python -m utils.scaling --help
python -m utils.scaling --setup t5-3b --gpus 8 64 512 --tokens_per_second 9000
python -m utils.scaling --recorded docs/results/pruned_speed.md --page docs/scaling.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from utils.scaling.arguments import parse

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse)  # before the libraries load


from utils.errors import run_as_script
from utils.pages import write_measured
from utils.scaling.measure import macs_per_second
from utils.scaling.memory import Links
from utils.scaling.recorded import recorded_step
from utils.scaling.setups import SETUPS, Setup
from utils.scaling.table import Rate, Worked, table, work_out


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
