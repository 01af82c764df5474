"""Tucker's grid: per size a student distilled on text; per task a teacher, and the student distilled from it.

What is not said here is what `general_distill.py` and `task_distill.py` do of themselves: the original's epochs and
lengths, and the rates that were found to train factors (utils/tucker/defaults.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataset.epochs import find_epochs
from dataset.errors import DataError
from utils.errors import UserError
from utils.paper import bert
from utils.paper.arguments import GRIDS
from utils.paper.results import Reached, kept, over, pair, read_model, times
from utils.paper.stages import FORWARD, TRAINED, Request, Stage, Work, flags, rows_of

#: Size -> ranks as shares: of the number of blocks, and of the width. Of BERT-base 72-384-384, as published, and
#: 36-200-200, which give 1/48 here (docs/tucker.md); its published ranks are not known.
RANKS: Mapping[str, tuple[float, float]] = {"1/7": (1 / 2, 1 / 2), "1/48": (1 / 4, 200 / 768)}
_GENERAL: Mapping[str, Any] = {"epochs": 3, "batch-size": 256, "max_seq_length": 128}


def stages(request: Request) -> list[Stage]:
    """Every call of the grid, in an order in which each finds what it needs.

    Raises:
        UserError: a scale has no ranks, or there is no text.
    """
    unknown = [scale for scale in request.scales if scale not in RANKS]
    if unknown:
        raise UserError(f"--scales {unknown[0]}: expected some of {', '.join(RANKS)}.")
    if request.text is None:
        raise UserError(f"--text is required: {GRIDS['tucker'].corpus}.")
    ranks = {scale: ranks_of(request.backbone, scale) for scale in request.scales}
    found: list[Stage] = []
    for seed in request.seeds:
        general = {scale: _general(request, scale, seed, ranks[scale]) for scale in request.scales}
        found += general.values()
        for task in request.tasks:
            taught = bert.teacher(request, task, seed)
            found.append(taught)
            for scale in request.scales:
                folder = request.output / f"{task}-{seed}" / _folder(scale)
                models = {"teacher_model": str(taught.folder), "student_model": str(general[scale].folder)}
                stage = bert.task_stage(
                    request, folder, task, seed, "intermediate", {"stage": "both", **models}, TRAINED + FORWARD
                )
                found.append(stage._replace(work=_both(request, task, stage.work)))
    return found


def ranks_of(backbone: str, scale: str) -> dict[str, int]:
    """The ranks of a size for a backbone, by flag."""
    sizes = bert.sizes_of(backbone)
    width = sizes["hidden_size"]
    blocks = sizes["num_hidden_layers"] * (4 + 2 * sizes["intermediate_size"] // width)
    of_blocks, of_width = RANKS[scale]
    rank = max(1, round(of_width * width))
    return {"rank_layer": max(1, round(of_blocks * blocks)), "rank_condim": rank, "rank_dim": rank}


def _general(request: Request, scale: str, seed: int, ranks: Mapping[str, int]) -> Stage:
    folder = request.output / f"general-{_folder(scale)}-{seed}"
    settings = request.settings(_GENERAL, "max_seq_length")
    given: dict[str, Any] = {
        "pregenerated_data": request.text,
        "teacher_model": request.backbone,
        "init_from_teacher": True,
    }
    given |= {"use_swap": True, **ranks, "distill_layers": "all", **settings}
    given |= {"seed": seed, "output_dir": str(folder)}
    work = Work(rows_of(settings, _text_rows(str(request.text))), int(settings["max_seq_length"]), TRAINED + FORWARD)
    return Stage(folder, ["general_distill.py", *flags(given)], work)


def _both(request: Request, task: str, first: Work | None) -> Work | None:
    """The work of `--stage both`: the second stage trains as the first does, for fewer epochs."""
    settings = request.settings(bert.recipe(task, "prediction"), "max_seq_length")
    second = rows_of(settings, bert.count(task, request.data))
    if first is None or first.rows is None or second is None:
        return first
    return first._replace(rows=first.rows + second)


def _text_rows(text: str) -> int | None:
    """Rows of the first epoch of pre-generated text; None if it is not there."""
    try:
        return find_epochs(text)[0].num_examples
    except (DataError, IndexError):
        return None


def _folder(scale: str) -> str:
    return scale.replace("/", "of")


def reached(request: Request) -> list[Reached]:
    """What is there of the grid."""
    found: list[Reached] = []
    for task in request.tasks:
        for scale in request.scales:
            for seed in request.seeds:
                root = request.output / f"{task}-{seed}"
                found += pair(task, scale, seed, read_model(root / "teacher"), read_model(root / _folder(scale)))
    return found


def measured(found: Sequence[Reached]) -> dict[str, list[float]]:
    """The numbers that the paper's claims are about."""

    def size(one: Reached) -> float | None:
        return times(one.dense_model.encoder_params, one.model.encoder_params)

    def speed(one: Reached) -> float | None:
        return times(one.dense_model.latency_ms, one.model.latency_ms)

    numbers = {"kept": kept, "size": size, "speed": speed}
    return {f"{name} {scale}": over(found, scale, of) for scale in RANKS for name, of in numbers.items()}
