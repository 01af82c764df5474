"""MiniDisc's grid: per task a teacher, its sparse order, and students by every schedule.

The assistants that MaxiDisc tries one by one are all sparsities from 50 % up to the student's; MiniDisc tries the same
at once. What is not said here is what `task_distill.py` does of itself: 10 epochs, batch 32, rate 3e-5, λ = 0.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from utils.errors import UserError
from utils.paper import bert
from utils.paper.results import Reached, pair, read_model
from utils.paper.stages import FORWARD, TRAINED, Request, Stage

#: Sparsities of assistants, in percent.
_GRID = (50, 60, 70, 80, 85, 90, 95)
_SCHEDULES = ("conventional", "MaxiDisc", "MiniDisc")


def stages(request: Request) -> list[Stage]:
    """Every call of the grid, in an order in which each finds what it needs.

    Raises:
        UserError: a scale is no sparsity of the grid that has assistants.
    """
    for scale in request.scales:
        if scale not in map(str, _GRID[1:]):
            raise UserError(
                f"--scales {scale}: expected sparsities in percent, some of {', '.join(map(str, _GRID[1:]))}."
            )
    found: list[Stage] = []
    for seed in request.seeds:
        for task in request.tasks:
            taught = bert.teacher(request, task, seed)
            root = request.output / f"{task}-{seed}"
            order: dict[str, Any] = {"mode": "sparsify", "teacher_model": str(taught.folder), "grid": _listed(_GRID)}
            sorted_ = bert.task_stage(request, root / "sparsification", task, seed, "schedule", order, 0.0)
            found += [taught, sorted_]
            for sparsity in map(int, request.scales):
                for schedule, (given, passes) in _calls(sparsity).items():
                    folder = root / f"{sparsity}-{schedule}"
                    from_teacher = {**given, "teacher_model": str(sorted_.folder)}
                    found.append(bert.task_stage(request, folder, task, seed, "schedule", from_teacher, passes))
    return found


def _calls(scale: int) -> Mapping[str, tuple[dict[str, Any], float]]:
    """Flags of every schedule, with the passes per row of its distillations together."""
    assistants = [assistant for assistant in _GRID if assistant < scale]
    once, paths = TRAINED + FORWARD, ";".join(f"{assistant},{scale}S" for assistant in assistants)
    mini = {"mode": "minidisc", "target_sparsity": scale, "trunc_sparsity": _GRID[0], "grid": _listed(_GRID)}
    return {
        "conventional": ({"mode": "distill", "layer_or_sparsity": f"{scale}S"}, once),
        "MaxiDisc": ({"mode": "maxidisc", "layer_or_sparsity_path": paths}, 2 * len(assistants) * once),
        "MiniDisc": (mini, len(_GRID) * TRAINED + FORWARD + once),
    }


def _listed(grid: Sequence[int]) -> str:
    return ",".join(map(str, grid))


def reached(request: Request) -> list[Reached]:
    """What is there of the grid."""
    found: list[Reached] = []
    for task in request.tasks:
        for scale in request.scales:
            for schedule in _SCHEDULES:
                for seed in request.seeds:
                    root = request.output / f"{task}-{seed}"
                    student = read_model(root / f"{scale}-{schedule}")
                    found += pair(task, f"{scale}S {schedule}", seed, read_model(root / "teacher"), student)
    return found


def measured(found: Sequence[Reached]) -> dict[str, list[float]]:
    """The numbers that the paper's claim is about; tasks and seeds that lack one of the two schedules are left out."""
    mini, maxi = ({(o.task, o.seed): o.ours for o in found if o.scale == f"90S {name}"} for name in _SCHEDULES[:0:-1])
    return {"gap 90": [value - maxi[key] for key, value in mini.items() if key in maxi]}
