"""The plugins' ratio as an axis of scales for the schedules of `model.schedule`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

from transformers import PreTrainedModel

from model.compression import find_edit, record_edit
from model.errors import ModelError
from model.plugin.config import PluginConfig
from model.plugin.state import Choice
from model.plugin.surgery import available_ratios, plugin_layers, plugin_state, set_ratio

Model = TypeVar("Model", bound=PreTrainedModel)

#: A ratio from a fraction may be this far from a whole one.
_WHOLE = 1e-6


class RatioAxis:
    """The ratios of a model's bank of plugins, at a grid of scales.

    At scale s = 1 - 1 / k the FFNs see a k-th of the positions. Ratio 1, scale 0, is the model without plugins. The
    backbone is shared by all ratios, each ratio's plugins are its own.

    Args:
        model: carries plugins for all ratios of the grid; runs at the one selected last until `close`.
        grid: rising.
        task: whose plugins.

    Raises:
        ModelError: the grid does not rise, or the bank lacks one of its ratios.
    """

    name = "ratio"

    def __init__(self, model: PreTrainedModel, grid: Sequence[float], task: str = "") -> None:
        self.grid = tuple(grid)
        if not self.grid or any(low >= high for low, high in pairwise(self.grid)):
            raise ModelError(f"A grid of ratio scales rises, found {list(self.grid)}.")
        self.model, self.task, known = model, task, available_ratios(model, task)
        if lacking := [scale for scale in self.grid if ratio_at(scale) not in known]:
            raise ModelError(
                f"The scale {lacking[0]:g} is ratio {ratio_at(lacking[0])}, and the model has plugins for "
                f"{', '.join(map(str, known))}."
            )
        self.select(self.grid[0])

    def select(self, scale: float) -> None:
        """Use the plugins of `scale` in every thread; nothing is copied."""
        set_ratio(self.model, ratio_at(scale), self.task)

    def commit(self, scale: float) -> PreTrainedModel:
        """A new model with the plugins of `scale` alone, switched on; scale 0 is the model without any in use."""
        ratio = ratio_at(scale)
        return with_ratios(self.model, [ratio], ratio, self.task)

    def close(self) -> None:
        """Switch the plugins off."""
        set_ratio(self.model, 1)


def ratio_at(scale: float) -> int:
    """The ratio k of scale 1 - 1 / k.

    Raises:
        ModelError: that is no whole number.
    """
    found = 1 / (1 - scale) if 0 <= scale < 1 else 0.0
    if found < 1 or abs(found - round(found)) > _WHOLE * found:
        raise ModelError(f"A ratio's scale is 1 - 1 / k with a whole number k of at least 1, found {scale:g}.")
    return round(found)


def with_ratios(model: Model, ratios: Sequence[int], in_use: int, task: str = "") -> Model:
    """A copy of `model` with the plugins of these ratios alone, of which `in_use` is on, also when it is loaded.

    Where ratio 1 is the only one, the plugins stay, switched off: they are the model's, and it has no smaller form.

    Raises:
        ModelError: it carries no plugins, or lacks one of the ratios.
    """
    edit = find_edit(model, PluginConfig)
    if edit is None:
        raise ModelError(f"{type(model).__name__} carries no plugins.")
    twin = copy.deepcopy(model)
    twin.zero_grad(set_to_none=True)
    kept = tuple(ratio for ratio in edit.ratios if ratio in ratios) or edit.ratios
    wanted = {Choice(ratio, task).key for ratio in kept}
    state = plugin_state(twin)
    assert state is not None
    for ffn in plugin_layers(twin):
        for key in list(ffn.bank):
            if key not in wanted:
                del ffn.bank[key]
    state.available = wanted
    set_ratio(twin, in_use, task)
    record_edit(twin, replace(edit, ratios=kept, tasks=(task,), ratio=in_use))
    return twin
