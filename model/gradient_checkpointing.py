"""Gradient checkpointing: a layer keeps its input alone, and computes what is inside it again on the way back.

Chen et al. 2016, arXiv:1604.06174. Transformers' layers know how; what is ours is that a layer, when it runs again, is
what it was: a plugin's ratio, its task and the batch's mask are read when a layer runs, and at the time of the backward
pass they may be others, or in another thread (on a GPU, gradients are worked out in a thread of their own).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from model.errors import ModelError
from model.plugin.surgery import plugin_state


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Let every layer of `model` forget what is inside it until the backward pass; only in training mode.

    Gradients are the same up to the order of summation, dropout included. Plugins have to be attached before. Models
    whose scales are trained together (`model.schedule.Sandwich`) need a backward pass per scale.

    Raises:
        ModelError: the model's layers cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise ModelError(f"Gradient checkpointing: the layers of {type(model).__name__} cannot run twice.")
    options: dict[str, Any] = {"use_reentrant": False}
    if (state := plugin_state(model)) is not None:
        # A method, not a function: a copy of the model gets that of its own state.
        options["context_fn"] = state.contexts
    model.activation_checkpointing_enable(options)
    model.disable_input_require_grads()  # only the reentrant kind needs gradients of frozen embeddings


def enable_for_trained(objective: nn.Module) -> list[PreTrainedModel]:
    """The same for every model inside `objective` that has parameters to train, so not for a teacher; gives them.

    Raises:
        ModelError: the layers of one cannot, or nothing inside is a model.
    """
    models = [model for model in outermost_models(objective) if any(p.requires_grad for p in model.parameters())]
    if not models:
        raise ModelError(f"Gradient checkpointing: {type(objective).__name__} trains no Transformer.")
    for model in models:
        enable_gradient_checkpointing(model)
    return models


def outermost_models(module: nn.Module) -> Iterator[PreTrainedModel]:
    """The pre-trained models inside `module`, without the parts of which they are made."""
    if isinstance(module, PreTrainedModel):
        yield module
        return
    for child in module.children():
        yield from outermost_models(child)
