"""Training losses. Each is a function of tensors that states its formula.

Shapes: B batch, L length, T target length, D width, C classes, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Label of positions that count in no loss.
IGNORE = -100


def hidden_mse(teacher_BLD: Tensor, student_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
    """Mean over all B·L·D elements of (m·t - m·s)², in float32 at least.

    Padded positions add nothing to the sum but count in the mean, as in the original (Variator, section 3.3).
    """
    dtype = torch.promote_types(torch.float32, student_BLD.dtype)
    difference = teacher_BLD.to(dtype) - student_BLD.to(dtype)
    if mask_BL is not None:
        difference = difference * mask_BL.unsqueeze(-1).to(dtype)
    return difference.square().mean()


def token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labels that are not -100: (B, C) with (B,), or (B, T, V) with (B, T)."""
    dtype = torch.promote_types(torch.float32, logits.dtype)
    return F.cross_entropy(logits.to(dtype).flatten(0, -2), labels.flatten(), ignore_index=IGNORE)


def token_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of right arg-max predictions among the labels that are not -100 (a scalar without gradient).

    The original divided by all positions, padding included.
    """
    counted = labels != IGNORE
    return ((logits.argmax(-1) == labels) & counted).sum() / counted.sum().clamp(min=1)
