"""The server under load on real data: its model, the load in steps, other servers beside it; docs/results/serving.md.

    python -m utils.studies.serving --data_dir GLUE_DIR --backbone BERT_DIR --threads 1

Every stage is a call of a script or a benchmark; one that has its result is not run again. The two measurements want a
machine that does nothing else. `--report` only writes the page from what is there.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.serve_peers import tables
from benchmarks.serve_report import table, write_plot
from utils.arguments import MODEL, PLACE
from utils.errors import UserError, run_as_script
from utils.pages import write_measured
from utils.studies.runner import Runner, commands_block, read_result, study_parser
from utils.studies.tucker import LENGTH, TEACHER

TASK = "sst2"
PLUGINS = "--mode adapt --mux_num 2 4 8 --max_steps 300 --valid_step 100 --learning_rate 1e-3"


def run(runner: Runner, data: Path, backbone: str, seed: int) -> None:
    """The model, its plugins, and both measurements."""
    common = f"--task_name {TASK} --data_dir {data} --max_seq_length {LENGTH[TASK]} --keep_checkpoints 1 --seed {seed}"
    teacher, plugins = runner.output / "teacher", runner.output / "plugins"
    fine_tuning = f"--mode finetune --teacher_model {backbone} {TEACHER[TASK]} --no_costs"
    runner.run(teacher, f"task_distill.py {fine_tuning} {common} --output_dir {teacher}")
    adaptation = f"{PLUGINS} --student_model {teacher / 'best'}"
    runner.run(plugins, f"task_distill.py {adaptation} {common} --output_dir {plugins}")
    measured = f"--task_name {TASK} --data_dir {data} --threads {runner.threads} --seed {seed}"
    others = f"--peers_dir {runner.output / 'environments'}"
    for name, model, flags in (("load", plugins, ""), ("peers", teacher, others)):
        file = _measured(runner, name)
        command = f"-m benchmarks.serve_{name} --model {model / 'best'} {flags} {measured} --json {file}"
        file.parent.mkdir(parents=True, exist_ok=True)
        runner.run(file.parent, command, file.name)


def _measured(runner: Runner, name: str) -> Path:
    return runner.output / "measured" / f"{name}.json"


def main() -> None:
    """Run what is missing, then write the page."""
    parser = study_parser("serving", str(__doc__), summary=False, costs=False)
    parser.add_argument(
        "--data_dir", dest="data", type=Path, required=True, reads=PLACE, help="folder of the GLUE data"
    )
    parser.add_argument("--backbone", reads=MODEL, help="directory of a pretrained BERT")
    parser.add_argument("--seed", type=int, least=0, default=1, help="of all stages (default: %(default)s)")
    given = parser.parse_args()
    runner = Runner(given.output, given.threads)
    if not given.report:
        if given.backbone is None:
            raise UserError("--backbone is needed, but for --report.")
        run(runner, given.data, given.backbone, given.seed)
    write_page(
        runner,
        given.page,
        {str(given.data): "GLUE_DIR", str(given.backbone): "BERT_DIR", str(given.output): "OUTPUT_DIR"},
    )


def write_page(runner: Runner, page: Path, placeholders: dict[str, str]) -> None:
    """Both tables and the calls that made them."""
    load, peers = (read_result(_measured(runner, name)) for name in ("load", "peers"))
    if load is not None:
        plot = page.with_suffix(".png")
        write_plot(load, plot)
        write_measured(page, [*table(load), "", f"![latency, ratio and load over time]({plot.name})"])
    if peers is not None:
        write_measured(page, tables(peers), "peers")
    write_measured(page, commands_block(runner, "Made by", placeholders, lambda call: True), "commands")
    print(f"made: {page}")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
