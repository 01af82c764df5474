"""The point of a compressed model that keeps a budget on this machine (docs/budget.md).

python -m utils.plan --help
python -m utils.plan --model checkpoints/minidisc/tiny/sst2/sparsification --budget "latency_ms<=8" --batch 8
python -m utils.plan --model RUN RUN RUN --budget "macs<=0.5x,params<=20M" --commit outputs/chosen
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.plan.arguments import parse

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse)  # before the libraries load

import torch

from dataset import Task, get_task
from metric.errors import MetricError
from utils.arguments.spellings import flag_named
from utils.engine import Runtime
from utils.engine.precision import choose_precision
from utils.errors import UserError, run_as_script
from utils.hints import next_lines
from utils.lock import locked
from utils.outputs import guard
from utils.plan.budget import Limit, parse_budget
from utils.plan.choose import Candidate, choose, pareto_front
from utils.plan.commit import check_target, commit, how_to_use
from utils.plan.evaluate import evaluate
from utils.plan.load import Opened, open_points
from utils.plan.measure import Shape, measure
from utils.plan.offers import (
    about_sizes,
    after_choice,
    after_commit,
    distillation_to,
    origin_of,
    teacher_of,
    ways_to_sizes,
)
from utils.plan.point import Point
from utils.plan.points import Wanted, find_points
from utils.plan.recorded import unsaved_scales
from utils.plan.show import Plan, as_json, as_text, verdict
from utils.plan.table import key_of, place_of, read_table, write_table
from utils.writing import write_json

#: What a model is of which an axis has several points.
_NEEDED = {
    "sparsity": "is sparsified last",
    "rank": "is a BERT whose last edit is a decomposition",
    "layers": "is without any edit but dropped layers",
    "ratio": "has plugins",
}
#: Exit code where no point fits.
NONE_FITS = 1


def main(arguments: Sequence[str] | None = None) -> Plan:
    """Find the points, measure, choose, and write where asked."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = parse(words)
    guard("utils.plan", given)
    limits, device = parse_budget(given.budget), _device(given)
    _check(given, limits, device)
    wanted = Wanted(given.axis, given.grid, given.backbone, given.task)
    points = find_points(given.model, wanted, given.whole)
    _check_used(given, points, words)
    task = _task(given, points)
    work = _Work(points, device, task)
    choice = choose_precision(given.precision, device)
    _say("\n".join(choice.lines))
    given.precision = choice.precision
    if task is not None:
        runtime = Runtime(given.precision, seed=1, cpu=device.type == "cpu")
        _say(f"evaluating {len(points)} points on the development rows of {task.name}")
        points = evaluate(work.opened(), task, given.data, given.length, given.batch, runtime)
    _check_comparable(points)
    plan = _plan(given, limits, points, work)
    plan = replace(plan, key={**plan.key, **choice.fields})
    _tell(given, plan, words)
    if plan.choice is None:
        raise SystemExit(NONE_FITS)
    if given.commit is not None:
        _commit(given, plan, work, words)
    return plan


@dataclass
class _Work:
    """The models, loaded when they are first needed: a table in the cache needs none."""

    points: Sequence[Point]
    device: torch.device
    task: Task | None
    _opened: list[Opened] | None = None

    def opened(self) -> list[Opened]:
        if self._opened is None:
            self._opened = open_points(self.points, self.device, self.task)
        return self._opened


def _plan(given: argparse.Namespace, limits: Sequence[Limit], points: Sequence[Point], work: _Work) -> Plan:
    whole = next((point.name for point in points if point.is_whole), None)
    if whole is None:
        for limit in limits:
            limit.bound(None, teacher_of(points))  # what would be refused behind all measurements
    shape = Shape(given.batch, given.length, given.repeats, given.precision)
    key = key_of(points, shape, work.device)
    file = place_of(key, given.cost_table)
    rows = None if given.remeasure else read_table(file, key)
    if rows is None:
        _say(f"measuring {len(points)} points in turns: {given.batch} x {given.length} tokens, {given.repeats} times")
        rows = {p.name: row for p, row in zip(points, measure(work.opened(), shape, work.device), strict=True)}
        write_table(file, key, rows)
        _say(f"made: {file}")
    candidates = [Candidate(p.name, rows[p.name], p.metric.value if p.metric else None) for p in points]
    bounds = {limit.quantity: limit.bound(None if whole is None else rows[whole]) for limit in limits}
    front = [one.name for one in pareto_front(candidates, list(bounds))]
    return Plan(given.budget, points, candidates, whole, bounds, front, choose(candidates, bounds), file, key)


def _tell(given: argparse.Namespace, plan: Plan, words: Sequence[str]) -> None:
    print("\n".join(["", as_text(plan), *_unsaved(given), "", verdict(plan)]), flush=True)
    if given.json is not None:
        write_json(given.json, as_json(plan))
        _say(f"made: {given.json}")
    offers = _offers(given, plan.points, words)
    if plan.choice is not None and given.commit is None and not offers:
        point = plan.point
        offers = [next_lines(after_choice(point, origin_of(point, given.task, given.data), words))]
    if offers:
        _say("\n".join(offers))


def _unsaved(given: argparse.Namespace) -> list[str]:
    """What schedules tried without keeping a student, and how one is made."""
    lines = []
    for model in given.model:
        for found in unsaved_scales(Path(model)):
            advice = distillation_to(Path(model), found.scale)
            lines += [f"{model}: {found.text}", *([f"to distil one: {advice}"] if advice else [])]
    return lines


def _offers(given: argparse.Namespace, points: Sequence[Point], words: Sequence[str]) -> list[str]:
    """How the plain models among the points get sizes; nothing where the plan has some to choose from."""
    if len(points) > len({point.source for point in points if point.is_saved}):
        return []
    lines = []
    for point in points:
        origin = origin_of(point, given.task, given.data)
        if ways := ways_to_sizes(point, origin, words, given.axis):
            lines += [about_sizes(point, origin, ways), next_lines(list(ways.values()))]
    return lines


def _commit(given: argparse.Namespace, plan: Plan, work: _Work, words: Sequence[str]) -> None:
    point, target = plan.point, given.commit
    opened = open_points([point], torch.device("cpu"))[0]
    values: dict[str, Any] = as_json(plan) | {"command": list(words)}
    with locked(target):
        check_target(target, given.overwrite)  # once more, as another call may have been faster
        commit(opened, target, values)
    _say(f"made: {target}; {how_to_use(point, target)}")
    _say(next_lines(after_commit(point, origin_of(point, given.task, given.data), target)))


# --- checks ----------------------------------------------------------------------------------------------------------


def _check(given: argparse.Namespace, limits: Sequence[Limit], device: torch.device) -> None:
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    if device.type == "cpu" and any(limit.quantity == "memory_bytes" for limit in limits):
        raise UserError("--budget memory_bytes: measured on a GPU only, where one model's memory can be told apart.")
    if given.commit is not None:
        check_target(given.commit, given.overwrite)
    elif given.overwrite:
        raise UserError("--overwrite is for --commit, which is not given.")


def _check_used(given: argparse.Namespace, points: Sequence[Point], words: Sequence[str]) -> None:
    """Refuse a flag that nothing asks for."""
    sources = [point.source for point in points]
    wanted = {
        "axis": (any(point.axis == given.axis for point in points), f"no --model {_NEEDED.get(given.axis)}"),
        "grid": (any(point.axis not in ("", "ratio") for point in points), "no --model can be cut"),
        "backbone": (any(source.plugins for source in sources), "no --model is plugins without their backbone"),
        "task": (given.data is not None or any(source.plugin_task for source in sources), "--data_dir is not given"),
    }
    for name, (is_used, reason) in wanted.items():
        if getattr(given, name) is not None and not is_used:
            if name == "axis" and _offers(given, points, words):
                continue  # what the models lack for it is offered below the table
            raise UserError(f"{flag_named(name)} {getattr(given, name)} has no effect: {reason}.")


def _device(given: argparse.Namespace) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if given.device == "cuda" and not has_gpu:
        raise UserError("--device cuda: torch finds no GPU; python -m utils.doctor says more.")
    return torch.device(given.device or ("cuda" if has_gpu else "cpu"))


def _task(given: argparse.Namespace, points: Sequence[Point]) -> Task | None:
    """What to evaluate, if anything."""
    if given.data is None:
        return None
    names = [given.task] if given.task else sorted({point.source.task for point in points if point.source.task})
    if len(names) != 1:
        found = f"the runs are of {', '.join(names)}" if names else "no run says which"
        raise UserError(f"--data_dir {given.data}: of which task? Name it with --task_name ({found}).")
    return get_task(names[0])


def _check_comparable(points: Sequence[Point]) -> None:
    """Refuse to compare numbers of different metrics or tasks."""
    kinds = {(p.metric.name, p.metric.task): p.name for p in points if p.metric and p.metric.task}
    if len(kinds) > 1:
        found = "; ".join(f"{name}: {metric} of {task}" for (metric, task), name in kinds.items())
        raise MetricError(
            f"the points' metrics cannot be compared ({found}): give models of one task, or --task_name and --data_dir"
        )


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
