"""Factorised embeddings: the maths and the fitting, on small tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import tensorly
import torch
from tensorly.decomposition import tensor_ring, tensor_train
from torch import Tensor, nn

from model import ModelError
from model.decomposition.embeddings import (
    EmbeddingKet,
    EmbeddingKetXS,
    EmbeddingTensorRing,
    EmbeddingTensorTrain,
    FactorisedEmbedding,
)
from model.decomposition.embeddings.fitting import fit_products, fit_ring, rebuild, ring_ranks
from model.decomposition.embeddings.shapes import balanced_sizes, fold_table, leaf_size

V, D = 50, 24

Make = Callable[..., FactorisedEmbedding]
#: One of each kind, at a rank that loses something and at one that does not.
KINDS: dict[str, tuple[Any, dict[str, int], dict[str, int] | None]] = {
    "ket2": (EmbeddingKet, {"order": 2, "rank": 2}, {"order": 2, "rank": 5}),
    "ket3": (EmbeddingKet, {"order": 3, "rank": 2}, {"order": 3, "rank": 9}),
    "ket4": (EmbeddingKet, {"order": 4, "rank": 1}, None),
    "ketxs2": (EmbeddingKetXS, {"order": 2, "rank": 3}, {"order": 2, "rank": 40}),
    "ketxs3": (EmbeddingKetXS, {"order": 3, "rank": 3}, None),
    "ketxs4": (EmbeddingKetXS, {"order": 4, "rank": 2}, None),
    "tt2": (EmbeddingTensorTrain, {"order": 2, "rank": 5}, {"order": 2, "rank": 99}),
    "tt3": (EmbeddingTensorTrain, {"order": 3, "rank": 5}, {"order": 3, "rank": 99}),
    "tr3": (EmbeddingTensorRing, {"order": 3, "rank": 3}, {"order": 3, "rank": 99}),
    "tr4": (EmbeddingTensorRing, {"order": 4, "rank": 2}, {"order": 4, "rank": 99}),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def table(rows: int = V, columns: int = D, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(kind: str, padding_idx: int | None = None) -> FactorisedEmbedding:
    """A freshly drawn embedding in float64."""
    torch.manual_seed(3)
    make, settings, _ = KINDS[kind]
    module: FactorisedEmbedding = make(V, D, padding_idx=padding_idx, **settings).double()
    module.reset_parameters(std=1.0)
    return module


# --- sizes --------------------------------------------------------------------------------------------------------


def test_leaf_sizes_are_exact_roots() -> None:
    """Rounding of a floating-point root never adds or loses one."""
    for order in (2, 3, 4, 5, 7):
        for base in range(1, 40):
            assert leaf_size(base**order, order) == base
            assert leaf_size(base**order + 1, order) == base + 1
    assert leaf_size(3125, 5) == 5 < math.ceil(3125 ** (1 / 5))


def test_balanced_sizes_waste_little() -> None:
    """Their product reaches the total, with at most a few per cent more, and the sizes are alike."""
    assert balanced_sizes(384, 3) == (6, 8, 8)
    for total in (7, 97, 120, 768, 30522, 32128):
        for order in (2, 3, 4):
            sizes = balanced_sizes(total, order)
            assert len(sizes) == order and total <= math.prod(sizes)
            assert math.prod(sizes) <= leaf_size(total, order) ** order
    assert math.prod(balanced_sizes(30522, 3)) <= 1.01 * 30522


# --- the maths ----------------------------------------------------------------------------------------------------


def test_ket_and_ketxs_are_kronecker_products() -> None:
    """Against torch.kron, first factor slowest, cut to the table's size."""
    ket, xs = build("ket3"), build("ketxs3")
    assert isinstance(ket, EmbeddingKet) and isinstance(xs, EmbeddingKetXS)
    row = sum(torch.kron(torch.kron(w[0][17], w[1][17]), w[2][17]) for w in ket.leaves.transpose(0, 1))
    assert isinstance(row, Tensor)
    torch.testing.assert_close(ket.weight[17], row[:D])
    whole = sum(torch.kron(torch.kron(w[0], w[1]), w[2]) for w in xs.leaves.transpose(0, 1))
    assert isinstance(whole, Tensor)
    torch.testing.assert_close(xs.weight, whole[:V, :D])


def test_ring_is_the_trace_of_the_cores() -> None:
    """Against the definition, entry by entry."""
    ring = build("tr4")
    assert isinstance(ring, EmbeddingTensorRing) and ring.ranks[0] > 1
    row, column = 37, 19
    product, i, j = torch.eye(ring.ranks[-1 + 1], dtype=torch.float64), row, column
    digits = []
    for rows, columns in zip(reversed(ring.row_sizes), reversed(ring.column_sizes), strict=True):
        digits.append((i % rows, j % columns))
        i, j = i // rows, j // columns
    for core, (a, b) in zip(ring.cores, reversed(digits), strict=True):
        product = product @ core[:, a, b]
    torch.testing.assert_close(ring.weight[row, column], product.trace())


@each_kind
def test_lookup_by_row_equals_the_table(kind: str) -> None:
    """Values and gradients of the row path equal those of nn.functional.embedding on the table."""
    ids = torch.tensor([[0, 1, 49], [7, 7, 0]])
    for padding in (None, 0, -1):
        module = build(kind, padding)
        weight = module.weight
        assert weight.shape == (V, D)
        found, expected = module(ids), nn.functional.embedding(ids, weight, module.padding_idx)
        torch.testing.assert_close(found, expected)
        one = torch.autograd.grad(found.square().sum(), list(module.parameters()), allow_unused=True)
        two = torch.autograd.grad(expected.square().sum(), list(module.parameters()), allow_unused=True)
        torch.testing.assert_close(one, two)


@each_kind
def test_looking_up_many_ids_equals_looking_up_few(kind: str) -> None:
    """From V ids on the table is computed once; the result is the same."""
    module = build(kind, 0)
    many = torch.arange(V).repeat(2)
    torch.testing.assert_close(module(many)[:V], torch.cat([module(part) for part in many[:V].split(7)]))


@each_kind
def test_projection_equals_the_product_with_the_table(kind: str) -> None:
    """Whichever way is cheaper; gradients too."""
    module = build(kind)
    hidden = table(3, D, seed=5).view(3, 1, D).requires_grad_()
    found, expected = module.project(hidden), hidden @ module.weight.T
    torch.testing.assert_close(found, expected)
    wanted = [hidden, *module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), wanted), torch.autograd.grad(expected.square().sum(), wanted)
    )


def test_every_way_to_project_is_taken() -> None:
    """Few products: through the halves, whichever half is cheaper first; many products: the table."""
    ways = set()
    for rows, columns, rank in ((400, 9, 1), (9, 400, 1), (50, 24, 40)):
        module = EmbeddingKetXS(rows, columns, 3 if rank == 1 else 2, rank).double()
        left, right, dense = module._project_macs(*module.halves(), 4)
        ways.add(min((left, "left"), (right, "right"), (dense, "dense"))[1])
        hidden = table(4, columns)
        torch.testing.assert_close(module.project(hidden), hidden @ module.weight.T)
    assert len(ways) >= 2 and "dense" in ways


@each_kind
def test_fresh_tables_have_the_wanted_size(kind: str) -> None:
    """The entries' standard deviation is the one asked for, within the spread of so few factors."""
    values = []
    for seed in range(8):
        torch.manual_seed(seed)
        module = build(kind)
        torch.manual_seed(seed)
        module.reset_parameters(std=0.5)
        values.append(module.weight.square().mean().item())
    assert 0.2 < math.sqrt(sum(values) / len(values)) < 0.9


def test_ids_beyond_the_table_are_refused() -> None:
    """The factors span more rows than the table has."""
    for kind in KINDS:
        with pytest.raises(IndexError, match="50"):
            build(kind)(torch.tensor([V]))


# --- fitting ------------------------------------------------------------------------------------------------------


@each_kind
def test_fit_reports_its_error_and_full_rank_is_exact(kind: str) -> None:
    """The reported relative error is the table's; at full rank nothing is lost."""
    make, settings, full = KINDS[kind]
    weight = table()
    module = make.from_weight(weight, padding_idx=0, **settings)
    error = ((module.weight - weight).norm() / weight.norm()).item()
    assert module.relative_error == pytest.approx(error, abs=1e-12) and 0 < error < 1
    if full is not None:
        assert make.from_weight(weight, **full).relative_error < (
            1e-10 if full["order"] == 2 or "t" in kind[0] else 0.1
        )


@each_kind
def test_tables_of_the_right_form_are_found_again(kind: str) -> None:
    """A table that is such a product of rank 1, and fills the factors, is fitted without loss."""
    make, settings, _ = KINDS[kind]
    size = 3 ** settings["order"]
    truth = make(size, size, settings["order"], 1).double()
    truth.reset_parameters(std=1.0)
    assert make.from_weight(truth.weight, **settings).relative_error < 1e-4


def test_fit_beats_neighbouring_factors() -> None:
    """No small change of the factors lowers the error of the SVD fits (order 2): they are minima."""
    weight = table(36, 16)
    for make in (EmbeddingKet, EmbeddingKetXS, EmbeddingTensorTrain):
        module = make.from_weight(weight, order=2, rank=2)
        (module.weight - weight).square().sum().backward()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert gradients and all(gradient.abs().max() < 1e-8 for gradient in gradients)


def test_more_products_fit_better() -> None:
    """The error falls with the rank, beyond the leaf size too."""
    weight = table(8, 16)
    errors = [EmbeddingKet.from_weight(weight, order=4, rank=rank).relative_error for rank in (1, 2, 3, 5)]
    assert all(a is not None and b is not None and b < a for a, b in itertools.pairwise(errors))


def test_fitting_is_deterministic() -> None:
    """Twice the same bits, whatever the global random state."""
    target = table(4, 81).view(4, 3, 3, 3, 3)
    one = fit_products(target, 5)
    torch.manual_seed(99)
    assert all(torch.equal(a, b) for a, b in zip(one, fit_products(target, 5), strict=True))


def test_products_fit_every_table_of_a_batch_alone() -> None:
    """Fitting tables together gives what each gives alone."""
    target = table(3, 64).view(3, 4, 4, 4)
    together = rebuild(fit_products(target, 2, sweeps=6))
    alone = torch.cat([rebuild(fit_products(one[None], 2, sweeps=6)) for one in target])
    torch.testing.assert_close(together, alone, atol=4e-6, rtol=1e-6)


@pytest.mark.parametrize("closed", [False, True])
def test_trains_and_rings_are_as_good_as_tensorlys(closed: bool) -> None:
    """The same ranks give tensorly's error; a ring's depends a little on the signs of its first singular vectors."""
    folded = fold_table(table(60, 24), (3, 4, 5), (2, 3, 4))
    ranks = ring_ranks(folded.shape, 3 if closed else 4, closed)
    assert closed == (ranks[0] > 1)
    chain = torch.einsum(
        "zaiy,yjx,xkz->ijk", *(c.unsqueeze(1) if n == 0 else c for n, c in enumerate(fit_ring(folded, ranks)))
    )
    decompose, rebuild_theirs = (
        (tensor_ring, tensorly.tr_to_tensor) if closed else (tensor_train, tensorly.tt_to_tensor)
    )
    theirs = torch.from_numpy(rebuild_theirs(decompose(folded.numpy(), [*ranks, ranks[0]])))
    torch.testing.assert_close((chain - folded).norm(), (theirs - folded).norm(), rtol=0.02 if closed else 1e-6, atol=0)


def test_bad_tables_and_settings_are_refused() -> None:
    """One sentence each."""
    with pytest.raises(ModelError, match="not finite"):
        EmbeddingKet.from_weight(torch.full((4, 4), math.nan))
    with pytest.raises(ModelError, match="order must be at least 2, found 1"):
        EmbeddingKet(4, 4, order=1)
    with pytest.raises(ModelError, match="rank must be at least 1, found 0"):
        EmbeddingKetXS(4, 4, rank=0)
    with pytest.raises(ModelError, match="padding_idx 4"):
        EmbeddingTensorTrain(4, 4, padding_idx=4)
    with pytest.raises(ModelError, match="four dimensions"):
        EmbeddingKet.from_leaves(torch.zeros(3, 4), 4)
    with pytest.raises(ModelError, match="fewer than 17 columns"):
        EmbeddingKet.from_leaves(torch.zeros(2, 1, 5, 4), 17)
    with pytest.raises(ModelError, match="shape"):
        EmbeddingKet(4, 4).fit(torch.zeros(4, 5))


def test_zero_tables_fit_without_error() -> None:
    """No division by a norm of zero."""
    for kind in KINDS:
        make, settings, _ = KINDS[kind]
        module = make.from_weight(torch.zeros(V, D, dtype=torch.float64), **settings)
        assert module.relative_error == 0 and bool(torch.isfinite(module.weight).all())
