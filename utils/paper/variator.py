"""Variator's grid: plugins pre-trained on text; per task a T5 fine-tuned, the plugins adapted to it, both evaluated.

The recipe is that of the original release's scripts wiki.sh, glue.sh and glue-mux.sh (batch sizes are totals over all
GPUs), as in scripts/settings.sh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset.errors import DataError
from dataset.glue import read_glue
from dataset.squad import read_squad
from dataset.tasks import get_task
from utils.errors import UserError
from utils.paper.results import Reached, kept, over, pair, read_model
from utils.paper.stages import FORWARD, TRAINED, Request, Stage, Work, flags, rows_of

_LENGTH = {"mnli": 256, "qqp": 256, "rte": 256, "sst2": 96, "mrpc": 96, "qnli": 356, "squad": 512}
_VALID_STEP = {"mnli": 2000, "rte": -1, "squad": 100}
_SHARED: Mapping[str, Any] = {"weight-decay": 1e-5, "clip-grad": 10}
_PLUGIN: Mapping[str, Any] = {
    "lr": 1e-3,
    **_SHARED,
    "schedule": "linear",
    "warmup-step": 50,
    "max-input-length": 224,
    "epochs": 5,
    "training-step": 60000,
    "valid-step": 2000,
    "save-step": 2000,
    "batch-size": 64,
}


def recipe(stage: str, task: str = "") -> dict[str, Any]:
    """Flags of `train_t5.py` for the stages `plugin`, `finetune` and `adapt`."""
    if stage == "plugin":
        return dict(_PLUGIN)
    small = task == "squad" or (stage == "finetune" and task in ("rte", "qnli"))
    return {
        "lr": 1e-5,
        **_SHARED,
        "schedule": "constant",
        "max-input-length": _LENGTH[task],
        "epochs": 5 if stage == "finetune" else 50,
        "training-step": 26000,
        "valid-step": _VALID_STEP.get(task, 1000),
        "batch-size": 16 if small else 32,
    }


def stages(request: Request) -> list[Stage]:
    """Every call of the grid, in an order in which each finds what it needs.

    Raises:
        UserError: a scale is no ratio, or there is nothing to make plugins of.
    """
    ratios = _ratios(request)
    found: list[Stage] = []
    for seed in request.seeds:
        plugins = request.plugins
        if plugins is None:
            found.append(_pretraining(request, seed, ratios))
            plugins = str(found[-1].folder / "best")
        for task in request.tasks:
            found += _task(request, task, seed, ratios, plugins)
    return found


def _pretraining(request: Request, seed: int, ratios: Sequence[int]) -> Stage:
    if request.text is None:
        raise UserError("--text is required: the corpus that plugins are pre-trained on; or --plugins, made already.")
    settings = request.settings(recipe("plugin"), "max-input-length")
    given = {"dataset": "wiki", "data-path": request.text, "distil": "hidden", "mux-num": ratios, **settings}
    work = Work(rows_of(settings, None), int(settings["max-input-length"]), TRAINED * len(ratios) + FORWARD)
    return _stage(request, request.output / f"wiki-{seed}", seed, given, work)


def _task(request: Request, task: str, seed: int, ratios: Sequence[int], plugins: str) -> list[Stage]:
    root, count = request.output / f"{task}-{seed}", _count(task, request.data)
    base = {"dataset": task, "data-path": request.data}
    tuning = request.settings(recipe("finetune", task), "max-input-length")
    adapting = request.settings(recipe("adapt", task), "max-input-length")
    length = int(tuning["max-input-length"])
    tuned = {**base, "checkpoint": str(root / "finetune" / "best")}
    adapted = {**tuned, "distil": "hidden", "mux-num": ratios, "plugin-path": plugins, **adapting}
    shown = {**tuned, "mode": "valid", "mux-num": ratios, "plugin-path": str(root / "adapted" / "best")}
    passes = TRAINED * len(ratios) + FORWARD
    return [
        _stage(request, root / "finetune", seed, {**base, **tuning}, Work(rows_of(tuning, count), length)),
        _stage(request, root / "adapted", seed, adapted, Work(rows_of(adapting, count), length, passes)),
        _stage(request, root / "valid", seed, {**shown, "max-input-length": length}, None),
    ]


def _stage(request: Request, folder: Path, seed: int, given: Mapping[str, Any], work: Work | None) -> Stage:
    all_flags = {**given, "model-config": request.backbone, "random-seed": seed, "output-path": str(folder)}
    return Stage(folder, ["train_t5.py", *flags(all_flags)], work)


def _ratios(request: Request) -> list[int]:
    for scale in request.scales:
        if not scale.isdigit() or int(scale) < 2:
            raise UserError(f"--scales {scale}: expected ratios of plugins, whole numbers from 2 up.")
    return [int(scale) for scale in request.scales]


def _count(task: str, data: str) -> int | None:
    """Rows of a task's training set; None if it is not there."""
    try:
        return len(read_squad(data, "train") if task == "squad" else read_glue(get_task(task), data, "train"))
    except DataError:
        return None


def reached(request: Request) -> list[Reached]:
    """What is there of the grid."""
    found: list[Reached] = []
    for task in request.tasks:
        for ratio in _ratios(request):
            for seed in request.seeds:
                folder = request.output / f"{task}-{seed}" / "valid"
                found += pair(task, f"k={ratio}", seed, read_model(folder, 1), read_model(folder, ratio))
    return found


def measured(found: Sequence[Reached]) -> dict[str, list[float]]:
    """The numbers that the paper's claims are about."""

    def drop(one: Reached) -> float | None:
        share = kept(one)
        return None if share is None else 1 - share

    def added(one: Reached) -> float | None:
        dense, ours = one.dense_model.num_params, one.model.num_params
        return ours / dense - 1 if dense and ours else None

    def saved(one: Reached) -> float | None:
        dense, ours = one.dense_model.encoder_macs, one.model.encoder_macs
        return 1 - ours / dense if dense and ours else None

    return {name: over(found, "k=4", of) for name, of in (("drop", drop), ("added", added), ("saved", saved))}
