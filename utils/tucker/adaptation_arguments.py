"""The flags of `task_distill.py --mode adapt`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from utils.arguments import flag


@dataclass
class AdaptationArguments:
    """Plugins, for --mode adapt; names and meaning as in train_t5.py."""

    _argument_group_name = "plugins (--mode adapt)"

    mux_num: list[int] = flag([], "Ratios k of the plugins (default: those that the student has, or 4).")
    distil: Literal["hidden", "task-hidden", "task"] = flag(
        "hidden", "What they learn from: the hidden states of the student without plugins, the task, or both."
    )
    task_ratio: float = flag(1.0, "Weight of the task loss in --distil task-hidden.")


def adaptation_problems(flags: AdaptationArguments, adapts: bool) -> list[str]:
    """What is wrong with the flags of a call."""
    if not adapts:
        default = asdict(AdaptationArguments())
        return [f"--{name} belongs to --mode adapt" for name, value in asdict(flags).items() if value != default[name]]
    problems = []
    if any(k < 2 for k in flags.mux_num) or len(set(flags.mux_num)) < len(flags.mux_num):
        problems.append(f"--mux_num takes each ratio once, whole numbers of at least 2, found {flags.mux_num}")
    if flags.task_ratio != 1.0 and flags.distil != "task-hidden":
        problems.append("--task_ratio needs --distil task-hidden")
    return problems
