"""Parity of the decomposition's quality: never worse than the original's, whatever its random start."""

from __future__ import annotations

from pathlib import Path

import torch

from model.decomposition.tucker import Ranks, reconstruct, relative_error, tucker
from tests.parity.cases import close, load, part


def check(directory: Path, name: str) -> None:
    """X3: the relative error is at most 1.001 times the best that the original's iteration reached."""
    case, arrays = load(directory, name)
    tensor, ranks = arrays["tensor"], Ranks(*case["ranks"])
    runs = [*case["runs"], *case["reference_init_weights"]]
    recorded = [run["rel_error"] for run in runs if "rel_error" in run]
    for dtype in (torch.float64, torch.float32):
        made = tucker(tensor.to(dtype), ranks)
        assert list(made.core.shape) == case["ranks"] and made.core.dtype == dtype
        assert made.relative_error <= 1.001 * min(recorded), (made.relative_error, min(recorded))
        close(relative_error(tensor, reconstruct(made).double()), made.relative_error, "reported error", 1e-6)
        for factor in (made.layer, made.left, made.right):
            close(factor.T @ factor, torch.eye(factor.shape[1]), "orthonormal factors", 1e-5)
    first = tucker(tensor, ranks, sweeps=0)
    assert first.relative_error <= 1.001 * case["truncated_hosvd_rel_error"]
    _check_reference(tensor, part(arrays, "ref_init_weights"), recorded)


def _check_reference(tensor: torch.Tensor, factors: dict[str, torch.Tensor], recorded: list[float]) -> None:
    """The original's own factors, read as this toolkit reads them, have the error that was recorded for them."""
    cores = torch.einsum("na,abc->nbc", factors["factor_layer"], factors["core"])
    found = relative_error(tensor, factors["factor_left"] @ cores @ factors["factor_right"])
    assert min(abs(found - error) for error in recorded) < 1e-5, found
