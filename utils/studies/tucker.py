"""Tucker on real data: teachers, decomposed students, their controls, and the table in docs/results/tucker.md.

    python -m utils.studies.tucker --data_dir GLUE_DIR --text PREGENERATED_DIR --backbone BERT_DIR --threads 2

Every stage is a call of `general_distill.py` or `task_distill.py`; one that has its result is not run again, and one
that was interrupted is resumed. `--report` only writes the page from what is there, `--costs` measures latencies.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dataset.tasks import get_task
from utils.arguments import MODEL, PLACE
from utils.errors import run_as_script
from utils.pages import write_measured
from utils.studies.runner import Runner, add_rows_flag, commands_block, read_result, study_parser
from utils.studies.summary import SummaryRow, write_summary

#: Ranks by size (share of the encoder's parameters), of a bank and of matrices alone (protocol II) with as many.
RANKS: Mapping[str, Mapping[str, str]] = {
    "1/7": {"IV": "--rank_layer 36 --rank_condim 192 --rank_dim 192", "II": "--protocol II --rank_dim 27"},
    "1/20": {"IV": "--rank_layer 26 --rank_condim 128 --rank_dim 128", "II": "--protocol II --rank_dim 10"},
}
#: Fixed budgets, chosen once: what all rows of a kind get.
TEACHER = {
    "mrpc": "--num_train_epochs 5",
    "stsb": "--num_train_epochs 3",
    "sst2": "--max_steps 1000 --learning_rate 5e-5 --valid_step 250",
}
GENERAL = "--distill_layers all --learning_rate 1e-3 --max_steps 150 --valid_step 75 --valid_batches 2"
STUDENT = {
    "mrpc": "--max_steps 150 --valid_step 50 --distill_layers all --learning_rate 5e-4",
    "stsb": "--max_steps 180 --valid_step 60 --distill_layers all --learning_rate 1e-4",
    "sst2": "--max_steps 400 --valid_step 100 --distill_layers all --learning_rate 5e-4",
}
AUGMENTED = STUDENT["mrpc"]
LENGTH = {"mrpc": 128, "stsb": 128, "sst2": 64}


class Variant(NamedTuple):
    """One way to a student, a row of the table for every size.

    Attributes:
        protocol: of its ranks.
        start: of the student: decomposed from the teacher, or drawn at random ("scratch").
        distilled: or only decomposed.
        augmented: trained on the augmented task data.
    """

    name: str
    protocol: str = "IV"
    start: str = "teacher"
    distilled: bool = True
    augmented: bool = False


VARIANTS = (
    Variant("bank, distilled"),
    Variant("bank, not distilled", distilled=False),
    Variant("bank, distilled from a random start", start="scratch"),
    Variant("each matrix alone (II), distilled", protocol="II"),
    Variant("each matrix alone (II), not distilled", protocol="II", distilled=False),
    Variant("bank, distilled, augmented data", augmented=True),
)


@dataclass(frozen=True)
class Study:
    """Where everything is and how a stage is run."""

    data: Path
    text: str
    backbone: str
    runner: Runner
    seed: int

    @property
    def output(self) -> Path:
        """The study's folder."""
        return self.runner.output

    def teacher(self, task: str) -> Path:
        """The fine-tuned BERT."""
        folder = self.output / "teacher" / task
        command = f"--mode finetune --teacher_model {self.backbone} {TEACHER[task]}"
        self.task_call(folder, task, f"{command} --do_eval --no_costs")
        return folder / "best"

    def general(self, size: str, variant: Variant) -> Path:
        """The student that knows the teacher's inside on plain text."""
        folder = self.output / "general" / _folder(size, variant._replace(augmented=False))
        ranks = _ranks(size, variant)
        self.runner.run(
            folder,
            f"general_distill.py --pregenerated_data {self.text} --teacher_model {self.backbone} --init_from_teacher "
            f"{ranks} {GENERAL} --keep_checkpoints 1 --seed {self.seed} --output_dir {folder}",
        )
        return folder

    def student(self, task: str, size: str, variant: Variant) -> None:
        """One row of the table."""
        folder = self.row(task, size, variant)
        teacher = self.teacher(task)
        if not variant.distilled:
            self.task_call(folder, task, f"--do_eval --no_costs --student_model {teacher} {_ranks(size, variant)}")
            return
        start = self.general(size, variant)
        budget = AUGMENTED if variant.augmented else STUDENT[task]
        data = "--aug_train " if variant.augmented else ""
        command = f"--stage both --teacher_model {teacher} --student_model {start} {data}{budget}"
        self.task_call(folder, task, f"{command} --do_eval --no_costs")

    def costs(self, task: str, size: str | None, variant: Variant | None) -> None:
        """MACs and latency of a row, on a machine that does nothing else."""
        if size is None or variant is None:
            made = self.output / "teacher" / task
            model = made / "best"
        else:
            made = self.row(task, size, variant)
            model = made / "prediction" / "best"
        if model.is_dir():
            self.task_call(made / "costs", task, f"--do_eval --student_model {model}")

    def row(self, task: str, size: str, variant: Variant) -> Path:
        """The folder of a row."""
        return self.output / "student" / task / _folder(size, variant)

    def task_call(self, folder: Path, task: str, arguments: str) -> None:
        """A call of `task_distill.py`."""
        common = f"--max_seq_length {LENGTH[task]} --keep_checkpoints 1 --seed {self.seed}"
        place = f"--task_name {task} --data_dir {self.data} {common} --output_dir {folder}"
        self.runner.run(folder, f"task_distill.py {arguments} {place}", done="evaluation.json")


def _ranks(size: str, variant: Variant) -> str:
    scratch = " --from_scratch" if variant.start == "scratch" else ""
    return f"--use_swap {RANKS[size][variant.protocol]}{scratch}"


def _folder(size: str, variant: Variant) -> str:
    words = [size.replace("/", "of"), variant.protocol, variant.start]
    words += [] if variant.distilled else ["undistilled"]
    words += ["augmented"] if variant.augmented else []
    return "-".join(words)


def rows_of(task: str, sizes: Sequence[str], variants: Sequence[Variant]) -> Iterator[tuple[str, Variant]]:
    """The rows of a task, in the order in which they are worth most."""
    for variant in variants:
        for size in sizes:
            if task == "mrpc" or not variant.augmented:
                yield size, variant


def budget(study: Study, task: str, size: str, variant: Variant) -> str:
    """What a row was trained on: thousands of tokens of text and of the task, and minutes."""
    if not variant.distilled:
        return "none"
    general = read_result(study.output / "general" / _folder(size, variant._replace(augmented=False)) / "result.json")
    stages = [
        read_result(study.row(task, size, variant) / stage / "result.json") for stage in ("intermediate", "prediction")
    ]
    if general is None or None in stages:
        return "unknown"
    tokens = sum(stage["tokens"] for stage in stages if stage)
    seconds = general["train_seconds"] + sum(stage["train_seconds"] for stage in stages if stage)
    return f"{general['tokens'] / 1e3:,.0f} k + {tokens / 1e3:,.0f} k tokens, {seconds / 60:.0f} min"


def cells(found: dict[str, Any], metrics: Sequence[str], teacher: dict[str, Any], costs: dict[str, Any] | None) -> str:
    """Metrics with retention, then costs."""
    values = [f"{found['metrics'][m]:.3f}" for m in metrics]
    kept = f"{found['metrics'][metrics[0]] / teacher['metrics'][metrics[0]]:.1%}"
    if costs is None:
        return " | ".join([*values, kept, "", "", ""])
    size = f"{costs['encoder_params']:,}"
    return " | ".join([*values, kept, size, f"{costs['macs'] / 1e6:.0f} M", f"{costs['latency_ms']:.1f} ms"])


def table(study: Study, task: str, sizes: Sequence[str]) -> list[str]:
    """Markdown of one task: the teacher, then every row that is there."""
    teacher = read_result(study.output / "teacher" / task / "evaluation.json")
    if teacher is None:
        return []
    names = list(teacher["metrics"])
    selection = get_task(task).selection_metric
    metrics = [selection, *(name for name in names if name != selection and name in ("accuracy", "f1", "spearman"))]
    head = ["model", *metrics, "retention", "encoder parameters", "MACs / example", "latency p50, 8 x 128", "budget"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    own = read_result(study.output / "teacher" / task / "costs" / "evaluation.json")
    trained = read_result(study.output / "teacher" / task / "result.json") or {}
    spent = f"{trained.get('tokens', 0) / 1e3:,.0f} k tokens, {trained.get('train_seconds', 0) / 60:.0f} min"
    lines.append(f"| teacher | {cells(teacher, metrics, teacher, own)} | {spent} |")
    for size in sizes:
        for variant in VARIANTS:
            found = read_result(study.row(task, size, variant) / "evaluation.json")
            if found is not None:
                costs = read_result(study.row(task, size, variant) / "costs" / "evaluation.json")
                shown = cells(found, metrics, teacher, costs)
                lines.append(f"| {size}, {variant.name} | {shown} | {budget(study, task, size, variant)} |")
    return lines


def write_page(study: Study, tasks: Sequence[str], sizes: Sequence[str], page: Path) -> None:
    """The measured part of the results page."""
    parts: list[str] = []
    for task in tasks:
        if lines := table(study, task, sizes):
            parts += [f"### {task.upper()}", "", *lines, ""]
    places = {str(study.data): "GLUE_DIR", study.backbone: "BERT_DIR", study.text: "TEXT_DIR"}
    title = f"Commands (seed {study.seed})"
    commands = commands_block(study.runner, title, places, lambda call: "/costs" not in call)
    write_measured(page, [*parts, *commands], "tucker")


def summary_of(study: Study, tasks: Sequence[str], sizes: Sequence[str]) -> list[SummaryRow]:
    """The README's few rows: the distilled banks beside the teacher and, as a control, banks from a random start."""
    rows = []
    for task in tasks:
        # MRPC's larger class alone has an F1 of 0.812, which tells rows apart badly.
        metric = "accuracy" if task == "mrpc" else get_task(task).selection_metric
        teacher = read_result(study.output / "teacher" / task / "evaluation.json")
        for size in sizes if teacher is not None else ():
            found, control = (read_result(study.row(task, size, VARIANTS[i]) / "evaluation.json") for i in (0, 2))
            if teacher is not None and found is not None:
                others = {"random start": control["metrics"][metric]} if control else {}
                dense, value = teacher["metrics"][metric], found["metrics"][metric]
                rows.append(SummaryRow(f"{size} of the encoder", task, metric, 1, dense, value, value / dense, others))
    return rows


def main() -> None:
    """Command line."""
    parser = study_parser("tucker", str(__doc__))
    parser.add_argument(
        "--data_dir",
        dest="data",
        type=Path,
        required=True,
        reads=PLACE,
        help="folder with GLUE TSV folders (MRPC, STS-B, SST-2)",
    )
    parser.add_argument(
        "--text", required=True, reads=PLACE, help="pre-generated text (python -m utils.pregenerate_training_data)"
    )
    parser.add_argument("--backbone", required=True, reads=MODEL, help="pre-trained BERT directory")
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "stsb", "sst2"], help="default: mrpc stsb sst2")
    parser.add_argument("--sizes", nargs="+", choices=list(RANKS), default=list(RANKS), help="default: all")
    add_rows_flag(parser, [variant.name for variant in VARIANTS])
    parser.add_argument("--general", action="store_true", help="only teachers and general distillation of the rows")
    parser.add_argument("--seed", type=int, least=0, default=1, help="default: %(default)s")
    given = parser.parse_args()
    study = Study(given.data, given.text, given.backbone, Runner(given.output, given.threads), given.seed)
    variants = [VARIANTS[index] for index in given.rows]
    for task in [] if given.report else given.tasks:
        if given.costs:
            study.costs(task, None, None)
        else:
            study.teacher(task)
        for size, variant in rows_of(task, given.sizes, variants):
            if given.costs:
                study.costs(task, size, variant)
            elif not given.general:
                study.student(task, size, variant)
            elif variant.distilled:
                study.general(size, variant)
    write_page(study, ["mrpc", "stsb", "sst2"], list(RANKS), given.page)
    write_summary(given.readme, "Tucker", summary_of(study, ["mrpc", "stsb", "sst2"], list(RANKS)))
    print(f"made: {given.page}")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv, goes_on=())
