"""Plugins on a compressed classifier: the backbone is frozen, the plugins learn to give what it gives without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from model import PluginConfig, apply_edit, available_ratios, find_edit, use_ratio
from model.heads import ClassifierHead
from model.plugin.objective import PluginObjective, freeze_for
from utils.arguments import flag
from utils.engine import Runtime
from utils.errors import UserError
from utils.loading import set_dropout
from utils.ratios import over_ratios
from utils.tucker.evaluation import ClassifierEvaluator


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


def attach(model: Any, flags: AdaptationArguments) -> tuple[int, ...]:
    """Put plugins on a classifier that has none, and freeze everything else.

    Returns:
        The ratios to train.

    Raises:
        UserError: it has plugins, but not for a ratio that was asked for.
        ModelError: plugins cannot be attached to it.
    """
    asked = tuple(sorted(flags.mux_num))
    if find_edit(model, PluginConfig) is None:
        apply_edit(model, PluginConfig(ratios=asked) if asked else PluginConfig())
    present = available_ratios(model)[1:]
    ratios = asked or present
    if missing := sorted(set(ratios) - set(present)):
        raise UserError(
            f"--mux_num {missing[0]}: --student_model has plugins of its own, for the ratios "
            f"{', '.join(map(str, present))} only."
        )
    set_dropout(model, 0.0)  # teacher and student are the same layers, and must not differ by chance
    freeze_for(model, flags.distil, delta_tuning=False, ratios=ratios)
    return ratios


def objective_for(model: Any, flags: AdaptationArguments, ratios: Sequence[int]) -> PluginObjective:
    """The loss of the plugins at these ratios."""
    return PluginObjective(model, ClassifierHead(), flags.distil, ratios, flags.task_ratio)


class RatioEvaluator:
    """A classifier's metrics at each ratio, and their means."""

    def __init__(self, evaluate: ClassifierEvaluator, model: Any, ratios: Sequence[int]) -> None:
        self.evaluate, self.model, self.ratios = evaluate, model, tuple(ratios)

    @property
    def sources(self) -> list[Any]:
        """The rows of all sets."""
        return self.evaluate.sources

    def __call__(self) -> dict[str, float]:
        """See `over_ratios`."""
        return over_ratios(self.ratios, self.at_ratio)

    def at_ratio(self, ratio: int) -> dict[str, float]:
        """The metrics with the plugins of one ratio; 1 is the student without them."""
        with use_ratio(self.model, ratio):
            return self.evaluate()


def per_ratio(
    model: Any, runtime: Runtime, evaluate: ClassifierEvaluator, costs: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Of a model with plugins, JSON values by ratio: metrics and, where `costs` gives some, costs."""
    found: dict[str, Any] = {}
    for ratio in available_ratios(model):
        with use_ratio(model, ratio):
            found[str(ratio)] = {"metrics": evaluate(), **costs()}
        runtime.barrier()
    return found
