"""Plugins on a compressed classifier: the backbone is frozen, the plugins learn to give what it gives without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from model import PluginConfig, apply_edit, available_ratios, find_edit, use_ratio
from model.heads import ClassifierHead
from model.plugin.objective import PluginObjective, freeze_for
from utils.engine import Runtime
from utils.errors import UserError
from utils.loading import set_dropout
from utils.ratios import over_ratios
from utils.tucker.adaptation_arguments import AdaptationArguments
from utils.tucker.evaluation import ClassifierEvaluator


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
