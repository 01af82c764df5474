"""A tiny EncT5 of either head, and inputs for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model import EncT5Config, EncT5ForSequenceClassification, EncT5ForTokenClassification

VOCABULARY, CLASSES = 50, 3
HEADS: dict[str, Any] = {"sequence": EncT5ForSequenceClassification, "token": EncT5ForTokenClassification}


def tiny_enct5(head: str = "sequence", seed: int = 0, **changes: Any) -> Any:
    """A random EncT5 of three layers and heads; the same seed gives the same bits."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 6, "num_heads": 3, "d_ff": 20, "num_layers": 3}
    return HEADS[head](EncT5Config(**{**sizes, "num_labels": CLASSES, **changes})).eval()


def tiny_inputs() -> dict[str, Tensor]:
    """Two rows of seven and four positions."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    ids = torch.randint(3, VOCABULARY, (2, 7), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def tiny_logits(model: Any, **changes: Any) -> Tensor:
    """Logits of `tiny_inputs()`."""
    logits: Tensor = model(**{**tiny_inputs(), **changes}).logits
    return logits
