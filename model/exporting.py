"""A copy of a model that a tracer can follow, for any batch and length: what exported files are made of."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from model.compression import edits_of, undo_edit
from model.decomposition.frozen import freeze_plans
from model.errors import ModelError
from model.plugin.config import PluginConfig
from model.plugin.state import Choice
from model.plugin.surgery import plugin_layers, set_ratio

#: Edits whose modules torch's exporter cannot follow.
_NOT_TRACED = ("quantization",)


def exportable(model: Any, ratio: int = 1, task: str = "") -> tuple[Any, dict[str, str]]:
    """A copy of `model` in evaluation mode whose choices are made: one ratio, one plan per kind of decomposed matrices.

    Plugins of other ratios and tasks are not in it. It gives the logits of `model` at `ratio`, up to rounding.

    Returns:
        The copy, and the plans (empty where nothing is decomposed).

    Raises:
        ModelError: the model has no plugins of this ratio and task, or an edit that cannot be exported.
    """
    kinds = [edit.kind for edit in edits_of(model)]
    if refused := [kind for kind in kinds if kind in _NOT_TRACED]:
        raise ModelError(
            f"A model with the edit {refused[0]!r} cannot be traced: export it without, quantise the file."
        )
    made = copy.deepcopy(model).eval().requires_grad_(False)
    set_ratio(made, ratio, task)
    if ratio > 1:  # the fused kernel's strides cannot be followed where the padded length is a symbol
        made.set_attn_implementation("eager")
    elif PluginConfig.kind in kinds:
        undo_edit(made, PluginConfig.kind)
    for layer in plugin_layers(made):
        key = Choice(ratio, task).key
        layer.bank = nn.ModuleDict({key: layer.bank[key]})
    return made, freeze_plans(made)
