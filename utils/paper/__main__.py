"""Runs, or resumes, a paper's grid on the backbone that is given, and prints ours beside what the paper announces.

    python -m utils.paper variator --data GLUE_DIR --backbone T5_DIR --text CORPUS_DIR
    python -m utils.paper tucker --data GLUE_DIR --backbone BERT_DIR --text PREGENERATED_DIR
    python -m utils.paper minidisc --data GLUE_DIR --backbone BERT_DIR --tasks mrpc --dry-run

Every stage is a call of an entry script; one that has its result is not run again, and one that was interrupted is
resumed. docs/paper_tables.md has the recipes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from utils.errors import UserError, run_as_script
from utils.paper import claims, minidisc, results, tucker, variator
from utils.paper.stages import Request, plan, run
from utils.studies.runner import Runner

PAPERS: dict[str, ModuleType] = {"variator": variator, "tucker": tucker, "minidisc": minidisc}
#: Flags that replace the recipe's in every training stage.
_CHANGED = {
    "epochs": "epochs of every training stage",
    "training-step": "end every training stage after this many optimizer steps",
    "batch-size": "rows per optimizer step and process",
    "length": "longest input in tokens",
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m utils.paper", description=(__doc__ or "").split("\n")[0])
    papers = parser.add_subparsers(dest="paper", required=True, metavar="variator|tucker|minidisc")
    for name, paper in PAPERS.items():
        one = papers.add_parser(name, help=(paper.__doc__ or "").split("\n")[0])
        one.add_argument("--data", required=True, help="folder of the tasks, as --data-path of the entry scripts")
        one.add_argument("--backbone", required=True, help="directory or hub id of the pre-trained model")
        one.add_argument("--tasks", nargs="+", choices=paper.TASKS, default=list(paper.TASKS), help="(default: all)")
        one.add_argument("--scales", nargs="+", default=list(paper.SCALES), help="(default: %(default)s)")
        one.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="(default: %(default)s)")
        if paper.NEEDS_TEXT:
            one.add_argument("--text", help=paper.TEXT_HELP)
        if name == "variator":
            one.add_argument("--plugins", help="pre-trained plugins (a run's best/ or a .pkl), instead of --text")
        one.add_argument("--output", type=Path, default=Path("outputs/paper") / name, help="(default: %(default)s)")
        one.add_argument("--threads", type=int, default=2, help="CPU threads of a stage (default: %(default)s)")
        one.add_argument("--dry-run", action="store_true", help="list the stages and about how long they take here")
        one.add_argument("--report", action="store_true", help="only print the tables of what is there")
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
        recipe = one.add_argument_group("instead of the recipe's (the table is then no longer the paper's)")
        for flag, text in _CHANGED.items():
            recipe.add_argument(f"--{flag}", type=int, help=text)
    return parser.parse_args(arguments)


def request_of(given: argparse.Namespace) -> Request:
    """What the flags ask for.

    Raises:
        UserError: a number cannot be.
    """
    changed = {flag: getattr(given, flag.replace("-", "_")) for flag in _CHANGED}
    for flag, value in {**changed, "threads": given.threads}.items():
        if value is not None and value < 1:
            raise UserError(f"--{flag} must be at least 1, found {value}.")
    return Request(
        given.data,
        given.backbone,
        given.output,
        given.tasks,
        given.scales,
        given.seeds,
        getattr(given, "text", None),
        getattr(given, "plugins", None),
        changed,
    )


def tables(name: str, request: Request) -> list[str]:
    """What the grid has reached, and the paper's claims beside it."""
    paper = PAPERS[name]
    found: list[results.Reached] = paper.reached(request)
    if not found:
        return ["nothing of this grid is there yet"]
    changed = {flag: value for flag, value in (request.changed or {}).items() if value is not None}
    note = [f"not the paper's recipe: {', '.join(f'--{flag} {value}' for flag, value in changed.items())}"]
    return [
        *_table(results.HEAD, results.table(found)),
        "",
        *_table(claims.HEAD, claims.verdicts(name, paper.measured(found))),
        f"backbone: {request.backbone}; the papers' numbers are of t5-base and BERT-base, tolerances are ours",
        *(note if changed else []),
    ]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    shown = ["| " + " | ".join(cells) + " |" for cells in (head, *lines)]
    return [shown[0], "|" + "---|" * len(head), *shown[1:]]


def run_paper(given: argparse.Namespace) -> None:
    """Lists, runs or reads the grid."""
    request, paper = request_of(given), PAPERS[given.paper]
    if not given.report:
        stages = paper.stages(request)
        if given.dry_run:
            print("\n".join(plan(stages, paper.timer(request.backbone, given.threads))))
            return
        run(Runner(request.output, given.threads), stages)
    print("\n".join(tables(given.paper, request)), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    given = parse(arguments)
    run_as_script(lambda: run_paper(given), given.debug)


if __name__ == "__main__":
    main(sys.argv[1:])
