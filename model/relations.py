"""MiniLM's relation loss: how tokens relate in the last layers' queries, keys and values.

    R(A) = softmax(A · Aᵀ / sqrt(d)) per relation head,   A in {Q, K, V}, split anew into heads of width d
    loss = Σ over A of mean over relation heads and real tokens of KL(R(A of the teacher) ‖ R(A of the student))

Queries, keys and values of all attention heads are concatenated and split into as many relation heads on both sides,
so teacher and student may have other numbers of attention heads, and a student may be pruned.

Source: Wang et al. 2021, MiniLMv2, arXiv:2012.15828, section 3.1.

Shapes: B batch, L length, I inner width (heads x head size), R relation heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbone import spec_for
from model.errors import ModelError

#: What is compared, as `AttentionSlots` names it.
PROJECTIONS = ("query", "key", "value")


@contextmanager
def last_projections(model: Any) -> Iterator[dict[str, Tensor]]:
    """Collects the last encoder layer's queries, keys and values (B, L, I) of the forward pass within.

    A layer whose attention was pruned away has none; then they are those of the last layer that has.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if output.shape[-1] > 0:
                found[name] = output

        return hook

    # Slots are looked up anew: a scale axis may have exchanged the modules since.
    handles = [
        getattr(layer.attention, name).module.register_forward_hook(keep(name))
        for layer in spec_for(model).encoder_layers(model)
        for name in PROJECTIONS
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def relation_loss(
    teacher: Mapping[str, Tensor], student: Mapping[str, Tensor], mask_BL: Tensor, relation_heads: int
) -> Tensor:
    """The sum over queries, keys and values of their relations' divergence, in float32 at least.

    Args:
        teacher, student: `query`, `key` and `value` (B, L, I), each side of its own I.
        mask_BL: 1 where there is a token.
        relation_heads: R, a divisor of both I.

    Raises:
        ModelError: R does not divide, or one side has no attention left.
    """
    for side, tensors in (("teacher", teacher), ("student", student)):
        if not tensors:
            raise ModelError(f"The {side} has no attention left whose relations could be compared.")
    # Matrix products would run in low precision under autocast; the scores' softmax should not.
    with torch.autocast(mask_BL.device.type, enabled=False):
        losses = [
            _divergence(
                _relations(teacher[name], mask_BL, relation_heads, f"teacher's {name}"),
                _relations(student[name], mask_BL, relation_heads, f"student's {name}"),
                mask_BL,
            )
            for name in PROJECTIONS
        ]
        return torch.stack(losses).sum()


def _relations(a_BLI: Tensor, mask_BL: Tensor, heads: int, whose: str) -> Tensor:
    """log R(A), (B, R, L, L); padded tokens are related to by none."""
    inner = a_BLI.shape[-1]
    if heads < 1 or inner % heads:
        raise ModelError(f"{heads} relation heads do not divide the width {inner} of the {whose} projection.")
    a = a_BLI.to(torch.promote_types(torch.float32, a_BLI.dtype)).unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = a @ a.mT / a.shape[-1] ** 0.5
    # The least number instead of -inf: a row of padding alone would become NaN.
    return scores.masked_fill(mask_BL[:, None, None, :] == 0, torch.finfo(scores.dtype).min).log_softmax(-1)


def _divergence(teacher_BRLL: Tensor, student_BRLL: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean over heads and real tokens of KL(teacher ‖ student); inputs are logarithms."""
    rows_BL = F.kl_div(student_BRLL, teacher_BRLL, reduction="none", log_target=True).sum(-1).mean(1)
    kept = mask_BL.to(rows_BL.dtype)
    return (rows_BL * kept).sum() / kept.sum().clamp(min=1)
