"""Attaching, detaching and switching plugins on a Hugging Face model, in place."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from model.backbone import BERT, Slot, describe_stacks, spec_for
from model.errors import ModelError
from model.plugin.bank import EncoderPadding, PluginFFN
from model.plugin.mux import MuxLayer
from model.plugin.state import Choice, PluginState

#: Epsilon of the original's layer norm (1e-6 on a stream of 1/100) in Hugging Face units.
ORIGINAL_EPSILON = 1e-2

#: Attribute of a model under which its plugin runtime is kept (not a module: it owns no parameters).
_RUNTIME = "_plugin_runtime"


class PluginRuntime:
    """What attaching added to a model besides modules: the switch, the hooks, the former epsilons."""

    def __init__(self, model: Any, compat: str) -> None:
        self.state = PluginState(set())
        self.padding = EncoderPadding(model, spec_for(model), self.state, zero_rows=compat == "original")
        self.epsilons = set_epsilon(model, ORIGINAL_EPSILON) if compat == "original" else {}

    def remove(self, model: Any) -> None:
        """Take everything off again."""
        self.padding.remove()
        modules = dict(model.named_modules())
        for name, epsilon in self.epsilons.items():
            modules[name].variance_epsilon = epsilon


def plugin_layers(model: Any) -> list[PluginFFN]:
    """The wrapped FFNs of `model`, in layer order (empty when no plugins are attached)."""
    slots = (layer.ffn for layer in spec_for(model).encoder_layers(model))
    return [slot.module for slot in slots if slot is not None and isinstance(slot.module, PluginFFN)]


def attach_modules(model: Any, compat: str) -> None:
    """Wrap every encoder FFN of `model` in a `PluginFFN` with an empty bank.

    Raises:
        ModelError: there is none, or the model runs its FFNs in a way that groups of positions do not go with.
    """
    spec = spec_for(model)
    if not spec.encoder_layers(model):
        raise ModelError(f"No encoder FFN to attach a plugin to was found: {describe_stacks(model)}.")
    _check_runs(model, compat)
    spec.join_ffns(model)
    slots = _ffn_slots(model)
    runtime = PluginRuntime(model, compat)
    for slot in slots:
        wrapped = PluginFFN(slot.module, runtime.state, masks_groups=compat == "native")
        wrapped.train(slot.module.training)
        slot.replace(wrapped)
    setattr(model, _RUNTIME, runtime)


def fill_bank(model: Any, choices: Iterable[Choice], bottleneck: int, scale: float) -> None:
    """Add freshly initialised plugins for those of `choices` that the bank lacks."""
    width, state = spec_for(model).sizes(model.config).width, plugin_state(model)
    assert state is not None
    like = next(model.parameters())
    for choice in choices:
        if choice.key not in state.available:
            for ffn in plugin_layers(model):
                ffn.add(choice.key, MuxLayer(width, choice.ratio, bottleneck, scale), like)
            state.available.add(choice.key)


def detach_modules(model: Any) -> None:
    """Put the dense FFNs back and remove hooks and epsilons."""
    for slot in _ffn_slots(model):
        wrapped = slot.module
        assert isinstance(wrapped, PluginFFN)
        slot.replace(wrapped.base_layer)
    spec_for(model).split_ffns(model)
    getattr(model, _RUNTIME).remove(model)
    delattr(model, _RUNTIME)


def available_ratios(model: Any, task: str = "") -> tuple[int, ...]:
    """The ratios that `set_ratio` accepts for a task: 1 and those of the bank."""
    state = plugin_state(model)
    keys = state.available if state else set()
    ratios = (int(key.rpartition("-")[2]) for key in keys if key.rpartition("-")[0] == task)
    return (1, *sorted(ratios))


def current_ratio(model: Any) -> int:
    """The ratio in use in this thread (1 when plugins are off or absent)."""
    state = plugin_state(model)
    return state.choice.ratio if state else 1


def set_ratio(model: Any, ratio: int, task: str = "") -> None:
    """Use the plugins of `ratio` from now on, in every thread; 1 switches them off. Costs O(1), copies nothing.

    Raises:
        ModelError: the bank has no such ratio, or no such task.
    """
    choice, state = _checked(model, ratio, task)
    if state is not None:
        state.select(choice)


def use_ratio(model: Any, ratio: int, task: str = "") -> AbstractContextManager[None]:
    """Use the plugins of `ratio` inside a `with` block, in this thread only; the former choice comes back in any case.

    Raises:
        ModelError: the bank has no such ratio, or no such task.
    """
    choice, state = _checked(model, ratio, task)
    return (state or PluginState(set())).override(choice)


def plugin_modules(model: Any, ratio: int, task: str = "") -> list[nn.Module]:
    """The plugins of one ratio, in layer order."""
    return [ffn.bank[Choice(ratio, task).key] for ffn in plugin_layers(model)]


def _ffn_slots(model: Any) -> list[Slot]:
    """Of the encoder's layers, once they are joined."""
    slots = [layer.ffn for layer in spec_for(model).encoder_layers(model)]
    assert None not in slots
    return [slot for slot in slots if slot is not None]


def _check_runs(model: Any, compat: str) -> None:
    """Refuse what would group the wrong positions, or stay without the effect that was asked for."""
    family, config = spec_for(model).family, model.config
    if family == BERT.family and getattr(config, "is_decoder", False):
        raise ModelError("Plugins mix positions that follow each other: a BERT with is_decoder would see the future.")
    if getattr(config, "chunk_size_feed_forward", 0):
        raise ModelError(
            f"Plugins group the positions of whole rows: set chunk_size_feed_forward to 0, not "
            f"{config.chunk_size_feed_forward}."
        )
    if compat == "original" and family == BERT.family:
        raise ModelError("compat 'original' repeats what the original's T5 does; a BERT takes 'native' or 'grouping'.")


def plugin_state(model: Any) -> PluginState | None:
    """What all plugin layers of `model` read; None without plugins."""
    runtime: PluginRuntime | None = getattr(model, _RUNTIME, None)
    return runtime.state if runtime else None


def _checked(model: Any, ratio: int, task: str) -> tuple[Choice, PluginState | None]:
    choice, state = Choice(ratio, task), plugin_state(model)
    if ratio != 1 and (state is None or choice.key not in state.available):
        allowed = ", ".join(map(str, available_ratios(model, task)))
        named = f" of task {task!r}" if task else ""
        raise ModelError(f"The model has no plugins{named} for ratio {ratio}; it has: {allowed}.")
    return choice, state


def set_epsilon(model: Any, epsilon: float) -> dict[str, float]:
    """Set every layer norm's epsilon; gives the former ones by module name."""
    former = {}
    for name, module in model.named_modules():
        if hasattr(module, "variance_epsilon"):
            former[name], module.variance_epsilon = module.variance_epsilon, epsilon
    return former
