"""The flags of `python -m utils.paper`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.arguments import MODEL, PLACE, ToolParser
from utils.arguments.spellings import flag_named

_BERT_TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")


class Grid(NamedTuple):
    """What a paper's grid spans.

    Attributes:
        text: what it is about.
        tasks, scales: all that it has; of the BERTs' papers without WNLI, which they leave out.
        corpus: what `--text` is; "" where the paper needs none.
    """

    text: str
    tasks: tuple[str, ...]
    scales: tuple[str, ...]
    corpus: str


GRIDS: Mapping[str, Grid] = {
    "variator": Grid(
        "plugins pre-trained on text; per task a T5 fine-tuned, the plugins adapted to it, both evaluated",
        ("mnli", "qqp", "qnli", "sst2", "rte", "mrpc", "squad"),
        ("4",),
        "folder of the corpus that plugins are pre-trained on",
    ),
    "tucker": Grid(
        "per size a student distilled on text; per task a teacher, and the student distilled from it",
        _BERT_TASKS,
        ("1/7", "1/48"),
        "folder of pre-generated text (python -m utils.pregenerate_training_data)",
    ),
    "minidisc": Grid("per task a teacher, its sparse order, and students by every schedule", _BERT_TASKS, ("90",), ""),
}
#: Flags that replace the recipe's in every training stage.
CHANGED = {
    "epochs": "epochs of every training stage",
    "training-step": "end every training stage after this many optimizer steps",
    "batch-size": "rows per optimizer step and process",
    "length": "longest input in tokens",
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ToolParser(
        prog="python -m utils.paper",
        description="Runs, or resumes, a paper's grid on the backbone that is given, and prints ours beside what the "
        "paper announces.",
    )
    papers = parser.add_subparsers(dest="paper", required=True, metavar="variator|tucker|minidisc")
    for name, paper in GRIDS.items():
        one = papers.add_parser(name, help=paper.text)
        one.add_argument(
            "--data_dir", dest="data", required=True, help="folder of the tasks, as --data_dir of the entry scripts"
        )
        one.add_argument("--backbone", required=True, reads=MODEL, help="directory or hub id of the pre-trained model")
        one.add_argument("--tasks", nargs="+", choices=paper.tasks, default=list(paper.tasks), help="(default: all)")
        one.add_argument("--scales", nargs="+", default=list(paper.scales), help="(default: %(default)s)")
        one.add_argument("--seeds", nargs="+", type=int, least=0, default=[1, 2, 3], help="(default: %(default)s)")
        if paper.corpus:
            one.add_argument("--text", help=paper.corpus)
        if name == "variator":
            one.add_argument(
                "--plugins", reads=PLACE, help="pre-trained plugins (a run's best/ or a .pkl), instead of --text"
            )
        one.add_argument(
            "--output_dir",
            dest="output",
            type=Path,
            default=Path("outputs/paper") / name,
            help="(default: %(default)s)",
        )
        one.add_argument(
            "--threads", type=int, least=1, default=2, help="CPU threads of a stage (default: %(default)s)"
        )
        one.add_argument("--dry_run", action="store_true", help="list the stages and what they train on")
        one.add_argument(
            "--estimate", action="store_true", help="list them with about how long they take here, which is timed"
        )
        one.add_argument("--report", action="store_true", help="only print the tables of what is there")
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
        recipe = one.add_argument_group("instead of the recipe's (the table is then no longer the paper's)")
        for field, text in CHANGED.items():
            name = field.replace("-", "_")
            one.add_argument(flag_named(name), group=recipe, dest=name, type=int, least=1, help=text)
    return parser.parse_args(arguments)
