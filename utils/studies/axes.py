"""MiniDisc over other axes than sparsity on real data: ranks or layers, against the plain ways to the same student.

    python -m utils.studies.axes --axis rank --data_dir GLUE_DIR --backbone BERT_DIR --threads 2

Writes docs/results/axes.md. Every stage is a call of `task_distill.py`; one that has its result is not run again, and
one that was interrupted is resumed. `--report` only writes the page from what is there, `--costs` measures latencies.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import run_as_script
from utils.pages import write_measured
from utils.studies.minidisc import Study, add_flags, assistants, reached, run_or_measure, table
from utils.studies.runner import Runner, commands_block, study_parser

#: Rows of the table, flags behind the common ones by axis. Chosen once, before anything was run. Ranks count from a
#: bank of two thirds of every dimension (a MiniLM's: 48, 256, 256), about a third of the encoder's parameters; without
#: a quarter of each it has the ranks of the Tucker study's students of 1/7. λ is a quarter of the usual one, as the
#: scales of the ranks span a quarter too: from 0 to 0.25.
_BASE = "--rank_layer 48 --rank_condim 256 --rank_dim 256"
ROWS: Mapping[str, Mapping[str, str]] = {
    "rank": {
        "cut, not distilled": f"--mode sparsify --layer_or_sparsity 25R {_BASE}",
        "conventional": f"--mode distill --layer_or_sparsity 25R {_BASE}",
        "conventional, twice as long": f"--mode distill --layer_or_sparsity 25R {_BASE}",
        "MaxiDisc": f"--mode maxidisc --layer_or_sparsity_path '0,25R;12.5,25R' {_BASE}",
        "MiniDisc": f"--mode minidisc --axis rank --target 25R --grid 0,12.5,25 --lam 0.05 {_BASE}",
    },
    "layers": {
        "cut, not distilled": "--mode sparsify --layer_or_sparsity 2L",
        "conventional": "--mode distill --layer_or_sparsity 2L",
        "conventional, twice as long": "--mode distill --layer_or_sparsity 2L",
        "MaxiDisc": "--mode maxidisc --layer_or_sparsity_path '4,2L;3,2L'",
        "MiniDisc": "--mode minidisc --axis layers --target 2L --grid 4,3,2",
    },
}
NAMES = tuple(ROWS["rank"])
#: Of each distillation: epochs and learning rate (the Tucker study's for banks on these tasks).
EPOCHS: Mapping[str, int] = {"mrpc": 2, "sst2": 1}
RATE: Mapping[str, str] = {"rank": "5e-4", "layers": "2e-4"}
_TITLES = {"rank": "ranks", "layers": "layers"}


@dataclass(frozen=True)
class AxisStudy(Study):
    """The study of one axis.

    Attributes:
        axis: what is scaled.
    """

    axis: str = "rank"

    def folder(self, task: str, seed: int, row: str) -> Path:
        """The folder of a row or of the teacher, which all axes share."""
        return super().folder(task, seed, row if row.startswith("teacher") else f"{self.axis}/{row}")

    def run(self, task: str, seed: int, rows: Sequence[str]) -> None:
        """The teacher and the rows."""
        teacher = self.teacher(task)
        for row in rows:
            epochs = EPOCHS[task] * (2 if "twice" in row else 1)
            trained = "" if "not distilled" in row else f"--num_train_epochs {epochs} --learning_rate {RATE[self.axis]}"
            made = self.call(task, seed, row, f"{ROWS[self.axis][row]} --teacher_model {teacher} {trained}")
            self.evaluate(task, seed, made, "evaluation", "--no_costs")


def write_page(studies: Sequence[AxisStudy], tasks: Sequence[str], seeds: Sequence[int], page: Path) -> None:
    """The measured part of the results page: a table per axis and task that was run."""
    parts: list[str] = []
    for study in studies:
        for task in tasks:
            made = [s for s in seeds if any(reached(study, task, s, row) for row in NAMES)]
            if made and (lines := table(study, task, seeds, NAMES)):
                title = f"### {_TITLES[study.axis].capitalize()}: {task.upper()}, seed(s) {', '.join(map(str, made))}"
                parts += [title, "", *lines, ""]
                if chosen := assistants(study, task, seeds):
                    parts += [*chosen, ""]
    if not parts:
        return
    study = studies[0]
    places = {str(study.glue): "GLUE_DIR", study.backbone: "BERT_DIR"}
    hidden, first = ("/costs ", "/evaluation "), f"--seed {seeds[0]} "
    commands = commands_block(
        study.runner,
        "Commands (first seed)",
        places,
        lambda call: first in call and not any(part in call for part in hidden),
    )
    write_measured(page, [*parts, *commands], "axes")


def main() -> None:
    """Command line."""
    parser = study_parser("axes", str(__doc__), summary=False)
    parser.add_argument("--axis", choices=list(ROWS), default="rank", help="what is scaled (default: %(default)s)")
    add_flags(parser, list(EPOCHS), ["mrpc"], NAMES)
    given = parser.parse_args()
    runner = Runner(given.output, given.threads)
    studies = [AxisStudy(given.data, given.data, given.backbone, runner, given.teachers, axis) for axis in ROWS]
    study = next(study for study in studies if study.axis == given.axis)
    run_or_measure(study, given, NAMES)
    write_page(studies, list(EPOCHS), given.seeds, given.page)
    print(f"made: {given.page}")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv, goes_on=())
