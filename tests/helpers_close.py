"""Equality of what models compute where the order of sums may differ.

The same weights give the same bits only while they lie at the same places in memory and the same kernels run: what is
loaded from a file may be aligned otherwise, which moves the last bit on some processors. Weights themselves are
compared bit by bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Largest difference, relative to the largest value; at least that of values up to 1.
_TOLERANCE = {torch.float64: 1e-12, torch.float32: 4e-6, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def same_logits(found: Tensor, expected: Tensor) -> bool:
    """Equal but for the order of sums."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    scale = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
    return torch.allclose(found, expected, rtol=0, atol=_TOLERANCE[expected.dtype] * scale)
