"""Pre-softmax attention scores of chosen layers, the other layers at full speed.

Transformers' own `output_attentions` gives probabilities, and only with eager attention in every layer. Here an
attention function is registered beside `sdpa` that looks at the call's `scores_of`: layers named there also return

    scores = q · kᵀ / sqrt(head size) + mask,    mask = 0 where the key is a token, -10000 where it is padding

(what Xcompression calls `attentions`), all others run `sdpa`.

Shapes: B batch, H heads, L length, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from model.errors import ModelError
from model.inputs import model_inputs

#: Name of the attention implementation.
SCORES_ATTENTION = "attention_scores"
#: What the original adds to the score of a padded key.
MASKED_SCORE = -10000.0

Batch = dict[str, Tensor]


class Traced(NamedTuple):
    """What distillation compares: per wanted layer, hidden states (B, L, D) behind it and scores (B, H, L, L) in it."""

    hidden: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]


def register() -> None:
    """Make the implementation known to Transformers; repeating it changes nothing."""
    AttentionInterface.register(SCORES_ATTENTION, scores_attention)
    AttentionMaskInterface.register(SCORES_ATTENTION, sdpa_mask)


def scores_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    scores_of: Sequence[int] = (),
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of one layer; with its scores if `scores_of` names the layer, else None for them.

    Args:
        module: the attention block; its `layer_idx` is its number.
        query, key, value: (B, H, L, head size).
        attention_mask: bool (B, 1, L, L), True where attention is allowed; None if it is everywhere.
        scaling: 1 / sqrt(head size).
        dropout: of the probabilities.
        scores_of: numbers of the wanted layers.

    Returns:
        (B, L, H, head size), and the scores (B, H, L, L) or None.
    """
    kwargs.pop("output_attentions", None)  # sdpa would warn that it has none
    if module.layer_idx not in scores_of:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + torch.zeros_like(attention_mask, dtype=scores.dtype).masked_fill(
            ~attention_mask, MASKED_SCORE
        )
    probabilities = torch.nn.functional.dropout(scores.softmax(-1), dropout, module.training)
    return (probabilities.to(value.dtype) @ value).transpose(1, 2).contiguous(), scores


def use_attention_scores(model: PreTrainedModel) -> None:
    """Switch `model` to the implementation. Without `scores_of` it computes what `sdpa` does.

    Raises:
        ModelError: no attention layer of the model asks Transformers' interface.
    """
    register()
    modules = [m for m in model.modules() if hasattr(getattr(m, "config", None), "_attn_implementation")]
    if not any(hasattr(module, "layer_idx") for module in modules):
        raise ModelError(f"{type(model).__name__} has no attention layers whose scores could be read.")
    for module in modules:  # every layer reads the config it was built with, which an edit may since have replaced
        module.config._attn_implementation = SCORES_ATTENTION


def trace(model: PreTrainedModel, batch: Batch, layers: Sequence[int]) -> Traced:
    """Run the encoder of `model` (see `use_attention_scores`) and keep what the wanted layers show.

    Args:
        batch: `input_ids`, `attention_mask` and, where the data have them, `token_type_ids`, each (B, L).
        layers: their numbers, rising.
    """
    base: Any = model.base_model
    output = base(
        **model_inputs(base, batch),
        output_hidden_states=[layer + 1 for layer in layers],
        output_attentions=True,
        scores_of=tuple(layers),
    )
    hidden = tuple(output.hidden_states[layer + 1] for layer in layers)
    return Traced(hidden, tuple(output.attentions))
