"""Runs, or resumes, a paper's grid on the backbone that is given, and prints ours beside what the paper announces.

    python -m utils.paper variator --data GLUE_DIR --backbone T5_DIR --text CORPUS_DIR
    python -m utils.paper tucker --data GLUE_DIR --backbone BERT_DIR --text PREGENERATED_DIR
    python -m utils.paper minidisc --data GLUE_DIR --backbone BERT_DIR --tasks mrpc --dry_run

Every stage is a call of an entry script; one that has its result is not run again, and one that was interrupted is
resumed. docs/paper_tables.md has the recipes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from types import ModuleType

from utils.errors import run_as_script
from utils.paper import bert, claims, minidisc, results, tucker, variator
from utils.paper.arguments import CHANGED, parse
from utils.paper.stages import Request, flags, plan, run
from utils.studies.runner import Runner

PAPERS: dict[str, ModuleType] = {"variator": variator, "tucker": tucker, "minidisc": minidisc}


def request_of(given: argparse.Namespace) -> Request:
    """What the flags ask for."""
    changed = {flag: getattr(given, flag.replace("-", "_")) for flag in CHANGED}
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
    note = [f"not the paper's recipe: {' '.join(flags(changed))}"]
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
        if paper is not variator:  # a T5 reads rows of any length
            bert.check_lengths(request.backbone, stages)
        if given.estimate:
            from utils.paper.timing import METHOD, timer

            print("\n".join([*plan(stages, timer(given.paper, request.backbone, given.threads)), METHOD]))
            return
        if given.dry_run:
            print("\n".join(plan(stages)))
            return
        run(Runner(request.output, given.threads), stages)
    print("\n".join(tables(given.paper, request)), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    given = parse(arguments)
    run_as_script(lambda: run_paper(given), given.debug, goes_on=())


if __name__ == "__main__":
    main()
