"""Fitting factors to a table: truncated SVD, batched canonical polyadic decomposition, tensor train and ring.

Works on plain float64 tensors, on any device, and is deterministic.

Legend: Z tables fitted at once, N a mode's size, R rank, M and N a matrix's sides.
Sources: Kolda and Bader 2009 (alternating least squares), Van Loan and Pitsianis 1993 (nearest Kronecker
product), Oseledets 2011 (TT-SVD), Zhao et al. 2016 (arXiv:1606.05535, TR-SVD).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: Weight of the identity, relative to the mean squared column norm, that keeps least squares solvable.
_RIDGE = 1e-12
#: Sweeps end when one improves the squared error by less than this share of the table's.
_SETTLED = 1e-7
_LETTERS = "abcdefghijklmnopq"


def split_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of rank `rank` as (left, rest): [..., M, R] orthonormal and [..., R, N].

    From the eigenvectors of the smaller Gram matrix; `rest` is the projection of `matrix`, so at full rank the
    product is `matrix` up to rounding. The rank is cut to min(M, N).
    """
    rows, columns = matrix.shape[-2:]
    rank = min(rank, rows, columns)
    if rows <= columns:
        left = torch.linalg.eigh(matrix @ matrix.mT).eigenvectors[..., -rank:].flip(-1)
        return left, left.mT @ matrix
    right = torch.linalg.eigh(matrix.mT @ matrix).eigenvectors[..., -rank:].flip(-1)
    left, triangle = torch.linalg.qr(matrix @ right)
    return left, triangle @ right.mT


def rebuild(factors: Sequence[Tensor]) -> Tensor:
    """The tensors of a canonical polyadic form: factors [Z, N_k, R] -> [Z, N_1, N_2, …]."""
    left = factors[0]
    for factor in factors[1:-1]:
        left = torch.einsum("zar,zbr->zabr", left, factor).flatten(1, 2)
    sizes = [factor.shape[1] for factor in factors]
    return torch.einsum("zar,zbr->zab", left, factors[-1]).reshape(-1, *sizes)


def fit_products(target: Tensor, rank: int, sweeps: int = 12) -> list[Tensor]:
    """Sums of `rank` outer products near to each of Z tensors: the nearest of two modes, a local optimum of more.

    Args:
        target: [Z, N_1, N_2, …], at least two modes.
        rank: R. Of two modes, ranks above min(N_1, N_2) leave the superfluous products zero.
        sweeps: passes of alternating least squares at most; two modes need none.

    Returns:
        One factor [Z, N_k, R] per mode; the factors of a product have equal norms.
    """
    if target.dim() == 3:
        return _equal_norms(_from_svd(target, rank))
    return _equal_norms(_alternate(target, _from_modes(target, rank), sweeps))


def _from_svd(target: Tensor, rank: int) -> list[Tensor]:
    left, rest = split_svd(target, rank)
    missing = rank - left.shape[-1]
    return [torch.nn.functional.pad(factor, (0, missing)) for factor in (left, rest.mT)]


def _from_modes(target: Tensor, rank: int) -> list[Tensor]:
    """A start for the sweeps: each mode's leading singular vectors, then small random columns."""
    generator = torch.Generator().manual_seed(0)
    factors = []
    for mode in range(1, target.dim()):
        unfolded = target.movedim(mode, 1).flatten(2)
        left, _ = split_svd(unfolded, rank)
        noise = torch.randn(target.shape[mode], rank - left.shape[-1], generator=generator, dtype=torch.float64)
        noise = noise.to(target).expand(len(target), -1, -1) / math.sqrt(target.shape[mode])
        factors.append(torch.cat([left, noise], dim=-1))
    return factors


def _alternate(target: Tensor, factors: list[Tensor], sweeps: int) -> list[Tensor]:
    total, before = target.square().sum().item(), math.inf
    for _ in range(sweeps):
        for mode in range(len(factors)):
            factors[mode] = _least_squares(target, factors, mode)
        error = (target - rebuild(factors)).square().sum().item()
        if before - error <= _SETTLED * total:
            break
        before = error
    return factors


def _least_squares(target: Tensor, factors: list[Tensor], mode: int) -> Tensor:
    """The factor of `mode` [Z, N, R] that fits best, given the others."""
    modes = _LETTERS[: len(factors)]
    product, left = target, modes
    for other in reversed(range(len(factors))):
        if other == mode:
            continue
        rank = "" if left == modes else "r"
        rest = left.replace(modes[other], "")
        product = torch.einsum(f"z{left}{rank},z{modes[other]}r->z{rest}r", product, factors[other])
        left = rest
    grams = [factor.mT @ factor for k, factor in enumerate(factors) if k != mode]
    gram = torch.stack(grams).prod(dim=0)
    scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(torch.finfo(gram.dtype).tiny)
    ridge = _RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    gram = gram + ridge * scale[:, None, None]
    return torch.linalg.solve(gram, product.mT).mT


def _equal_norms(factors: list[Tensor]) -> list[Tensor]:
    """Spread each product's size evenly over its factors: equal sizes train best."""
    norms = [factor.norm(dim=1, keepdim=True) for factor in factors]
    mean = torch.stack(norms).prod(dim=0) ** (1 / len(factors))
    return [torch.where(norm > 0, factor * (mean / norm), 0.0) for factor, norm in zip(factors, norms, strict=True)]


def fit_ring(target: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """A tensor ring by successive truncated SVDs; with ranks[0] = 1 it is a tensor train.

    Args:
        target: [N_1, …, N_d].
        ranks: d ranks; ranks[k] lies before core k, ranks[0] also behind the last. ranks[0]·ranks[1] is at most
            N_1, and each other rank at most what its SVD has (`ring_ranks` gives such ranks).

    Returns:
        d cores [R_k, N_k, R_{k+1}].
    """
    sizes, closing = target.shape, ranks[0]
    left, rest = split_svd(target.reshape(sizes[0], -1), closing * ranks[1])
    cores = [left.reshape(sizes[0], closing, ranks[1]).movedim(1, 0)]
    rest = rest.reshape(closing, ranks[1], -1).movedim(0, -1)  # the closing rank goes behind the last mode
    for size, before, after in zip(sizes[1:-1], ranks[1:-1], ranks[2:], strict=True):
        left, rest = split_svd(rest.reshape(before * size, -1), after)
        cores.append(left.reshape(before, size, after))
    return [*cores, rest.reshape(ranks[-1], sizes[-1], closing)]


def ring_ranks(sizes: Sequence[int], rank: int, closed: bool) -> tuple[int, ...]:
    """The ranks (see `fit_ring`) that `rank` allows for modes of the given sizes.

    Inner ranks are cut to what the unfolding has. A closed ring's closing rank is what the first mode leaves room
    for, an open one's (a tensor train's) is 1.
    """
    total = math.prod(sizes)
    first = min(rank, sizes[0], total // sizes[0])
    closing = max(1, min(rank, min(sizes[0], total // sizes[0]) // first)) if closed else 1
    ranks, before = [closing, first], first
    for k in range(1, len(sizes) - 1):
        before = min(rank, before * sizes[k], closing * math.prod(sizes[k + 1 :]))
        ranks.append(before)
    return tuple(ranks)
