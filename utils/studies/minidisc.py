"""MiniDisc on real data: students of 90 % sparsity by every schedule, their controls, and docs/results/minidisc.md.

    python -m utils.studies.minidisc --data_dir GLUE_DIR --wnut WNUT_DIR --backbone BERT_DIR --threads 2

Every stage is a call of `task_distill.py`; one that has its result is not run again, and one that was interrupted is
resumed. `--report` only writes the page from what is there, `--costs` measures latencies.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.arguments import MODEL, PLACE, ToolParser
from utils.errors import run_as_script
from utils.pages import write_measured
from utils.studies import tucker
from utils.studies.runner import Runner, add_rows_flag, commands_block, read_result, spread, study_parser
from utils.studies.summary import SummaryRow, write_summary

#: Sparsities that MiniDisc tries; MaxiDisc goes over each of ASSISTANTS.
GRID, ASSISTANTS = "70,80,85,90,95", (70, 80, 85)
#: Fixed budgets, chosen once: of the teacher, and of each distillation whatever the schedule.
TEACHER = {
    **{task: tucker.TEACHER[task] for task in ("mrpc", "sst2")},
    "wnut17": "--num_train_epochs 8 --learning_rate 1e-4",
}
#: Of the one teacher of a task; other seeds vary the distillations.
_TEACHER_SEED = 1
DISTIL = {
    "mrpc": "--num_train_epochs 3 --learning_rate 2e-4",
    "sst2": "--max_steps 400 --valid_step 100 --learning_rate 2e-4",
    "wnut17": "--num_train_epochs 4 --learning_rate 2e-4",
}
#: The selection metric, and what else tells rows apart: the F1 of MRPC's larger class alone is 0.812.
METRICS = {"mrpc": ("f1", "accuracy"), "sst2": ("accuracy",), "wnut17": ("f1",)}
LENGTH = {"mrpc": 128, "sst2": 64, "wnut17": 64}
#: Rows beside MiniDisc's in the README's table, and what they are called there.
_SUMMARY_NAMES = {"conventional": "conventional", "MaxiDisc": "best of MaxiDisc", "pruned, labels only": "labels alone"}
#: Rows of the table: name -> flags behind the common ones. 1L is the depth nearest in size to a 90 % pruned MiniLM.
ROWS = {
    "pruned, not distilled": "--mode sparsify --layer_or_sparsity 90S",
    "pruned, labels only": "--mode distill --layer_or_sparsity 90S --model_type ftbert",
    "one layer left": "--mode distill --layer_or_sparsity 1L",
    "conventional": "--mode distill --layer_or_sparsity 90S",
    "MaxiDisc": f"--mode maxidisc --layer_or_sparsity_path '{';'.join(f'{s},90S' for s in ASSISTANTS)}'",
    "MiniDisc": f"--mode minidisc --target_sparsity 90 --trunc_sparsity 70 --grid {GRID}",
}


@dataclass(frozen=True)
class Study:
    """Where everything is and how a stage is run."""

    glue: Path
    wnut: Path
    backbone: str
    runner: Runner
    teachers: Path

    def folder(self, task: str, seed: int, row: str) -> Path:
        """The folder of a row, of `teacher` or of `sparsification`."""
        if row == "teacher":
            shared = self.teachers / task
            is_there = (shared / "evaluation.json").is_file()
            return shared if is_there else self.runner.output / f"{task}-{_TEACHER_SEED}" / row
        return self.runner.output / f"{task}-{seed}" / row.replace(", ", "-").replace(" ", "-")

    def call(self, task: str, seed: int, row: str, arguments: str, done: str = "result.json") -> Path:
        """A call of `task_distill.py`; gives its folder."""
        folder = self.folder(task, seed, row)
        data = self.wnut if task == "wnut17" else self.glue
        common = f"--max_seq_length {LENGTH[task]} --keep_checkpoints 1 --seed {seed}"
        place = f"--task_name {task} --data_dir {data} {common} --output_dir {folder}"
        self.runner.run(folder, f"task_distill.py {arguments} {place}", done)
        return folder

    def teacher(self, task: str) -> Path:
        """The fine-tuned teacher of a task; gives its folder."""
        tuned = f"--mode finetune --teacher_model {self.backbone} {TEACHER[task]} --do_eval --no_costs"
        return self.call(task, _TEACHER_SEED, "teacher", tuned, done="evaluation.json")

    def run(self, task: str, seed: int, rows: Sequence[str]) -> None:
        """The teacher, the reordered teacher, and the rows."""
        teacher = self.teacher(task)
        sparse = self.call(task, seed, "sparsification", f"--mode sparsify --teacher_model {teacher} --grid {GRID}")
        for row in rows:
            made = self.call(task, seed, row, f"{ROWS[row]} --teacher_model {sparse} {DISTIL[task]}")
            self.evaluate(task, seed, made, "evaluation", "--no_costs")

    def evaluate(self, task: str, seed: int, made: Path, name: str, flags: str = "") -> None:
        """All metrics of the model in a row's folder, as it reloads, into `name`/evaluation.json there."""
        arguments = f"--do_eval {flags} --student_model {made / 'best'}"
        self.call(task, seed, f"{made.name}/{name}", arguments, done="evaluation.json")

    def costs(self, task: str, seed: int, rows: Sequence[str]) -> None:
        """MACs and latency of the rows, on a machine that does nothing else."""
        for row in ("teacher", *rows):
            folder = self.folder(task, seed, row)
            if (folder / "best").is_dir() and self.teachers not in folder.parents:  # the Tucker study measures its own
                self.evaluate(task, seed, folder, "costs")


def table(study: Study, task: str, seeds: Sequence[int], names: Sequence[str] = tuple(ROWS)) -> list[str]:
    """Markdown of one task: metrics and retention over seeds, then size, latency and the cost of training.

    Args:
        names: of the rows.
    """
    metrics = METRICS[task]
    teacher = read_result(study.folder(task, _TEACHER_SEED, "teacher") / "evaluation.json")
    rows = {row: [made for s in seeds if (made := reached(study, task, s, row))] for row in names}
    most = max(map(len, rows.values()))
    if teacher is None or not most:
        return []
    sizes = ["encoder parameters", "MACs / example", "latency p50, 8 x 128"]
    dense = teacher["metrics"]
    lines = [["student", *metrics, "retention", *sizes, "training"]]
    lines.append(["---"] * len(lines[0]))
    lines.append(["teacher", *(f"{dense[m]:.3f}" for m in metrics), "1", *_cost(study, task, seeds, "teacher"), ""])
    for row, of_seeds in rows.items():
        if of_seeds:
            of = f" ({len(of_seeds)} of {most} seeds)" if len(of_seeds) < most else ""
            shown = [spread([values[m] for values, _ in of_seeds]) for m in metrics]
            kept = statistics.mean(values[metrics[0]] for values, _ in of_seeds) / dense[metrics[0]]
            spent = _spent([result for _, result in of_seeds])
            lines.append([f"{row}{of}", *shown, f"{kept:.1%}", *_cost(study, task, seeds, row), spent])
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _spent(results: Sequence[dict[str, Any]]) -> str:
    """Training tokens and minutes of a row, means over seeds."""
    tokens = statistics.mean(result["tokens"] for result in results) / 1e3
    minutes = statistics.mean(result["train_seconds"] for result in results) / 60
    return f"{tokens:,.0f} k tokens, {minutes:.1f} min" if tokens else "none"


def reached(study: Study, task: str, seed: int, row: str) -> tuple[dict[str, float], dict[str, Any]] | None:
    """Metrics and result of a row, if both are there."""
    folder = study.folder(task, seed, row)
    found, result = read_result(folder / "evaluation" / "evaluation.json"), read_result(folder / "result.json")
    return (found["metrics"], result) if found and result else None


def _cost(study: Study, task: str, seeds: Sequence[int], row: str) -> list[str]:
    for seed in seeds:
        if found := read_result(study.folder(task, seed, row) / "costs" / "evaluation.json"):
            return [f"{found['encoder_params']:,}", f"{found['macs'] / 1e6:.0f} M", f"{found['latency_ms']:.1f} ms"]
    return ["", "", ""]


def assistants(study: Study, task: str, seeds: Sequence[int]) -> list[str]:
    """Which assistant MiniDisc chose and how well each of MaxiDisc's did, by seed."""
    lines = []
    for seed in seeds:
        mini = read_result(study.folder(task, seed, "MiniDisc") / "schedule.json")
        maxi = read_result(study.folder(task, seed, "MaxiDisc") / "schedule.json")
        if mini and maxi:
            first = mini["iterations"][0]
            chosen = first.get("written", f"{100 * first['scale']:g}S")  # older runs are of sparsities alone
            best = maxi["best_path"].split("-")[0]
            each = ", ".join(f"{path.split('-')[0]} {value:.3f}" for path, value in maxi["paths"].items())
            agreed = "the same" if best == chosen else "another one"
            share = mini["train_seconds"] / maxi["train_seconds"]
            lines.append(
                f"- seed {seed}: MiniDisc chose {chosen}; MaxiDisc's best was {best} ({agreed}; {each}). "
                f"MiniDisc took {share:.0%} of MaxiDisc's training time."
            )
    return lines


def write_page(study: Study, tasks: Sequence[str], seeds: Sequence[int], page: Path) -> None:
    """The measured part of the results page."""
    parts: list[str] = []
    for task in tasks:
        if lines := table(study, task, seeds):
            made = [s for s in seeds if any(reached(study, task, s, row) for row in ROWS)]
            parts += [f"### {task.upper()}, seed(s) {', '.join(map(str, made))}", "", *lines, ""]
            if chosen := assistants(study, task, seeds):
                parts += [*chosen, ""]
    places = {str(study.glue): "GLUE_DIR", str(study.wnut): "WNUT_DIR", study.backbone: "BERT_DIR"}
    hidden, first = ("/costs ", "/evaluation "), f"--seed {seeds[0]} "
    commands = commands_block(
        study.runner,
        "Commands (first seed)",
        places,
        lambda call: first in call and not any(part in call for part in hidden),
    )
    write_measured(page, [*parts, *commands], "minidisc")


def summary_of(study: Study, tasks: Sequence[str], seeds: Sequence[int]) -> list[SummaryRow]:
    """The README's few rows: MiniDisc's students beside the teacher and students made in other ways."""
    rows = []
    for task in tasks:
        metric = METRICS[task][-1]
        values = {
            row: [made[0][metric] for seed in seeds if (made := reached(study, task, seed, row))]
            for row in ("MiniDisc", *_SUMMARY_NAMES)
        }
        means = {row: statistics.mean(found) for row, found in values.items() if found}
        teacher = read_result(study.folder(task, _TEACHER_SEED, "teacher") / "evaluation.json")
        if teacher is not None and (value := means.pop("MiniDisc", None)) is not None:
            dense, count = teacher["metrics"][metric], len(values["MiniDisc"])
            others = {_SUMMARY_NAMES[row]: mean for row, mean in means.items()}
            rows.append(SummaryRow("90 % pruned", task, metric, count, dense, value, value / dense, others))
    return rows


def add_flags(parser: ToolParser, tasks: Sequence[str], default_tasks: Sequence[str], rows: Sequence[str]) -> None:
    """The flags of studies whose students come from one fine-tuned BERT."""
    shown = "(default: %(default)s)"
    parser.add_argument(
        "--data_dir",
        dest="data",
        type=Path,
        required=True,
        reads=PLACE,
        help="folder with GLUE TSV folders (MRPC, SST-2)",
    )
    parser.add_argument("--backbone", required=True, reads=MODEL, help="pre-trained BERT directory")
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=default_tasks, help=shown)
    parser.add_argument("--seeds", nargs="+", type=int, least=0, default=[1], help=shown)
    add_rows_flag(parser, rows)
    teachers = Path("outputs/results/tucker/teacher")
    told = f"the Tucker study's, which serve where they are there {shown}"
    parser.add_argument("--teachers", type=Path, reads=PLACE, default=teachers, help=told)


def run_or_measure(study: Study, given: argparse.Namespace, names: Sequence[str]) -> None:
    """Every task and seed of the command line: its rows are made, or with `--costs` measured; nothing by `--report`."""
    rows = [names[index] for index in given.rows]
    for seed in [] if given.report else given.seeds:
        for task in given.tasks:
            if not given.costs:
                study.run(task, seed, rows)
            elif seed == given.seeds[0]:
                study.costs(task, seed, rows)


def main() -> None:
    """Command line."""
    parser = study_parser("minidisc", str(__doc__))
    parser.add_argument("--wnut", type=Path, required=True, reads=PLACE, help="folder of WNUT-17 (train.txt, dev.txt)")
    add_flags(parser, list(TEACHER), list(TEACHER), list(ROWS))
    given = parser.parse_args()
    study = Study(given.data, given.wnut, given.backbone, Runner(given.output, given.threads), given.teachers)
    run_or_measure(study, given, list(ROWS))
    write_page(study, list(TEACHER), given.seeds, given.page)
    write_summary(given.readme, "MiniDisc", summary_of(study, list(TEACHER), given.seeds))
    print(f"made: {given.page}")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv, goes_on=())
