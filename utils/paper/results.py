"""What a grid has reached, read from its runs' folders."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.studies.runner import spread

if TYPE_CHECKING:
    from utils.report.reading import Measured

HEAD = ("task", "model", "metric", "dense", "ours", "kept", "n")


#: A model that was read: name and value of its metric, and what else was measured.
Found = tuple[str, float, "Measured"]


class Reached(NamedTuple):
    """A compressed model beside its dense one, of one task and seed."""

    task: str
    scale: str
    seed: int
    metric: str
    dense: float
    ours: float
    dense_model: Measured
    model: Measured


def read_model(folder: Path, ratio: int | None = None) -> Found | None:
    """Metric, its value and the costs of what a folder's run made; None if it is not there (yet).

    Args:
        ratio: of the plugins, where there are several.
    """
    from utils.report.reading import is_run, metric_of, read_run  # which takes the libraries with it

    if not is_run(folder):
        return None
    run = read_run(folder)
    for model in run.models:
        metric = metric_of(run, model)
        if model.ratio == ratio and metric in model.metrics:
            return metric, model.metrics[metric], model
    return None


def pair(task: str, scale: str, seed: int, dense: Found | None, ours: Found | None) -> Iterator[Reached]:
    """One, if both models are there."""
    if dense is not None and ours is not None:
        yield Reached(task, scale, seed, ours[0], dense[1], ours[1], dense[2], ours[2])


def table(found: Sequence[Reached]) -> list[tuple[str, ...]]:
    """A line per task and model, over seeds, in the order of `HEAD`."""
    lines: list[tuple[str, ...]] = []
    for task, scale in dict.fromkeys((one.task, one.scale) for one in found):
        group = [one for one in found if (one.task, one.scale) == (task, scale)]
        kept = statistics.mean(one.ours / one.dense for one in group) if all(one.dense for one in group) else None
        cells = (
            task,
            scale,
            group[0].metric,
            spread([one.dense for one in group]),
            spread([one.ours for one in group]),
        )
        lines.append((*cells, "not measured" if kept is None else f"{kept:.1%}", str(len(group))))
    return lines


def over(found: Sequence[Reached], scale: str, value: Callable[[Reached], float | None]) -> list[float]:
    """A number of every model of one scale, where it was measured."""
    numbers = [value(one) for one in found if one.scale == scale]
    return [number for number in numbers if number is not None]


def times(dense: float | None, ours: float | None) -> float | None:
    """How often the second goes into the first."""
    return dense / ours if dense is not None and ours else None


def kept(one: Reached) -> float | None:
    """Share of the dense model's metric."""
    return one.ours / one.dense if one.dense else None
