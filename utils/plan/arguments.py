"""The flags of `python -m utils.plan`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from notation import Axis
from utils.arguments import MODEL, PLACE, Parser, Reading
from utils.engine.names import AskedForward
from utils.plan.budget import QUANTITIES

#: What the sizes of one model can differ in.
AXES = get_args(Axis)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = Parser(
        prog="python -m utils.plan",
        description="Lists what the points of a compressed model cost on this machine and reach, and chooses one that "
        "keeps a budget. Ends with exit code 1 if none does.",
        epilog="quantities: " + "; ".join(f"{name}: {unit}" for name, unit in QUANTITIES.items()),
    )
    add = made.add_argument
    add("--model", nargs="+", required=True, reads=PLACE, help="model directories, run directories, or folders of runs")
    add("--budget", required=True, help='such as "latency_ms<=8" or "macs<=0.5x,params<=20M"; x: times the whole model')
    add(
        "--whole",
        reads=MODEL,
        help="the model that x counts from (default: the first of --model that nothing is taken from)",
    )
    add("--batch", type=int, least=1, default=8, help="rows of the timed forward (default: 8)")
    add("--length", type=int, least=1, default=128, help="tokens of a row (default: 128)")
    add(
        "--axis",
        choices=AXES,
        help="what the sizes of one model differ in: plugin ratios and the sparsities of a sparsified model are listed "
        "without it; rank lists cuts of a decomposed BERT, layers those of one with all edits to come",
    )
    add("--grid", help="the sizes: 50,70,90 (percent that is gone) or 6,4,2 (layers); default: those of the run")
    add("--backbone", reads=MODEL, help="what plugins that lie alone go onto (default: what their run records)")
    add("--task_name", dest="task", help="task of --data_dir; of a bank of plugins for several tasks, the one")
    add(
        "--data_dir",
        dest="data",
        reads=Reading(words=("hub",)),
        help="evaluate every point on the development rows in this folder instead of reading its run's files",
    )
    add("--device", choices=("cpu", "cuda"), help="where to measure (default: a GPU if there is one)")
    add(
        "--precision",
        choices=get_args(AskedForward),
        default="auto",
        help="of the layers' products (default: auto, which is bf16 where this machine is fast at it, else fp32)",
    )
    add("--threads", type=int, least=1, help="threads of the CPU (default: torch's own choice)")
    add("--repeats", type=int, least=1, default=20, help="timed forwards of every point (default: 20)")
    add("--cost_table", type=Path, help="read the costs from this file, or write them into it (default: the cache)")
    add("--remeasure", action="store_true", help="measure even if there is a table")
    add("--json", type=Path, help="write the plan to this file, for programs")
    add("--commit", type=Path, metavar="OUT", help="write the chosen point into this folder, as a model of its own")
    add("--overwrite", action="store_true", help="replace what --commit finds")
    add("--debug", action="store_true", help="show the traceback of an error")
    return made.parse_args(arguments)
