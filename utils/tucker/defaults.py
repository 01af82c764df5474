"""What a task is trained with unless flags say otherwise.

Lengths and the epochs of the intermediate stage are the original's (`default_params`), which had none for WNLI: those
of RTE, the task nearest in size. Rates, batch and the other epochs are those of TinyBERT's paper (section 4.2) and of
BERT's (section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

#: What one call of `task_distill.py` trains: a classifier on labels, one of the two stages of distillation into a
#: decomposed student, the distillations of a schedule of teacher assistants, or plugins on a student.
Stage = Literal["finetune", "intermediate", "prediction", "schedule", "adapt"]


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


def stage_defaults(task: str, stage: Stage, optimizer: str = "adamw") -> dict[str, Any]:
    """Values of flags, by field name, for a task and a stage. BertAdam clips every tensor itself."""
    found = TASK_DEFAULTS.get(task)
    clip = 0.0 if optimizer == "bertadam" else 1.0
    values = {"batch_size": 32, "weight_decay": 1e-4, "clip_grad": clip, "warmup_step": 0, **_STAGES[stage]}
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
        + f". By stage (rate, schedule): {rates}. Batch 32. With --task_name, --help shows that task's."
    )
