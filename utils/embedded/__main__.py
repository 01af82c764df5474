"""`python -m utils.embedded --size tiny|mini`: see `utils/embedded/build.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.arguments import PLACE, ToolParser
from utils.embedded.build import build, default_paths
from utils.embedded.sizes import BACKBONE_SIZES
from utils.errors import run_as_script
from utils.hints import next_lines
from utils.tool_steps import after_embedded


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ToolParser(
        prog="python -m utils.embedded",
        description="Makes the embedded default: a corpus, tasks in GLUE and SQuAD format, a tokenizer and "
        "an untrained T5. Nothing is downloaded; what is there already is used again.",
    )
    parser.add_argument("--size", choices=tuple(BACKBONE_SIZES), default="tiny", help="size of the T5 (default: tiny)")
    parser.add_argument(
        "--output_dir", dest="output", type=Path, metavar="DIR", help="folder of the data (default: data/SIZE)"
    )
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), metavar="DIR",
        help="the T5 goes to DIR/backbone/SIZE/init (default: checkpoints)",
    )  # fmt: skip
    parser.add_argument(
        "--extra_text", type=Path, nargs="+", default=[], metavar="FILE", reads=PLACE,
        help="more text for the tokenizer, one document per line",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, least=0, default=1, help="seed of text and weights (default: 1)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    args = parse(arguments)
    paths = default_paths(args.size, args.output, args.checkpoints)
    run_as_script(lambda: build(args.size, paths, extra_text=args.extra_text, seed=args.seed), args.debug)
    is_default = paths == default_paths(args.size)
    print(next_lines(after_embedded(args.size, paths.data, paths.backbone, is_default)))


if __name__ == "__main__":
    main()
