"""Variator on real data: the whole pipeline over seeds, its controls, and the table in docs/results/variator.md.

    python -m utils.studies.variator --data_dir GLUE_DIR --corpus CORPUS_DIR --backbone MODEL_DIR --threads 2

Per seed: pre-train the plugins on text; per task: fine-tune, adapt the plugins (from pre-trained ones and from
nothing), evaluate. Every stage is a call of `train_t5.py`; one that has its result.json is not run again, and
one that was interrupted is resumed. `--report` only writes the page from what is there.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.arguments import MODEL, PLACE
from utils.errors import run_as_script
from utils.outputs import check_file, json_with
from utils.pages import write_measured
from utils.studies.runner import Runner, commands_block, spread, study_parser
from utils.studies.summary import SummaryRow, write_summary
from utils.writing import write_json

RATIOS = (2, 4, 8)
#: Flags of the stages by task; `wiki` is the plugins' pre-training. Chosen on seed 1.
FINETUNE = {
    "sst2": "--learning_rate 3e-4 --warmup_step 50 --clip_grad 1 --train_batch_size 64 --num_train_epochs 2 "
    "--valid_step 300",
    "mrpc": "--learning_rate 3e-4 --warmup_step 50 --clip_grad 1 --train_batch_size 32 --num_train_epochs 4",
}
ADAPT = {
    "sst2": "--learning_rate 1e-3 --warmup_step 50 --train_batch_size 64 --num_train_epochs 1 --max_steps 300 "
    "--valid_step 100",
    "mrpc": "--learning_rate 1e-3 --warmup_step 20 --train_batch_size 32 --num_train_epochs 2",
}
PRETRAIN = (
    "--learning_rate 1e-3 --warmup_step 20 --train_batch_size 32 --num_train_epochs 20 --max_steps 150 --valid_step 150"
)
LENGTH = {"sst2": 96, "mrpc": 128, "wiki": 128}
#: Of the README's rows.
_SUMMARY_RATIOS = (4, 8)
CONTROLS = ("untrained", "pretrained only", "adapted only", "adapted")


@dataclass(frozen=True)
class Study:
    """Where everything is and how a stage is run."""

    data: str
    corpus: str
    backbone: str
    runner: Runner
    scale: float

    @property
    def output(self) -> Path:
        """The study's folder."""
        return self.runner.output

    def call(self, output: Path, arguments: str) -> None:
        """One stage."""
        common = f"--schedule linear --inspect_step 50 --keep_checkpoints 1 --output_dir {output}"
        self.runner.run(output, f"train_t5.py {arguments} {common}")

    def wiki(self, seed: int) -> Path:
        """Plugins pre-trained on text."""
        output = self.output / f"wiki-{seed}"
        ratios = " ".join(map(str, RATIOS))
        self.call(
            output,
            f"--task_name wiki --data_dir {self.corpus} --model_config {self.backbone} --distil hidden "
            f"--mux_num {ratios} --residual_scale {self.scale:g} "
            f"--max_seq_length {LENGTH['wiki']} --seed {seed} {PRETRAIN}",
        )
        return output / "best"

    def task(self, dataset: str, seed: int) -> None:
        """Fine-tune, adapt twice, evaluate four times."""
        ratios = " ".join(map(str, RATIOS))
        root = self.output / f"{dataset}-{seed}"
        base = (
            f"--task_name {dataset} --data_dir {self.data} --model_config {self.backbone} "
            f"--max_seq_length {LENGTH[dataset]} --seed {seed}"
        )
        self.call(root / "finetune", f"{base} {FINETUNE[dataset]}")
        best = self.best(dataset, seed)
        tuned = f"{base} --checkpoint {best}"
        pretrained = self.wiki(seed)
        untrained = f"none --residual_scale {self.scale:g}"
        for name, start in (("adapted", pretrained), ("adapted-only", untrained)):
            self.call(
                root / name,
                f"{tuned} --distil hidden --mux_num {ratios} --plugin_path {start} {ADAPT[dataset]}",
            )
        plugins = {
            "untrained": untrained,
            "pretrained-only": pretrained,
            "adapted-only": root / "adapted-only" / "best",
            "adapted": root / "adapted" / "best",
        }
        for name, path in plugins.items():
            valid = f"{tuned} --mode valid --no_costs --mux_num {ratios} --plugin_path {path}"
            self.call(root / f"valid-{name}", valid)

    def best(self, dataset: str, seed: int) -> Path:
        """The fine-tuned model that the plugins are adapted to."""
        return self.output / f"{dataset}-{seed}" / "finetune" / "best"

    def costs(self, dataset: str, seed: int) -> None:
        """MACs, latency and memory of one seed's adapted plugins, on a machine that does nothing else."""
        root = self.output / f"{dataset}-{seed}"
        self.call(
            root / "costs",
            f"--task_name {dataset} --data_dir {self.data} --model_config {self.backbone} --mode valid "
            f"--max_seq_length {LENGTH[dataset]} --seed {seed} --mux_num {' '.join(map(str, RATIOS))} "
            f"--checkpoint {self.best(dataset, seed)} --plugin_path {root / 'adapted' / 'best'}",
        )


#: Rows by control and ratio, one per seed.
Found = dict[str, dict[int, list[dict[str, Any]]]]


def collect(output: Path, dataset: str, seeds: list[int]) -> Found:
    """Rows of `result.json` by control and ratio, one per seed that is there."""
    found: Found = {}
    for control in CONTROLS:
        name = control.replace(" ", "-")
        for seed in seeds:
            path = output / f"{dataset}-{seed}" / f"valid-{name}" / "result.json"
            if path.is_file():
                rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
                for row in rows:
                    found.setdefault(control, {}).setdefault(row["ratio"], []).append({**row, "dense": rows[0]})
    return found


def retention(rows: list[dict[str, Any]], metric: str) -> float:
    """Mean over runs of the metric over that of the same run's dense model."""
    return statistics.mean(row[metric] / row["dense"][metric] for row in rows)


def table(found: Found, costs: dict[int, dict[str, Any]], metric: str) -> list[str]:
    """Markdown rows: metric (mean ± standard deviation over seeds), retention, costs."""
    baseline = [row[metric] for row in found["adapted"][1]]
    shape = f"{costs[1]['latency_batch']} x {costs[1]['latency_length']}" if costs else "not measured"
    lines = [
        f"| model | {metric} | retention | MACs / example | latency p50, {shape} | plugin parameters |",
        "|---|---|---|---|---|---|",
        f"| dense | {spread(baseline)} | 1 | {_cost_cells(costs.get(1))} |",
    ]
    for ratio in RATIOS:
        for control in reversed(CONTROLS):
            rows = found.get(control, {}).get(ratio, [])
            if not rows:
                continue
            values = [row[metric] for row in rows]
            kept = retention(rows, metric)
            cells = _cost_cells(costs.get(ratio) if control == "adapted" else None)
            lines.append(f"| k = {ratio}, {control} | {spread(values)} | {kept:.1%} | {cells} |")
    return lines


def _cost_cells(row: dict[str, Any] | None) -> str:
    if row is None:
        return "| |"
    plugin = f"{row['plugin_params']:,} ({row['plugin_share']:.1%})" if row["ratio"] > 1 else "–"
    return f"{row['macs'] / 1e6:.2f} M | {row['latency_ms']:.1f} ms | {plugin}"


def read_costs(output: Path, dataset: str, seeds: list[int]) -> dict[int, dict[str, Any]]:
    """The cost rows by ratio, of the first seed that has them."""
    for seed in seeds:
        path = output / f"{dataset}-{seed}" / "costs" / "result.json"
        if path.is_file():
            return {row["ratio"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}
    return {}


def write_page(study: Study, datasets: list[str], seeds: list[int], page: Path) -> None:
    """The measured part of the results page, between its two markers."""
    parts: list[str] = []
    for dataset in datasets:
        found = collect(study.output, dataset, seeds)
        if "adapted" not in found:
            continue
        count = len(found["adapted"][1])
        for metric in ["accuracy"] + (["f1"] if dataset == "mrpc" else []):
            costs = read_costs(study.output, dataset, seeds)
            parts += [f"### {dataset.upper()}, {metric}, {count} seed(s)", "", *table(found, costs, metric), ""]
    first = f"--seed {seeds[0]} "
    commands = commands_block(
        study.runner, "Commands (first seed)", {study.data: "GLUE_DIR"}, lambda call: first in call
    )
    write_measured(page, [*parts, *commands], "variator")


def summary_of(study: Study, datasets: list[str], seeds: list[int]) -> list[SummaryRow]:
    """The README's few rows: adapted plugins beside the dense model and, as a control, plugins never trained."""
    rows = []
    for dataset in datasets:
        found = collect(study.output, dataset, seeds)
        for ratio in _SUMMARY_RATIOS if "adapted" in found else ():
            dense, value = (statistics.mean(row["accuracy"] for row in found["adapted"][k]) for k in (1, ratio))
            control = found.get("untrained", {}).get(ratio)
            others = {"untrained plugins": statistics.mean(row["accuracy"] for row in control)} if control else {}
            count, kept = len(found["adapted"][1]), retention(found["adapted"][ratio], "accuracy")
            rows.append(SummaryRow(f"k = {ratio}", dataset, "accuracy", count, dense, value, kept, others))
    return rows


def write_rows(study: Study, datasets: list[str], seeds: list[int], path: Path) -> None:
    """Every row of every control and seed as JSON, with what was measured of its costs."""
    rows = [
        {"dataset": dataset, "control": control, **row}
        for dataset in datasets
        for control, per_ratio in collect(study.output, dataset, seeds).items()
        for found in per_ratio.values()
        for row in found
    ]
    write_json(path, rows)


def main() -> None:
    """Command line."""
    parser = study_parser("variator", str(__doc__))
    parser.add_argument(
        "--data_dir", dest="data", required=True, reads=PLACE, help="folder with GLUE TSV folders (SST-2, MRPC)"
    )
    parser.add_argument("--corpus", required=True, reads=PLACE, help="folder of the pre-training corpus")
    parser.add_argument("--backbone", required=True, reads=MODEL, help="pre-trained T5 directory")
    parser.add_argument("--datasets", nargs="+", default=["sst2", "mrpc"], help="default: sst2 mrpc")
    parser.add_argument("--seeds", nargs="+", type=int, least=0, default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--residual_scale", type=float, default=10.0, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    given = parser.parse_args()
    if given.json is not None:
        check_file("--json", given.json, json_with("dataset", "control"))
    study = Study(given.data, given.corpus, given.backbone, Runner(given.output, given.threads), given.residual_scale)
    if given.costs:
        for dataset in given.datasets:
            study.costs(dataset, given.seeds[0])
    elif not given.report:
        for seed in given.seeds:
            for dataset in given.datasets:
                study.task(dataset, seed)
    write_page(study, given.datasets, given.seeds, given.page)
    write_summary(given.readme, "Variator", summary_of(study, given.datasets, given.seeds))
    if given.json is not None:
        write_rows(study, given.datasets, given.seeds, given.json)
    print(f"made: {given.page}")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv, goes_on=())
