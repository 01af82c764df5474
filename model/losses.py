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
    """Mean cross-entropy over the labels that are not -100: (B, C) with (B,), or (B, T, V) with (B, T).

    0 where no label counts: one of several processes may have none in a batch.
    """
    dtype = torch.promote_types(torch.float32, logits.dtype)
    flat = labels.flatten()
    total = F.cross_entropy(logits.to(dtype).flatten(0, -2), flat, ignore_index=IGNORE, reduction="sum")
    return total / (flat != IGNORE).sum().clamp(min=1)


def token_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of right arg-max predictions among the labels that are not -100 (a scalar without gradient).

    The original divided by all positions, padding included.
    """
    counted = labels != IGNORE
    return ((logits.argmax(-1) == labels) & counted).sum() / counted.sum().clamp(min=1)


# --- BERT distillation (Xcompression: general_distill.py, task_distill.py) ------------------------------------------
# Shapes: H heads, besides those at the top.

#: A score at or below this is padding; the original sets it to 0 on each side separately.
MASKED_SCORE_LIMIT = -100.0


def score_mse(teacher_BHLL: Tensor, student_BHLL: Tensor) -> Tensor:
    """Mean over all elements of (t - s)² of pre-softmax attention scores, in float32 at least.

    Scores at or below -100 count as 0, on each side separately; the rows of padded queries count (X4).
    """
    teacher, student = _at_least_float32(teacher_BHLL, student_BHLL)
    return (_without_masked(teacher) - _without_masked(student)).square().mean()


def soft_cross_entropy(student_BC: Tensor, teacher_BC: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over batch *and* classes of -softmax(t / T) · log softmax(s / T), without a factor T² (X7).

    It is 1/C of the usual mean over the batch; the original's learning rates belong to it.
    """
    student, teacher = _at_least_float32(student_BC, teacher_BC)
    targets = F.softmax(teacher / temperature, dim=-1)
    # Not the mean, which is NaN where there is no row: one of several processes may have none with a label.
    return -(targets * F.log_softmax(student / temperature, dim=-1)).sum() / max(1, targets.numel())


def task_loss(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Cross-entropy with class ids, or, for float labels (regression, C = 1), the mean squared error."""
    if not labels_B.is_floating_point():
        return token_cross_entropy(logits_BC, labels_B)
    dtype = torch.promote_types(torch.float32, logits_BC.dtype)
    return F.mse_loss(logits_BC.flatten().to(dtype), labels_B.to(dtype))


def _without_masked(scores: Tensor) -> Tensor:
    return torch.where(scores <= MASKED_SCORE_LIMIT, torch.zeros_like(scores), scores)


def _at_least_float32(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.float32, torch.promote_types(one.dtype, other.dtype))
    return one.to(dtype), other.to(dtype)


# --- MiniDisc's variants (M3) ----------------------------------------------------------------------------------------
# Shapes: a leading "..." is B of sequences, or B and L of tokens.


def masked_mse(teacher_BLD: Tensor, student_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
    """Mean of (t - s)² over the elements of positions that the mask keeps (None: all), in float32 at least.

    Equals the mean over the selected rows (K, D) of the original; selecting would copy them, and wait for the device.
    """
    teacher, student = _at_least_float32(teacher_BLD, student_BLD)
    return _kept_mean((teacher - student).square().mean(-1), mask_BL)


def rowwise_soft_cross_entropy(
    student_C: Tensor, teacher_C: Tensor, temperature: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """T² · mean over rows of -Σ over classes of softmax(t / T) · log softmax(s / T), in float32 at least.

    It is `soft_cross_entropy` times C · T², as the MiniDisc release has it.

    Args:
        student_C, teacher_C: class scores (..., C).
        mask: rows (...) that count; None for all.
    """
    student, teacher = _at_least_float32(student_C, teacher_C)
    targets = F.softmax(teacher / temperature, dim=-1)
    rows = -(targets * F.log_softmax(student / temperature, dim=-1)).sum(-1)
    return _kept_mean(rows, mask) * temperature**2


def labelled_cross_entropy(logits_C: Tensor, labels: Tensor) -> Tensor:
    """`token_cross_entropy`, but 0 instead of NaN where no label counts (a batch of words without a piece)."""
    dtype = torch.promote_types(torch.float32, logits_C.dtype)
    flat = labels.flatten()
    losses = F.cross_entropy(logits_C.to(dtype).flatten(0, -2), flat, ignore_index=IGNORE, reduction="none")
    return _kept_mean(losses, flat != IGNORE)


def _kept_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the values that the mask keeps; 0 where it keeps none."""
    if mask is None:
        return values.mean()
    kept = mask.to(values.dtype)
    return (values * kept).sum() / kept.sum().clamp(min=1)
