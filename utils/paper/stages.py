"""Stages of a grid: the calls of the entry scripts, and about how long they take here."""

from __future__ import annotations

import math
import shlex
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from metric.cost import latency_ms
from utils.arguments.spellings import flag_named
from utils.engine.precision import choose_precision
from utils.studies.runner import Runner

#: Forward passes of one row: a backward pass is worth about two.
FORWARD, TRAINED = 1 / 3, 1.0
#: The loss of a model on token ids.
Loss = Callable[[Any, torch.Tensor], torch.Tensor]
#: Rows of the timed step.
_TIMED_ROWS = 2
#: Steps that are run untimed, and those whose median counts: a single one can be several times too slow.
_WARMUP, _REPEATS = 2, 5
#: How the estimate comes about, for whoever reads it.
METHOD = (
    f"Estimate: a forward and backward pass of the backbone on {_TIMED_ROWS} rows of full length, the median of "
    f"{_REPEATS} timed here (on a CPU as if nothing else ran), times the rows of a stage; a teacher's forward pass "
    "counts a third of that, each sparsity of a sandwich once. Compressed models count as dense and "
    "short rows as long ones, so that it is rather too much; loading and evaluation are left out. With several GPUs, "
    "divide by their number."
)


class Work(NamedTuple):
    """What a stage trains.

    Attributes:
        rows: of all steps together; None where the data are not there to be counted.
        length: tokens of the longest row.
        passes: forward and backward passes of the backbone per row.
    """

    rows: int | None
    length: int
    passes: float = TRAINED


class Stage(NamedTuple):
    """One call of an entry script.

    Attributes:
        words: the script and its flags.
        done: the file in `folder` that says that it has ended.
        work: of its training; None if it only evaluates.
    """

    folder: Path
    words: Sequence[str]
    work: Work | None = None
    done: str = "result.json"


@dataclass(frozen=True)
class Request:
    """What to run a grid on.

    Attributes:
        text: the corpus of plugins, or the pre-generated text of general distillation.
        plugins: pre-trained plugins, instead of training them on `text`.
        changed: flags of training stages instead of the recipe's: epochs, training-step, batch-size, length.
    """

    data: str
    backbone: str
    output: Path
    tasks: Sequence[str]
    scales: Sequence[str]
    seeds: Sequence[int]
    text: str | None = None
    plugins: str | None = None
    changed: Mapping[str, Any] | None = None

    def settings(self, recipe: Mapping[str, Any], length_flag: str) -> dict[str, Any]:
        """The recipe of a training stage with what was asked for instead.

        Args:
            length_flag: the script's flag for the longest row.
        """
        changed = {name: value for name, value in (self.changed or {}).items() if value is not None}
        if "length" in changed:
            changed[length_flag] = changed.pop("length")
        return {**recipe, **changed}


def flags(settings: Mapping[str, Any]) -> list[str]:
    """`{"lr": 1e-3, "use_swap": True}` -> `--learning_rate 0.001 --use_swap`."""
    words: list[str] = []
    for name, value in settings.items():
        values = value if isinstance(value, list | tuple) else [value]
        flag = flag_named(name.replace("-", "_"))
        words += [flag] if value is True else [flag, *map(str, values)]
    return words


def rows_of(settings: Mapping[str, Any], rows: int | None) -> int | None:
    """Rows that a training sees: its epochs, or fewer if steps are limited."""
    batch, limit = int(settings["batch-size"]), settings.get("training-step")
    steps = math.inf if rows is None else int(settings["epochs"]) * math.ceil(rows / batch)
    steps = min(steps, math.inf if limit is None else int(limit))
    return None if steps == math.inf else int(steps) * batch


def is_done(stage: Stage) -> bool:
    """Whether it has ended."""
    return (stage.folder / stage.done).is_file()


def run(runner: Runner, stages: Sequence[Stage]) -> None:
    """Runs what is not done, resumes what was interrupted.

    Raises:
        UserError: a stage failed.
    """
    for number, stage in enumerate(stages, 1):
        if is_done(stage):
            print(f"skipped: {stage.folder} ({number} of {len(stages)}) is done", flush=True)
            continue
        print(f"stage {number} of {len(stages)}: {stage.folder}", flush=True)
        runner.run(stage.folder, shlex.join(stage.words), stage.done)


def plan(stages: Sequence[Stage], seconds_per_row: Callable[[int], float]) -> list[str]:
    """What `--dry_run` prints: every stage with its estimate, and their sum.

    Args:
        seconds_per_row: of training the backbone, by length.
    """
    lines, total, unknown = [], 0.0, 0
    for stage in stages:
        if is_done(stage):
            told = "done"
        elif stage.work is None:
            told = "an evaluation"
        elif stage.work.rows is None:
            told, unknown = "unknown: its data are not there", unknown + 1
        else:
            seconds = stage.work.rows * stage.work.passes * seconds_per_row(stage.work.length)
            told, total = f"about {duration(seconds)}", total + seconds
        lines += [f"{stage.folder}: {told}", f"  python {shlex.join(stage.words)}"]
    more = f", and {unknown} of unknown length" if unknown else ""
    return [*lines, f"{len(stages)} stages, about {duration(total)} on this machine{more}", METHOD]


def duration(seconds: float) -> str:
    """In the largest unit that fits."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def time_training(
    model: Any, step: Callable[[Any, torch.Tensor], torch.Tensor], threads: int
) -> Callable[[int], float]:
    """Seconds that a row of some length takes forward and backward on this machine, each length timed once.

    In the precision that `--precision auto` stands for.

    Args:
        step: the loss of a model on ids (rows, length).
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    known: dict[int, float] = {}
    in_bf16 = choose_precision("auto", device).precision == "bf16"

    def timed(length: int) -> float:
        if length not in known:
            ids = torch.ones((_TIMED_ROWS, length), dtype=torch.int64, device=device)

            def once() -> None:
                with torch.autocast(device, torch.bfloat16, enabled=in_bf16):
                    loss = step(model, ids)
                loss.backward()
                model.zero_grad()

            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                known[length] = _seconds(once, device, threads) / _TIMED_ROWS
            finally:
                torch.set_num_threads(before)
        return known[length]

    return timed


def _seconds(once: Callable[[], None], device: str, threads: int) -> float:
    """Median of several calls after untimed ones; on a CPU by processor time, which other programs lengthen little."""
    if device != "cpu":
        return latency_ms(once, warmup=_WARMUP, repeats=_REPEATS, device=device).p50_ms / 1e3
    times = []
    for _ in range(_WARMUP + _REPEATS):
        start = time.process_time()
        once()
        times.append(time.process_time() - start)
    return statistics.median(times[_WARMUP:]) / threads
