"""The command of a run, from the arguments that it recorded."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from utils.arguments import EvaluationArguments, OptimisationArguments, RunArguments
from utils.arguments.spellings import flag_named
from utils.minidisc.arguments import ScheduleArguments
from utils.report.reading import Run
from utils.tucker import general_arguments, task_arguments
from utils.tucker.adaptation import AdaptationArguments
from utils.tucker.arguments import BertArguments, DecompositionArguments
from utils.tucker.defaults import Stage, general_defaults, stage_defaults, what_is_trained
from utils.variator.arguments import PluginArguments, TaskArguments

_SHARED = (OptimisationArguments, EvaluationArguments, RunArguments)
_BERT = (BertArguments, DecompositionArguments, *_SHARED)
#: Script -> an argument that only it has, and the dataclasses of its flags.
_SCRIPTS: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "train_t5.py": ("model_config", (TaskArguments, PluginArguments, *_SHARED)),
    "general_distill.py": ("pregenerated_data", (general_arguments.GeneralArguments, *_BERT)),
    "task_distill.py": ("task_name", (task_arguments.TaskArguments, *_BERT, ScheduleArguments, AdaptationArguments)),
}
#: How one call of a run is left and entered again; not part of what it is.
_PASSING = {"resume", "overwrite", "debug"}


def script_of(run: Run) -> str | None:
    """The entry script that made a run, if its arguments are there."""
    return next((script for script, (own, _) in _SCRIPTS.items() if own in run.arguments), None)


def commands_of(run: Run) -> list[tuple[str, str | None]]:
    """The command lines that make a run again, one after the other: of its stages, then of its evaluations.

    Returns:
        The folder that each of them wrote, and the command; None where the folder recorded no arguments.
    """
    if run.origin is not None:
        words: Any = run.record.get("plan")
        known = isinstance(words, list) and all(isinstance(word, str) for word in words)
        own = shlex.join(["python", "-m", "utils.plan", *words]) if known else None
        made = [(str(run.folder), own)]
    else:
        made = [] if run.parts else [(str(run.folder), None)]
    return [*made, *((str(folder), command_of(replace(run, record=record))) for folder, record in run.parts)]


def command_of(run: Run) -> str | None:
    """The command line that makes the run again, without what is the default anyway; None: no arguments recorded."""
    script = script_of(run)
    if script is None:
        return None
    given = dict(run.arguments)
    defaults = _defaults(script, given)
    if script == "task_distill.py":
        given |= _mode_and_stage(given)
    words = ["python", script]
    for name, value in given.items():
        if name in _PASSING or value is None or value == defaults.get(name, False) or value == []:
            continue
        words += _flag(name, value)
    return shlex.join(words)


def _mode_and_stage(given: Mapping[str, Any]) -> dict[str, Any]:
    """A run directory records the stage alone, fine-tuning and the training of plugins among them."""
    stage = given.get("stage")
    if stage in ("finetune", "adapt"):
        return {"mode": stage, "stage": None}
    return {"stage": None if stage == "schedule" else stage}


def _defaults(script: str, given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for group in _SCRIPTS[script][1]:
        for entry in dataclasses.fields(group):
            if entry.default is not dataclasses.MISSING:
                found[entry.name] = entry.default
            elif entry.default_factory is not dataclasses.MISSING:
                found[entry.name] = entry.default_factory()
    if script == "general_distill.py":
        found |= general_defaults(what_is_trained(given), str(given.get("optimizer", "adamw")))
    if script == "task_distill.py" and isinstance(given.get("task_name"), str):
        known: tuple[Stage, ...] = get_args(Stage)
        stage = next((stage for stage in known if stage == given.get("stage")), known[-1])
        optimizer = str(given.get("optimizer", "adamw"))
        found |= stage_defaults(given["task_name"], stage, optimizer, what_is_trained(given))
    return found


def _flag(name: str, value: Any) -> list[str]:
    flag = flag_named(name)
    if value is True:
        return [flag]
    if value is False:
        return [f"--no_{flag[2:]}"]
    if isinstance(value, list):
        return [flag, *map(str, value)]
    return [flag, str(value)]
