"""Plugins and int8 on top of compressed BERTs, on real data: what a stack reaches, and what it costs.

    python -m utils.studies.composition --data_dir GLUE_DIR --threads 2

Begins from the students that the studies of Tucker and of MiniDisc left behind, and writes docs/results/composition.md.
Every stage is a call of a tool; one that has its result is not run again. `--report` only writes the page from what is
there, `--costs` measures MACs and latencies, on a machine that does nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from utils.arguments import PLACE
from utils.errors import UserError, run_as_script
from utils.pages import write_measured
from utils.studies.runner import Runner, add_rows_flag, commands_block, read_result, study_parser
from utils.studies.tucker import LENGTH
from utils.writing import atomic_file

TASK, METRIC = "sst2", "accuracy"
#: What the plugins and int8 are put on: the folders of the other studies' runs.
STUDENTS: Mapping[str, str] = {
    "dense": "tucker/teacher/sst2",
    "decomposed to 1/7": "tucker/student/sst2/1of7-IV-teacher/prediction",
    "pruned by 90 %": "minidisc/sst2-1/MiniDisc",
}
NAMES = tuple(STUDENTS)
#: Only factors are left in it, which int8 leaves alone.
_NOT_ROUNDED = ("decomposed to 1/7",)
#: Chosen once, before anything was run: as many steps for every student.
_PLUGINS = "--mode adapt --mux_num 2 4"
ADAPTATION = f"{_PLUGINS} --max_steps 300 --valid_step 100 --learning_rate 1e-3"
#: The control: plugins as they are drawn, but for a step too small to be seen.
UNTRAINED = f"{_PLUGINS} --max_steps 1 --learning_rate 1e-9"
#: Part of a stack -> what its rows are called behind the student's name.
PARTS = {"plugins": "", "untrained": ", plugins untrained", "int8": ", int8 weights"}


@dataclass(frozen=True)
class Study:
    """Where everything is and how a stage is run.

    Attributes:
        sources: the folder of the other studies.
    """

    data: Path
    sources: Path
    runner: Runner
    seed: int

    def source(self, name: str) -> Path:
        """The best model of a student's run.

        Raises:
            UserError: its study was not run.
        """
        best = self.sources / STUDENTS[name] / "best"
        if not best.is_dir():
            raise UserError(f"{best} is missing: run the study it belongs to first (docs/results).")
        return best

    def folder(self, name: str) -> Path:
        """Where a student's stack is made."""
        return self.runner.output / name.replace(" %", "").replace(" ", "-").replace("/", "of")

    def run(self, name: str) -> None:
        """Plugins, then int8, then their metrics."""
        source, folder = self.source(name), self.folder(name)
        for part, flags in (("plugins", ADAPTATION), ("untrained", UNTRAINED)):
            self.call(folder / part, f"{flags} --student_model {source}", "result.json")
        if name not in _NOT_ROUNDED:
            rounded = folder / "int8" / "model"
            command = f"-m utils.quantize --model {folder / 'plugins'} --output {rounded}"
            self.runner.run(folder / "int8", command, "model/config.json")
        for part, model in self.models(name).items():
            self.evaluate(folder / part, model, "evaluation", "--no_costs")

    def models(self, name: str) -> dict[str, Path]:
        """What is measured of a student: with its plugins, with untrained ones, and the first with int8 weights."""
        folder = self.folder(name)
        plugins = {part: folder / part / "best" for part in ("plugins", "untrained")}
        return plugins if name in _NOT_ROUNDED else plugins | {"int8": folder / "int8" / "model"}

    def costs(self, name: str) -> None:
        """MACs and latency at every ratio."""
        for part, model in self.models(name).items():
            if model.is_dir():
                self.evaluate(self.folder(name) / part, model, "costs", "")

    def evaluate(self, folder: Path, model: Path, name: str, flags: str) -> None:
        """Metrics at every ratio, of the model as it reloads."""
        self.call(folder / name, f"--do_eval {flags} --student_model {model}", "evaluation.json")

    def call(self, folder: Path, arguments: str, done: str) -> None:
        """A call of `task_distill.py`."""
        common = f"--max_seq_length {LENGTH[TASK]} --keep_checkpoints 1 --seed {self.seed}"
        place = f"--task_name {TASK} --data_dir {self.data} {common} --output_dir {folder}"
        self.runner.run(folder, f"task_distill.py {arguments} {place}", done)


class Point(NamedTuple):
    """A stack at one ratio: its metric, and its costs where they were measured."""

    name: str
    part: str
    ratio: str
    value: float
    costs: Mapping[str, Any]


def points(study: Study) -> Iterator[Point]:
    """Every student, part and ratio that is there."""
    for name in NAMES:
        for part in PARTS:
            folder = study.folder(name) / part
            found = read_result(folder / "evaluation" / "evaluation.json") or {}
            measured = read_result(folder / "costs" / "evaluation.json") or {}
            for ratio, values in found.get("ratios", {}).items():
                if part != "untrained" or ratio != "1":  # without plugins it is the student itself
                    costs = measured.get("ratios", {}).get(ratio, {})
                    yield Point(name, part, ratio, values["metrics"][METRIC], costs)


def row(point: Point, reference: float) -> str:
    """A line of the table; `reference` is the dense model's metric."""
    costs = point.costs
    macs = f"{costs['macs'] / 1e6:.0f} M" if "macs" in costs else ""
    latency = f"{costs['latency_ms']:.1f} ms" if "latency_ms" in costs else ""
    params = f"{costs['num_params']:,}" if "num_params" in costs else ""
    metric = f"{point.value:.3f} | {point.value / reference:.1%}"
    return f"| {point.name}{PARTS[point.part]} | {point.ratio} | {metric} | {params} | {macs} | {latency} |"


def draw(found: Sequence[Point], file: Path) -> None:
    """Accuracy against multiply-accumulates: a line over the ratios for each student."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for part, style in (("plugins", "o-"), ("untrained", "x:")):
        for number, name in enumerate(NAMES):
            line = [p for p in found if p.name == name and p.ratio != "1" and p.part == part and "macs" in p.costs]
            line = [p for p in found if p.name == name and p.ratio == "1" and p.part == "plugins" and p.costs] + line
            if len(line) > 1:
                macs = [p.costs["macs"] / 1e6 for p in line]
                axes.plot(macs, [p.value for p in line], style, color=f"C{number}", label=f"{name}{PARTS[part]}")
                for x, p in zip(macs, line, strict=True):
                    if part == "plugins":
                        axes.annotate(f"k = {p.ratio}", (x, p.value), (4, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("multiply-accumulates per example, millions")
    axes.set_ylabel("accuracy, SST-2 development set")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    with atomic_file(file) as made:
        figure.savefig(made, dpi=130, format="png")


def write_page(study: Study, page: Path) -> None:
    """The measured part of the results page."""
    head = "| student | k | accuracy | retention | parameters, all ratios | MACs / example | latency p50, 8 x 128 |"
    calls = commands_block(
        study.runner,
        "Commands",
        {str(study.data): "GLUE_DIR"},
        lambda call: "/costs " not in call and "/evaluation " not in call,
    )
    found = list(points(study))
    if not found:
        return
    reference = found[0].value
    table = [head, "|---|---|---|---|---|---|---|", *(row(point, reference) for point in found)]
    write_measured(page, [*table, "", *calls], "composition")
    draw(found, page.with_suffix(".png"))


def main() -> None:
    """Command line."""
    parser = study_parser("composition", str(__doc__), summary=False)
    parser.add_argument(
        "--data_dir", dest="data", type=Path, required=True, reads=PLACE, help="folder with GLUE's TSV folders (SST-2)"
    )
    parser.add_argument(
        "--sources",
        type=Path,
        reads=PLACE,
        default=Path("outputs/results"),
        help="folder of the studies (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, least=0, default=1, help="default: 1")
    add_rows_flag(parser, NAMES)
    given = parser.parse_args()
    study = Study(given.data, given.sources, Runner(given.output, given.threads), given.seed)
    for name in [] if given.report else [NAMES[number] for number in given.rows]:
        (study.costs if given.costs else study.run)(name)
    write_page(study, given.page)
    print(f"made: {given.page}")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv, goes_on=())
