"""The smaller models that a saved one holds: fewer heads and neurons, components or layers; not trained since."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model import committed, sort_components
from model.backbone import BERT
from model.decomposition import DecompositionConfig, at_ranks, matrix_bank, ranks_at
from model.decomposition.embeddings import EmbeddingConfig
from model.pruning import LayerDropConfig, PruningConfig, with_layers
from model.weights import read_json
from notation import Axis, Step
from utils.errors import UserError
from utils.minidisc.arguments import ScheduleArguments, grid_of
from utils.minidisc.axes import STAGES
from utils.minidisc.stages import RESULT_FILE
from utils.plan.files import depth_in, edits_in, family_in
from utils.plan.point import Point


def cuts_of(saved: Point, run: Path, axis: Axis | None, grid: str | None) -> list[Point]:
    """`saved` as the largest model of an axis, and what can be cut of it; `saved` alone where nothing can be.

    Args:
        run: the folder with the run's files.
        axis: the one that the user asks for. By default that of a sparsified model, which is made to be cut.
        grid: the scales that the user asks for. By default those that the run counted, or all that schedules try.

    Raises:
        UserError: the grid is none of this axis, or asks for more layers than there are.
    """
    directory, wanted = saved.source.directory, axis or "sparsity"
    least = _largest(directory, wanted)
    if least is None or (axis is None and grid is None and least.scale):
        return [saved]
    steps = _steps(run, wanted, grid, least)
    if wanted == "layers" and (beyond := [step.text for step in steps if step.scale > least.scale]):
        raise UserError(f"--grid: {saved.source.label} has {least.scale} layers and cannot become {beyond[0]}.")
    largest = replace(saved, axis=wanted, value=least.scale)
    smaller = [step for step in steps if step.is_smaller_than(least) and not step.is_near(least)]
    # What was measured was measured as saved: nothing is known of a cut that nobody trained.
    rest = replace(largest, is_whole=False, metric=None, is_saved=False)
    return [largest, *(replace(rest, value=step.scale) for step in smaller)]


def cut(model: Any, point: Point) -> Any:
    """The smaller model that `point` is, with its real shapes; a decomposed `model` has its components sorted."""
    makers: dict[str, Callable[[], Any]] = {
        "sparsity": lambda: committed(model, point.value),
        "rank": lambda: _at_rank(model, point.value),
        "layers": lambda: with_layers(model, int(point.value)),
    }
    return makers[point.axis]()


def _at_rank(model: Any, gone: float) -> Any:
    sort_components(model)  # which of them matter is seen when they are sorted; a second time changes nothing
    return at_ranks(model, ranks_at(matrix_bank(model).ranks, gone))


def _largest(directory: Path, axis: Axis) -> Step | None:
    """A saved model as a step of the axis; None where nothing of it can be cut on this axis."""
    edits = edits_in(directory)
    last, kinds = edits[-1] if edits else None, {type(edit) for edit in edits}
    if axis == "sparsity" and isinstance(last, PruningConfig):
        return Step(axis, last.sparsity or 0.0)
    if axis == "rank" and DecompositionConfig in kinds and family_in(directory) == BERT.family:
        return Step(axis, 0.0) if isinstance(last, DecompositionConfig | EmbeddingConfig) else None
    if axis == "layers" and kinds <= {LayerDropConfig} and depth_in(directory):
        return Step(axis, depth_in(directory))
    return None


def _steps(run: Path, axis: Axis, grid: str | None, largest: Step) -> Sequence[Step]:
    """The given scales; else those that the run counted parameters at; else all that schedules try."""
    if grid is None and (stage := STAGES.get(axis)) is not None:
        for file in (run / RESULT_FILE, run / stage / RESULT_FILE):
            counted = read_json(file).get("num_params") if file.is_file() else None
            if grid is None and isinstance(counted, dict) and counted:
                grid = ",".join(counted)
    steps = grid_of(ScheduleArguments() if grid is None else ScheduleArguments(grid=grid), axis)
    return [Step(axis, count) for count in range(int(largest.scale), 0, -1)] if steps is None else steps
