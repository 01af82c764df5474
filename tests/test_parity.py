"""Parity with the original code: one test per golden case of `--goldens DIR` (default: the copy in tests/golden).

Sizes, seeds and ratios are read from each case; the tolerance is 4e-5 (variator), or 1e-10 in float64 and 4e-4 in
float32
(X). Cases that are too large for the copy are read from the shared folder, or skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parity import (
    minidisc_data,
    minidisc_enct5,
    minidisc_losses,
    minidisc_pruning,
    tucker_distillation,
    tucker_embeddings,
    tucker_model,
    tucker_quality,
    tucker_text,
    variator_data,
    variator_metrics,
    variator_model,
    variator_optim,
)

#: From the beginning of a case's name to its check; the longest match wins.
CHECKS: dict[str, Callable[[Path, str], None]] = {
    "variator_mux": variator_model.check_mux,
    "variator_t5": variator_model.check_t5,
    "variator_lora": variator_model.check_lora,
    "variator_cls": variator_model.check_cls,
    "variator_distil": variator_model.check_distil,
    "variator_published": variator_model.check_published,
    "variator_data": variator_data.check,
    "variator_metrics": variator_metrics.check,
    "variator_optim": variator_optim.check,
    "X1_": tucker_model.check_stack,
    "X2_forward": tucker_model.check_forward,
    "X2_behaviours": tucker_model.check_behaviours,
    "X3_": tucker_quality.check,
    "X4_general_distill_loss_model": tucker_distillation.check_general,
    "X4_general_distill_loss_synthetic": tucker_distillation.check_losses,
    "X5_": tucker_model.check_plus,
    "X6_": tucker_embeddings.check,
    "X7_soft_cross_entropy": tucker_distillation.check_soft_cross_entropy,
    "X7_task_distill": tucker_distillation.check_task,
    "X8_": tucker_distillation.check_bertadam,
    "X9_": tucker_text.check,
    "X10_": tucker_distillation.check_processors,
    "M5_readers": minidisc_data.check_readers,
    "M5_pipeline": minidisc_data.check_pipeline,
    "M6_": minidisc_data.check_metrics,
    "M1_": minidisc_pruning.check,
    "M2_": minidisc_enct5.check,
    "M0_": minidisc_losses.check_behaviours,
    "M3_losses": minidisc_losses.check_losses,
    "M3_sandwich": minidisc_losses.check_sandwich,
    "M4_": minidisc_losses.check_tradeoff,
}


def test_parity(golden_case: str, case_directory: Path, count_parity: None) -> None:
    """Our numbers equal the original's."""
    known = [prefix for prefix in CHECKS if golden_case.startswith(prefix)]
    if not known:
        pytest.fail(f"no check knows the case {golden_case}")
    CHECKS[max(known, key=len)](case_directory, golden_case)
