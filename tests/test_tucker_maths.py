"""The Tucker decomposition on plain tensors: exactness, quality beside tensorly, what it reports, what it refuses."""

from __future__ import annotations

import itertools

import pytest
import tensorly
import tensorly.decomposition
import torch
from torch import Tensor

from model import ModelError
from model.decomposition import tucker as maths
from model.decomposition.tucker import Ranks, reconstruct, relative_error, shared_factors, truncated_svd, tucker

pytestmark = pytest.mark.usefixtures("single_thread")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(shape: tuple[int, int, int], ranks: tuple[int, int, int], seed: int = 0) -> Tensor:
    """A tensor of exactly these multilinear ranks."""
    factors = [noise(size, rank, seed=seed + i) for i, (size, rank) in enumerate(zip(shape, ranks, strict=True))]
    return torch.einsum("abc,na,db,ec->nde", noise(*ranks, seed=seed + 9), *factors)


@pytest.fixture(params=["float64", "float32"])
def working(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of working: small tensors in float64, large ones in their own precision."""
    if request.param == "float32":
        monkeypatch.setattr(maths, "_EXACT_ELEMENTS", 0)
    return str(request.param)


def test_all_ranks_give_the_tensor_back(working: str) -> None:
    """Full rank in every mode, and in all but one, loses nothing."""
    tensor = noise(6, 5, 7).float()
    assert torch.equal(reconstruct(tucker(tensor, (6, 5, 7))), tensor)
    for shape in ((4, 5, 7), (6, 3, 7), (6, 5, 2)):
        part = low_rank((6, 5, 7), shape).float()
        made = tucker(part, shape)
        assert relative_error(part, reconstruct(made)) < 1e-6
        assert made.relative_error < 1e-6


@pytest.mark.parametrize("ranks", [(3, 4, 2), (2, 2, 2), (5, 4, 6)])
def test_a_tensor_of_low_rank_is_recovered(ranks: tuple[int, int, int]) -> None:
    """The truncated SVD finds the subspaces exactly; the reported error is the true one even where it is tiny."""
    tensor = low_rank((9, 8, 10), ranks)
    made = tucker(tensor, ranks)
    assert made.core.shape == ranks
    assert relative_error(tensor, reconstruct(made)) < 1e-12
    assert made.relative_error < 1e-12


@pytest.mark.parametrize("ranks", [(3, 5, 5), (10, 4, 9), (2, 11, 3)])
def test_reported_errors_are_the_true_ones(working: str, ranks: tuple[int, int, int]) -> None:
    """Overall and per block, recomputed from the reconstruction."""
    tensor = (low_rank((10, 12, 11), (4, 6, 5)) + 0.5 * noise(10, 12, 11, seed=5)).float()
    made, exact = tucker(tensor, ranks), tensor.double()
    difference = exact - reconstruct(made).double()
    assert made.relative_error == pytest.approx(relative_error(exact, reconstruct(made).double()), abs=2e-6)
    blocks = difference.flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    torch.testing.assert_close(made.block_errors, blocks, atol=2e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:Trying to compute SVD")
@pytest.mark.parametrize("ranks", [(4, 5, 6), (12, 3, 3), (2, 10, 9)])
@pytest.mark.parametrize("seed", [0, 1])
def test_never_worse_than_tensorly(working: str, ranks: tuple[int, int, int], seed: int) -> None:
    """At most 1.001 times the relative error of `tensorly.decomposition.tucker` with its defaults."""
    tensor = low_rank((14, 13, 12), (5, 6, 6), seed) + 4.0 * noise(14, 13, 12, seed=seed + 50)
    core, factors = tensorly.decomposition.tucker(tensor.numpy(), rank=ranks)
    theirs = relative_error(tensor, torch.from_numpy(tensorly.tucker_to_tensor((core, factors))))
    assert tucker(tensor.float(), ranks).relative_error <= 1.001 * theirs


def test_sweeps_lower_the_error_and_stop_at_the_tolerance() -> None:
    tensor = low_rank((14, 13, 12), (5, 6, 6)) + 8.0 * noise(14, 13, 12, seed=3)
    errors = [tucker(tensor, (4, 4, 4), sweeps=n, tolerance=0.0).relative_error for n in range(5)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < errors[0]
    assert tucker(tensor, (4, 4, 4), sweeps=50, tolerance=1e-3).sweeps < 50


def test_the_same_tensor_gives_the_same_bits_whatever_was_drawn_before() -> None:
    """No random start, and signs of eigenvectors are fixed."""
    tensor = noise(8, 9, 10).float()
    first = tucker(tensor, (3, 4, 5))
    torch.rand(7)
    again = tucker(tensor.clone(), (3, 4, 5))
    for name in ("core", "layer", "left", "right"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert getattr(first, name).dtype == torch.float32
    largest = first.left.gather(0, first.left.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()


def test_no_gradient_is_kept() -> None:
    """The original ran the whole iteration under autograd."""
    assert not tucker(noise(4, 4, 4).requires_grad_(), (2, 2, 2)).core.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_decomposed_in_more(dtype: torch.dtype) -> None:
    tensor = low_rank((6, 8, 8), (3, 4, 4)).to(dtype)
    made = tucker(tensor, (3, 4, 4))
    assert made.core.dtype == dtype
    assert made.relative_error == pytest.approx(tucker(tensor.float(), (3, 4, 4)).relative_error)


def test_shared_factors_leave_every_matrix_a_core() -> None:
    """Protocol III: the best cores for given orthonormal factors are U^T X V; one more mode is kept whole."""
    tensor = noise(7, 9, 8)
    made = shared_factors(tensor, 4, 5)
    assert torch.equal(made.layer, torch.eye(7, dtype=torch.float64))
    torch.testing.assert_close(made.core, made.left.T @ tensor @ made.right)
    assert made.relative_error <= tucker(tensor, Ranks(5, 4, 5)).relative_error


def test_truncated_svd_is_the_best_of_its_rank() -> None:
    """Protocol II, beside torch's singular values."""
    tensor = noise(3, 8, 6)
    made = truncated_svd(tensor, 4)
    for n, matrix in enumerate(tensor):
        values = torch.linalg.svdvals(matrix)
        best = values[4:].norm() / values.norm()
        assert float(made.block_errors[n]) == pytest.approx(float(best))
        assert relative_error(matrix, made.left[n] @ made.right[n]) == pytest.approx(float(best))
    torch.testing.assert_close(truncated_svd(tensor, 6).left @ truncated_svd(tensor, 6).right, tensor)


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ((7, 3, 3), "rank_layer 7 is not between 1 and 6, the number of stacked matrices"),
        ((3, 6, 3), "rank_condim 6 is not between 1 and 5, the rows of a matrix"),
        ((3, 3, 9), "rank_dim 9 is not between 1 and 8, the columns of a matrix"),
        ((0, 3, 3), "rank_layer 0 is not between 1 and 6"),
    ],
)
def test_ranks_beyond_their_dimension_are_refused_with_both_numbers(ranks: tuple[int, int, int], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        tucker(noise(6, 5, 8), ranks)


def test_tensors_that_cannot_be_decomposed_are_refused() -> None:
    broken = noise(3, 4, 4)
    broken[1, 2, 3] = float("nan")
    for tensor, words in (
        (broken, "not finite"),
        (torch.zeros(3, 4, 4), "zero everywhere"),
        (noise(3, 4), r"\(N, D, E\).*\(3, 4\)"),
        (torch.ones(3, 4, 4, dtype=torch.long), r"\(N, D, E\)"),
    ):
        with pytest.raises(ModelError, match=words):
            tucker(tensor, (2, 2, 2))
    with pytest.raises(ModelError, match="rank_dim 5 is not between 1 and 4"):
        truncated_svd(noise(2, 4, 6), 5)


@pytest.mark.gpu
def test_a_gpu_finds_the_same_decomposition() -> None:
    """Factors may differ by rounding; the error does not."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    tensor = noise(14, 13, 12).float()
    there = tucker(tensor.cuda(), (4, 5, 6))
    assert there.core.is_cuda
    assert there.relative_error == pytest.approx(tucker(tensor, (4, 5, 6)).relative_error, rel=1e-5)
