"""Puts runs side by side: one HTML page that needs no network, and the same as Markdown.

    python -m utils.report RUN_DIR… [--output report.html]

A RUN_DIR is what `train_t5.py`, `general_distill.py` or `task_distill.py` was given as --output_dir, or a folder with
such folders in it. docs/report.md says what is read and how rows are made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.report.arguments import parse

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse)  # before the libraries load


from utils.errors import UserError, run_as_script
from utils.outputs import guard, is_report
from utils.report.html import page
from utils.report.markdown import markdown
from utils.report.reading import find_runs
from utils.report.rows import build_rows
from utils.writing import write_text


def write_report(given: argparse.Namespace) -> list[Path]:
    """Reads the runs and writes both files; gives their paths.

    Raises:
        UserError: a folder is no run, or --output is no name of an HTML file.
    """
    if given.output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {given.output}: expected a name that ends in .html; Markdown is written beside it.")
    # Pages of an earlier call lie beside the runs, and `runs/*` names them too.
    given.runs = [place for place in given.runs if not is_report(place)] or given.runs
    guard("utils.report", given)
    folders = find_runs(given.runs)
    print(f"reading {len(folders)} run(s)", flush=True)
    rows = build_rows(folders, given.metric, given.dense)
    made = [given.output, given.output.with_suffix(".md")]
    for path, text in zip(made, (page(given.title, rows, given.x), markdown(given.title, rows)), strict=True):
        write_text(path, text, errors="replace")  # JSON may hold halves of characters
        print(f"made: {path} ({len(rows)} row{'s' * (len(rows) != 1)})", flush=True)
    print("a browser shows the first, any editor the second", flush=True)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    given = parse(arguments)
    run_as_script(lambda: write_report(given), given.debug)


if __name__ == "__main__":
    main(sys.argv[1:])
