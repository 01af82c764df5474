"""Parity with the original code: one test per golden case of `--goldens DIR` (default: the copy in tests/golden).

Sizes, seeds and ratios are read from each case; the tolerance is 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parity import variator_data, variator_metrics, variator_model, variator_optim

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
}


def test_parity(golden_case: str, goldens: Path, count_parity: None) -> None:
    """Our numbers equal the original's."""
    known = [prefix for prefix in CHECKS if golden_case.startswith(prefix)]
    if not known:
        pytest.fail(f"no check knows the case {golden_case}")
    CHECKS[max(known, key=len)](goldens, golden_case)
