"""The flags of all benchmarks; none of the libraries is needed to read them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from utils.arguments import MODEL, Reading, ToolParser
from utils.engine.names import AskedForward, EngineName
from utils.errors import UserError

Side = Literal["minidisc", "plain"]

#: Batch x length.
SHAPES = ((8, 128), (1, 128))
#: t5-base and BERT-base (weights are random: speed does not depend on them).
T5_BASE = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
BERT_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
#: Ratios of plugins, and sparsities of pruned students in percent.
RATIOS, SPARSITIES = (2, 4, 8), (50, 70, 90, 95)
#: The original's sparsities from 50 % on, and the two steps that are compared over them.
GRID, SIDES = (50, 60, 70, 80, 85, 90, 95), get_args(Side)
#: (rank_layer, rank_dim); rank_condim is the same as rank_dim, as published.
RANKS = ((72, 384), (36, 256), (36, 128), (144, 64))
#: The stacked encoder of BERT-base, and the ranks of the two published sizes.
STACKED, STACKED_RANKS = (144, 768, 768), ((72, 384, 384), (36, 128, 128))

_SHOWN = "default: %(default)s"


def parse_plugin_speed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of `benchmarks.plugin_speed`."""
    flags = _parser("plugin_speed", "Wall-clock of a T5 encoder with plugins against the dense one.", repeats=15)
    _add_shape_flags(flags, T5_BASE)
    flags.add_argument("--ratios", nargs="+", type=int, default=list(RATIOS), help="default: 2 4 8")
    return flags.parse_args(arguments)


def parse_pruned_speed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of `benchmarks.pruned_speed`."""
    flags = _parser("pruned_speed", "Wall-clock of pruned BERT encoders against the dense one.", repeats=15)
    _add_shape_flags(flags, BERT_BASE)
    flags.add_argument(
        "--sparsities", nargs="+", type=int, default=list(SPARSITIES), help="in percent (default: 50 70 90 95)"
    )
    flags.add_argument("--optimize", action="store_true", help="pack the students by optimize_for_inference first")
    flags.add_argument(
        "--sandwich", action="store_true", help="time one training step of MiniDisc instead, and its memory"
    )
    flags.add_argument(
        "--grid", nargs="+", type=int, default=list(GRID), help="its sparsities in percent, rising (default: 50 … 95)"
    )
    flags.add_argument("--memory_of", choices=SIDES, help="with --sandwich: only print the peak memory of one step")
    return flags.parse_args(arguments)


def parse_decomposed_speed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of `benchmarks.decomposed_speed`."""
    flags = _parser("decomposed_speed", "Wall-clock of a decomposed BERT encoder against the dense one.", repeats=15)
    _add_shape_flags(flags, BERT_BASE)
    pair = _numbers(2, "rank_layer,rank_dim such as 72,384")
    flags.add_argument("--ranks", nargs="+", type=pair, default=list(RANKS), metavar="LAYER,DIM", help="default: four")
    flags.add_argument("--optimize", action="store_true", help="fix the plans by optimize_for_inference first")
    return flags.parse_args(arguments)


def parse_decomposition(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of `benchmarks.decomposition`."""
    flags = _parser("decomposition", "Tucker decomposition here against tensorly with its defaults.", repeats=1)
    triple = _numbers(3, "three numbers such as 72,384,384")
    flags.add_argument("--shape", type=triple, default=STACKED, metavar="N,D,E", help="default: 144,768,768")
    flags.add_argument(
        "--ranks", type=triple, nargs="+", default=STACKED_RANKS, metavar="A,B,C", help="default: both sizes"
    )
    return flags.parse_args(arguments)


def parse_engines(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of `benchmarks.engines`.

    Raises:
        UserError: the rows cannot be divided, or there are too few steps for a curve.
    """
    flags = ToolParser(
        prog="python -m benchmarks.engines", description="The same trainings under each engine that this machine has."
    )
    flags.add_argument("--engines", nargs="+", choices=get_args(EngineName), help="default: all that can run here")
    flags.add_argument(
        "--processes", type=int, least=1, default=1, help=f"one per GPU, or on a CPU any number ({_SHOWN})"
    )
    flags.add_argument("--steps", type=int, default=60, help=_SHOWN)
    flags.add_argument("--batch_size", type=int, default=32, help=f"rows per step, of all processes ({_SHOWN})")
    flags.add_argument("--precision", choices=get_args(AskedForward), default="auto", help=_SHOWN)
    flags.add_argument(
        "--output_dir", dest="output", type=Path, default=Path("outputs/engines"), help=f"folder of the runs ({_SHOWN})"
    )
    flags.add_argument("--page", type=Path, help="put the table into this Markdown page, between its markers")
    flags.add_argument("--plot", type=Path, help="draw the loss curves into this file")
    flags.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = flags.parse_args(arguments)
    if given.steps < 2 or given.batch_size % given.processes:
        raise UserError(
            f"--steps must be at least 2 and --batch_size a multiple of --processes, found {given.steps} steps, "
            f"{given.batch_size} rows, {given.processes} processes."
        )
    return given


def parse_serve_load(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of `benchmarks.serve_load`.

    Raises:
        UserError: a number is not above 0.
    """
    made = ToolParser(
        prog="python -m benchmarks.serve_load",
        description="A fixed-ratio server against the dynamic one, under the same load in steps.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--model", required=True, reads=MODEL, help="directory of a fine-tuned T5")
    made.add_argument(
        "--plugins",
        nargs="+",
        default=[],
        reads=Reading(named=True),
        help="as `python -m serving` takes them; default: those that the model carries",
    )
    made.add_argument(
        "--data_dir", dest="data", required=True, reads=Reading(words=("hub",)), help="folder of the GLUE data"
    )
    made.add_argument("--task_name", dest="task", default="sst2", help="whose validation rows are sent")
    made.add_argument(
        "--steps", type=float, nargs="+", default=[0.3, 0.6, 1.3, 0.6, 0.3], help="shares of the capacity"
    )
    made.add_argument("--step_seconds", type=float, default=15.0, help="length of a step")
    made.add_argument("--rows_per_request", type=int, default=8, help="rows of a request")
    made.add_argument("--target_factor", type=float, default=6.0, help="latency target over the latency of one alone")
    made.add_argument("--latency_target_ms", type=float, help="instead of --target_factor")
    made.add_argument("--queue_rows", type=int, default=512, help="of both servers")
    made.add_argument("--threads", type=int, default=1, help="of the model, in both servers")
    made.add_argument("--seed", type=int, least=0, default=1, help="of arrivals and rows")
    made.add_argument("--json", type=Path, help="write every sample to this file")
    made.add_argument("--page", type=Path, help="put table and plot into this Markdown page; the plot lies beside it")
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = made.parse_args(arguments)
    numbers = ("step_seconds", "rows_per_request", "target_factor", "latency_target_ms", "threads", "queue_rows")
    for name, value in [*((name, getattr(given, name)) for name in numbers), *(("steps", v) for v in given.steps)]:
        if value is not None and not value > 0:
            raise UserError(f"--{name} must be above 0, found {value:g}.")
    return given


def _parser(prog: str, description: str, repeats: int) -> ToolParser:
    """A parser with the flags that every comparison of speeds takes."""
    made = ToolParser(prog=f"python -m benchmarks.{prog}", description=description)
    made.add_argument("--json", type=Path, help="write the rows to this file")
    made.add_argument("--page", type=Path, help="put the table into this Markdown page, between its markers")
    made.add_argument("--threads", type=int, default=os.cpu_count() or 1, help=f"CPU threads ({_SHOWN})")
    made.add_argument("--repeats", type=int, default=repeats, help=f"timed pairs per row ({_SHOWN})")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=_SHOWN)
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made


def _add_shape_flags(flags: ToolParser, base: Mapping[str, int]) -> None:
    """Precision, batch shapes, and the sizes of the model, by default those of `base`."""
    shown = " ".join(f"{batch}x{length}" for batch, length in SHAPES)
    flags.add_argument("--precision", choices=get_args(AskedForward), default="auto", help=_SHOWN)
    shape = _numbers(2, "batch x length such as 8x128", "x")
    flags.add_argument("--shapes", nargs="+", type=shape, default=SHAPES, metavar="BxL", help=f"default: {shown}")
    for name, value in base.items():
        flags.add_argument(f"--{name}", type=int, default=value, help=_SHOWN)


def _numbers(count: int, example: str, sign: str = ",") -> Callable[[str], tuple[int, ...]]:
    """From `72,384` to its numbers, all above 0."""

    def convert(text: str) -> tuple[int, ...]:
        parts = text.replace("x", sign).split(sign)
        if len(parts) != count or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
            raise argparse.ArgumentTypeError(f"expected {example}, found {text!r}")
        return tuple(map(int, parts))

    return convert
