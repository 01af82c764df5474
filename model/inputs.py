"""Which of a batch's tensors a model is called with."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def model_inputs(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch's `input_ids`, `attention_mask` and `token_type_ids`, as far as it has them, that a model takes.

    `token_type_ids` only where `forward` names them and there is more than one type: an embedding of a single one (as
    RoBERTa's) has no row for the second sentence, and is looked up at 0 when nothing is said.
    """
    inputs = {name: batch[name] for name in _INPUTS if name in batch}
    if "token_type_ids" in inputs and not _takes_types(model):
        del inputs["token_type_ids"]
    return inputs


def _takes_types(model: Any) -> bool:
    if getattr(getattr(model, "config", None), "type_vocab_size", 2) < 2:
        return False
    return "token_type_ids" in inspect.signature(model.forward).parameters
