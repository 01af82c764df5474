"""Faults, tried on a tiny T5 on this machine's CPUs: what came of each, written into docs/faults.md.

    python -m utils.studies.faults --output /tmp/faults

Every process forks from one that has loaded the libraries. The page is written only if every try has held.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from utils.arguments import ToolParser
from utils.errors import UserError, run_as_script
from utils.pages import write_measured


def main() -> None:
    """Try every fault, say what did not hold, write the table."""
    parser = ToolParser(prog="python -m utils.studies.faults", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="a new folder, removed at the end")
    parser.add_argument("--page", type=Path, default=Path("docs/faults.md"), help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="faults tried at once (%(default)s)")
    given = parser.parse_args()
    if given.output.exists():
        raise UserError(f"--output {given.output} is there already: name a new folder.")

    from utils.measured import machine
    from utils.studies.faults.bench import Bench
    from utils.studies.faults.rows import ROWS

    bench, lines, wrong = Bench(given.output / "bench"), [], []
    for text in (False, True):
        bench.expected(text)

    def tried(number: int) -> list[str | None]:
        begun = time.monotonic()
        found = list(ROWS[number].tries(bench, given.output / str(number)))
        failed = "".join(f"\n  {one}" for one in found if one is not None)
        print(f"{ROWS[number].fault}: {len(found)} tries, {time.monotonic() - begun:.0f} s{failed}", flush=True)
        return found

    with ThreadPoolExecutor(max(1, given.jobs)) as pool:
        for row, found in zip(ROWS, pool.map(tried, range(len(ROWS))), strict=True):
            failed = [one for one in found if one is not None]
            lines.append(f"| {row.fault} | {len(found)} | {row.outcome} | {len(found) - len(failed)} |")
            wrong += failed
    shutil.rmtree(given.output)
    if wrong:
        raise UserError(f"{len(wrong)} tries did not hold: {given.page} is not written.")
    head = ["| fault | tried | what has to come of it | came |", "|---|---|---|---|"]
    write_measured(given.page, [*head, *lines, "", f"On {machine()}."])
    print(f"made: {given.page}")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
