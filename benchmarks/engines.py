"""The same trainings under each engine that this machine has: loss curves beside each other, and time per step.

python -m benchmarks.engines --page docs/results/engines.md --plot docs/results/engines.png

Runs train_t5.py on the embedded default, which is made on the spot: fine-tuning of all weights, and of plugins alone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from benchmarks.arguments import parse_engines

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse_engines)  # before the libraries load

import torch

from utils.embedded.build import build, default_paths
from utils.engine.names import EngineName
from utils.engine.precision import choose_precision
from utils.errors import UserError, run_as_script
from utils.installation import load_bmtrain
from utils.measured import environment
from utils.pages import write_measured
from utils.writing import atomic_file

#: What is trained, and the flags that say so.
TRAININGS: Mapping[str, str] = {
    "all weights": "--distil no",
    "plugins, k = 4": "--distil hidden --mux_num 4 --residual_scale 1",
}
#: The first steps warm up.
_WARMUP = 5
#: Step of the curves of which the table shows every value.
_SHOWN = 6


@dataclass(frozen=True)
class Curve:
    """One training under one engine: per step the loss, and the seconds that it took (median)."""

    engine: str
    training: str
    losses: Sequence[float]
    step_ms: float


def command_of(engine: str, training: str, given: argparse.Namespace, folder: Path) -> list[str]:
    """The words behind `python`."""
    paths = default_paths("tiny")
    words = (
        f"train_t5.py --task_name sst2 --data_dir {paths.data / 'glue'} --model_config {paths.backbone} "
        f"{TRAININGS[training]} --engine {engine} --precision {given.precision} "
        f"--train_batch_size {given.batch_size // given.processes} --max_seq_length 64 --learning_rate 1e-3 "
        f"--clip_grad 1 --warmup_step 10 --max_steps {given.steps} --num_train_epochs 100 "
        f"--valid_step {given.steps} --inspect_step 1 --seed 1 --overwrite --output_dir {folder}"
    )
    launcher = f"-m torch.distributed.run --standalone --nproc_per_node {given.processes} "
    return shlex.split((launcher if given.processes > 1 else "") + words)


def available(processes: int) -> tuple[list[str], list[str]]:
    """Engines that can run here, and one line for each that cannot."""
    engines, reasons = [], []
    for engine in get_args(EngineName):
        if engine == "fsdp" and processes == 1:
            reasons.append("fsdp: one process needs no division; use --processes 2.")
            continue
        try:
            if engine == "bmtrain":
                load_bmtrain()
            engines.append(engine)
        except UserError as error:
            reasons.append(f"{engine}: {error}")
    return engines, reasons


def run(engine: str, training: str, given: argparse.Namespace) -> Curve:
    """Train, and read what was logged."""
    folder = given.output / f"{engine}-{training.split()[0].strip(',')}"
    words = command_of(engine, training, given, folder)
    print(f"+ python {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return curve_of(engine, training, folder)


def curve_of(engine: str, training: str, folder: Path) -> Curve:
    """From metrics.jsonl of a run that logged every step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if row["split"] == "train"]
    tokens = json.loads((folder / "result.json").read_text(encoding="utf-8"))["tokens"] / len(steps)
    times = [1000 * tokens / row["tokens_per_second"] for row in steps]
    return Curve(engine, training, [row["loss"] for row in steps], statistics.median(times[_WARMUP:] or times))


def page_lines(curves: Sequence[Curve], reasons: Sequence[str], given: argparse.Namespace) -> list[str]:
    """The page's measured block."""
    last = len(curves[0].losses)
    steps = sorted({1 + round(i * (last - 1) / (_SHOWN - 1)) for i in range(_SHOWN)})
    lines = [
        "| trained | engine | " + " | ".join(f"loss, step {n}" for n in steps) + " | largest difference | ms/step |",
        "|---|---|" + "---|" * (len(steps) + 2),
    ]
    for training in TRAININGS:
        group = [curve for curve in curves if curve.training == training]
        for curve in group:
            losses = " | ".join(f"{curve.losses[n - 1]:.4f}" for n in steps)
            gap = "" if curve is group[0] else f"{difference(curve, group[0]):.1e}"
            lines.append(f"| {training} | {curve.engine} | {losses} | {gap} | {curve.step_ms:.1f} |")
    versions: Mapping[str, Any] = environment()["versions"]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    note = (
        f"{given.processes} process(es) on {device}, {given.precision}, {given.batch_size} rows per step, torch "
        f"{versions['torch']}; the largest difference of a step's loss is relative to {curves[0].engine}'s."
    )
    return [*lines, "", note, *(f"\nNot run: {reason}" for reason in reasons)]


def difference(curve: Curve, reference: Curve) -> float:
    """Largest relative difference of a step's loss."""
    pairs = zip(curve.losses, reference.losses, strict=True)
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Loss by step, a panel per training."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(TRAININGS), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    styles = ("-", "--", ":")
    for place, training in enumerate(TRAININGS):
        axes = figure.add_subplot(1, len(TRAININGS), place + 1)
        for style, curve in zip(styles, [c for c in curves if c.training == training], strict=False):
            axes.plot(range(1, len(curve.losses) + 1), curve.losses, style, label=curve.engine)
        axes.set_title(training)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.legend()
    with atomic_file(path) as file:
        figure.savefig(file, dpi=120)


def measure(given: argparse.Namespace) -> None:
    """Run everything and write what was asked for.

    Raises:
        UserError: an engine that was asked for cannot run here.
    """
    engines, reasons = available(given.processes)
    if given.engines:
        if missing := [reason for reason in reasons if reason.split(":")[0] in given.engines]:
            raise UserError(f"--engines {missing[0]}")
        engines = [engine for engine in engines if engine in given.engines]
    choice = choose_precision(given.precision, "cuda" if torch.cuda.is_available() else "cpu")
    print("\n".join(choice.lines))
    given.precision = choice.precision
    build("tiny", default_paths("tiny"))
    curves = [run(engine, training, given) for training in TRAININGS for engine in engines]
    lines = page_lines(curves, reasons, given)
    print("\n".join(lines))
    if given.page is not None:
        write_measured(given.page, lines)
        print(f"made: {given.page}")
    if given.plot is not None:
        draw(curves, given.plot)
        print(f"made: {given.plot}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    given = parse_engines(arguments)
    run_as_script(lambda: measure(given), given.debug)


if __name__ == "__main__":
    main()
