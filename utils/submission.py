"""Checks the files of a GLUE submission and zips them for the leaderboard.

python -m utils.submission outputs/submission [--output submission.zip]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dataset.submission import FILES, write_zip
from utils.arguments import PLACE, ToolParser
from utils.errors import run_as_script
from utils.outputs import guard
from utils.writing import atomic_file


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ToolParser(prog="python -m utils.submission", description=str(__doc__).split("\n")[0])
    files = ", ".join(entry.file for entry in FILES.values())
    parser.add_argument("folder", type=Path, reads=PLACE, metavar="DIR", help=f"the folder that holds {files}")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the archive (default: DIR/submission.zip)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    args = parse(arguments)

    def pack() -> Path:
        guard("utils.submission", args)
        target = args.output or args.folder / "submission.zip"
        with atomic_file(target) as file:
            write_zip(args.folder, file)
        return target

    archive = run_as_script(pack, args.debug)
    print(f"made: {archive} ({len(FILES)} files, checked)")


if __name__ == "__main__":
    main()
