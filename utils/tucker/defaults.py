"""What a task is trained with unless flags say otherwise.

Lengths and the epochs of the intermediate stage are the original's (`default_params`), which had none for WNLI: those
of RTE, the task nearest in size. Batch, the other epochs, and the rates of dense models are those of TinyBERT's paper
(section 4.2) and of BERT's (section 4.1). Factors and pruned models need higher ones: they have the rates, and the
layers that are compared, of the studies in docs/results, by which they learn (docs/tucker_training.md, "Settings").
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from dataset.tasks import TASKS

#: What one call of `task_distill.py` trains: a classifier on labels, one of the two stages of distillation into a
#: decomposed student, the distillations of a schedule of teacher assistants, or plugins on a student.
Stage = Literal["finetune", "intermediate", "prediction", "schedule", "adapt"]
#: What learns: whole matrices, the factors of a decomposed model, a part of a model (pruned, or fewer layers), or
#: plugins of a schedule over ratios.
Trained = Literal["dense", "factors", "pruned", "plugins"]


@dataclass(frozen=True)
class TaskDefaults:
    """Settings of one task: longest input in tokens, and epochs per stage."""

    max_seq_length: int
    intermediate_epochs: int
    finetune_epochs: int = 3
    prediction_epochs: int = 3
    schedule_epochs: int = 10
    adapt_epochs: int = 5


_SMALL, _LARGE = 5, 3  # epochs of fine-tuning

TASK_DEFAULTS: Mapping[str, TaskDefaults] = MappingProxyType(
    {
        "cola": TaskDefaults(64, 50, _SMALL),
        "mnli": TaskDefaults(128, 3, _LARGE),
        "mrpc": TaskDefaults(128, 20, _SMALL),
        "qnli": TaskDefaults(128, 10, _LARGE),
        "qqp": TaskDefaults(128, 3, _LARGE),
        "rte": TaskDefaults(128, 20, _SMALL),
        "sst2": TaskDefaults(64, 5, _LARGE),
        "stsb": TaskDefaults(128, 10, _SMALL),
        "wnli": TaskDefaults(128, 20, _SMALL),
        "conll": TaskDefaults(128, 10, _SMALL),
        "wnut17": TaskDefaults(128, 20, _SMALL),
    }
)

#: Peak learning rate, schedule and share of warm-up per stage; the intermediate stage is constant in the original too.
_STAGES: Mapping[str, dict[str, Any]] = {
    "finetune": {"lr": 3e-5, "schedule": "linear", "warmup_proportion": 0.1},
    "intermediate": {"lr": 5e-5, "schedule": "constant", "warmup_proportion": 0.0},
    "prediction": {"lr": 3e-5, "schedule": "linear", "warmup_proportion": 0.1},
    "schedule": {"lr": 3e-5, "schedule": "linear", "warmup_proportion": 0.1},
    "adapt": {"lr": 1e-3, "schedule": "linear", "warmup_proportion": 0.1},  # as train_t5.py pre-trains plugins
}
#: What differs where no whole matrices learn. Factors: docs/results/tucker.md and axes.md; pruned: minidisc.md.
_TRAINED: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "dense": {},
    "factors": {
        "intermediate": {"lr": 5e-4, "distill_layers": "all"},
        "prediction": {"lr": 5e-4},
        "schedule": {"lr": 5e-4},
    },
    "pruned": {stage: {"lr": 2e-4} for stage in ("finetune", "intermediate", "prediction", "schedule")},
    "plugins": {"schedule": {"lr": 1e-3}},
}
#: At more than this, factors learn to predict a constant score.
_MOST_IN_REGRESSION = 1e-4
#: Of general distillation: those of TinyBERT's script, and what differs for factors (docs/results/tucker.md).
_GENERAL: Mapping[str, Any] = MappingProxyType(
    {
        "epochs": 3,
        "batch_size": 32,
        "lr": 5e-5,
        "weight_decay": 1e-4,
        "schedule": "linear",
        "warmup_step": 0,
        "clip_grad": 1.0,
        "valid_step": 1000,
        "valid_batches": 16,
    }
)
_GENERAL_FACTORS: Mapping[str, Any] = MappingProxyType({"lr": 1e-3, "distill_layers": "all"})
#: The letters of scales, and what a schedule over them trains.
_OF_LETTER: Mapping[str, Trained] = MappingProxyType({"R": "factors", "K": "plugins"})
_OF_AXIS: Mapping[str, Trained] = MappingProxyType({"rank": "factors", "ratio": "plugins"})


def what_is_trained(given: Mapping[str, Any]) -> Trained:
    """What learns in a call, from its flags by field name and the student's config.json, if that is on this machine."""
    student = given.get("student_model") or (given.get("teacher_model") if given.get("mode") == "finetune" else None)
    if given.get("mode") in ("sparsify", "maxidisc", "minidisc") or given.get("layer_or_sparsity"):
        scales = str(given.get("layer_or_sparsity_path") or given.get("layer_or_sparsity") or "").rstrip()
        if not os.path.isdir(scales):
            return _OF_LETTER.get(scales[-1:].upper()) or _OF_AXIS.get(str(given.get("axis")), "pruned")
        student = scales
    if given.get("use_swap"):
        return "factors"
    return _edited(str(student)) if student else "dense"


def _edited(source: str) -> Trained:
    folders = (source, f"{source}/best", f"{source}/prediction/best")
    file = next((file for folder in folders if os.path.isfile(file := f"{folder}/config.json")), None)
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):
        values = {}  # whoever opens the model tells
    if not isinstance(values, dict):
        return "dense"
    edits = values.get("compression") or []
    kinds = {edit.get("kind") for edit in edits if isinstance(edit, dict)}
    if "decomposition" in kinds or (values.get("load_compressed_model") and not edits):
        return "factors"
    return "pruned" if kinds & {"pruning", "layer_drop"} else "dense"


def general_defaults(trained: Trained, optimizer: str = "adamw") -> dict[str, Any]:
    """Values of flags, by field name, for general distillation."""
    clip = {"clip_grad": 0.0} if optimizer == "bertadam" else {}
    return {**_GENERAL, **clip, **(_GENERAL_FACTORS if trained == "factors" else {})}


def stage_defaults(task: str, stage: Stage, optimizer: str = "adamw", trained: Trained = "dense") -> dict[str, Any]:
    """Values of flags, by field name, for a task and a stage. BertAdam clips every tensor itself."""
    found = TASK_DEFAULTS.get(task)
    clip = 0.0 if optimizer == "bertadam" else 1.0
    values = {"batch_size": 32, "weight_decay": 1e-4, "clip_grad": clip, "warmup_step": 0, **_STAGES[stage]}
    values |= _TRAINED[trained].get(stage, {})
    if trained == "factors" and task in TASKS and TASKS[task].kind == "regression":
        values["lr"] = min(values["lr"], _MOST_IN_REGRESSION)
    if found is not None:
        values["max_seq_length"] = found.max_seq_length
        values["epochs"] = getattr(found, f"{stage}_epochs")
    return values


def defaults_table() -> str:
    """All tasks' values, for `--help`."""
    stages = ("finetune", "intermediate", "prediction", "schedule", "adapt")
    columns = ("max_seq_length", *(f"{stage}_epochs" for stage in stages))
    rows = [f"{name} " + " ".join(str(getattr(d, c)) for c in columns) for name, d in TASK_DEFAULTS.items()]
    rates = ", ".join(f"{stage} {values['lr']:g} {values['schedule']}" for stage, values in _STAGES.items())
    return (
        f"Defaults by task (task: length, epochs of {', '.join(stages)}): "
        + "; ".join(row.replace(" ", ": ", 1) for row in rows)
        + f". By stage (rate, schedule): {rates}; decomposed students {_TRAINED['factors']['prediction']['lr']:g} "
        f"(in regression {_MOST_IN_REGRESSION:g}) and --distill_layers all, pruned and shallower ones "
        f"{_TRAINED['pruned']['schedule']['lr']:g}. Batch 32. With --task_name, --help shows that task's."
    )
