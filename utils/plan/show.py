"""A plan as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.weights import read_json
from utils.plan.choose import Candidate, Choice, fits
from utils.plan.point import Point

_HEADS = {
    "latency_ms": "latency",
    "macs": "MACs/example",
    "params": "params",
    "delta_bytes": "delta",
    "memory_bytes": "memory",
}


#: So many names are a number.
_MANY = 4


@dataclass(frozen=True)
class Plan:
    """All that was found out.

    Attributes:
        whole: the name of the point that `x` counts from, None if there is none.
        bounds: quantity -> the most that is allowed.
        front: names of the points that no other one dominates.
        table: the file with the costs.
    """

    budget: str
    points: Sequence[Point]
    candidates: Sequence[Candidate]
    whole: str | None
    bounds: Mapping[str, float]
    front: Sequence[str]
    choice: Choice | None
    table: Path
    key: Mapping[str, Any]

    @property
    def chosen(self) -> str | None:
        """The name of the chosen point."""
        return self.choice.candidate.name if self.choice else None

    @property
    def point(self) -> Point:
        """The chosen point, where there is one."""
        return next(point for point in self.points if point.name == self.chosen)


def as_text(plan: Plan) -> str:
    """The table and what has to be known of it."""
    quantities = [name for name in _HEADS if name in plan.candidates[0].costs]
    metric = next((point.metric.name for point in plan.points if point.metric), "metric")
    rows = [["", "point", metric, *(_HEADS[name] for name in quantities), "fits", "front"]]
    for one in plan.candidates:
        rows.append(
            [
                "->" if one.name == plan.chosen else "",
                one.name,
                "not measured" if one.metric is None else f"{one.metric:.4f}",
                *(_shown(name, one.costs[name]) for name in quantities),
                "yes" if fits(one, plan.bounds) else "no",
                "*" if one.name in plan.front else "",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(_placed(text, width, i) for i, (text, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([*(line.rstrip() for line in lines), "", *_notes(plan)])


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values; costs in the units of their names."""
    return {
        "budget": plan.budget,
        "bounds": dict(plan.bounds),
        "whole": plan.whole,
        "chosen": plan.chosen,
        "reason": plan.choice.reason if plan.choice else _closest(plan),
        "points": [_point_json(p, c, plan) for p, c in zip(plan.points, plan.candidates, strict=True)],
        "cost_table": str(plan.table),
        "measured_as": {name: value for name, value in plan.key.items() if name != "points"} | {"at": _moment(plan)},
    }


def _moment(plan: Plan) -> str:
    """When the costs were measured, which may have been in an earlier call."""
    return str(read_json(plan.table).get("measured", "")) if plan.table.is_file() else ""


def verdict(plan: Plan) -> str:
    """The choice in one sentence."""
    return (
        f"chosen: {plan.chosen}: {plan.choice.reason}."
        if plan.choice
        else f"none fits {plan.budget}: {_closest(plan)}."
    )


def _closest(plan: Plan) -> str:
    """The least of every limited quantity beside its bound."""
    parts = []
    for name, bound in plan.bounds.items():
        least = min(plan.candidates, key=lambda one: one.costs[name])
        parts.append(
            f"the least {name} is {_shown(name, least.costs[name])} ({least.name}), allowed {_shown(name, bound)}"
        )
    return ", ".join(parts)


def _notes(plan: Plan) -> list[str]:
    shape, points = plan.key, plan.points
    notes = [
        f"costs: {shape['batch']} x {shape['length']} tokens, {shape['precision']}, {shape['device']}, "
        f"{shape['threads']} thread(s), median of {shape['repeats']}; table: {plan.table}"
    ]
    if "macs" in plan.candidates[0].costs:
        notes.append(
            f"MACs/example: of {shape['length']} tokens, none of them padding; an evaluation counts real lengths"
        )
    if plan.whole is not None:
        notes.append(f"whole model (x counts from it): {plan.whole}")
    origins = dict.fromkeys(point.metric.origin for point in points if point.metric)
    if origins:
        notes.append("metric, on the development set: " + ", ".join(origins))
    unknown = [point.name for point in points if point.metric is None]
    if unknown:
        which = ", ".join(unknown) if len(unknown) < _MANY else f"{len(unknown)} of {len(points)} points"
        notes.append(f"metric not measured: {which} (--task_name and --data_dir measure it)")
    if plan.front:
        limited = ", ".join(plan.bounds)
        notes.append(f"front: no other point of known metric is at least as good and as cheap in {limited}")
    return notes


def _point_json(point: Point, candidate: Candidate, plan: Plan) -> dict[str, Any]:
    metric = point.metric
    return {
        "name": point.name,
        "model": str(point.source.directory),
        "plugins": str(point.source.plugins) if point.source.plugins else None,
        "setting": {point.axis: point.value} if point.axis else {},
        "step": point.step,
        "is_cut": point.is_cut,
        "task": point.source.task,
        "metric": None if metric is None else {"name": metric.name, "value": metric.value, "origin": metric.origin},
        "costs": dict(candidate.costs),
        "fits": fits(candidate, plan.bounds),
        "on_front": candidate.name in plan.front,
    }


def _placed(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column < 2 else text.rjust(width)


def _shown(name: str, value: float) -> str:
    if name == "latency_ms":
        return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"
    power = next((p for p in (9, 6, 3) if value >= 10**p), 0)
    unit = {9: " G", 6: " M", 3: " k", 0: " "}[power] + ("B" if name in ("delta_bytes", "memory_bytes") else "")
    return f"{value / 10**power:.{2 if power else 0}f}{unit}".rstrip()
