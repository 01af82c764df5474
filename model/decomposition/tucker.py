"""The Tucker decomposition of a stack of matrices: T (N, D, E) ~ core (a, b, c) x1 F (N, a) x2 U (D, b) x3 V (E, c).

Higher-order orthogonal iteration (De Lathauwer, De Moor and Vandewalle 2000, "On the best rank-1 and rank-(R1, …, RN)
approximation"), started from the sequentially truncated higher-order SVD (Vannieuwenhoven et al. 2012). A factor is the
leading eigenvectors of an unfolding's Gram matrix, which has the size of one mode only: a stack of 144 matrices of
768 x 768 needs eigenvectors of 768 x 768 matrices and never a singular value decomposition of a 768 x 110592 one.

Knows no backbone: plain tensors in and out, on any device. The same input gives the same bits on the same machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from model.errors import ModelError

#: Tensors of up to this many elements are decomposed in float64 whatever they come in.
_EXACT_ELEMENTS = 2**22
#: Below this relative error a difference of squared norms has lost its digits, and the residual itself is summed.
_CANCELLATION = {torch.float32: 1e-2, torch.float64: 1e-6}


class Ranks(NamedTuple):
    """How many leading vectors each mode keeps: a <= N, b <= D, c <= E."""

    layer: int
    left: int
    right: int


@dataclass(frozen=True)
class Tucker:
    """A decomposition with orthonormal factors.

    Attributes:
        core: (a, b, c).
        layer: F (N, a).
        left: U (D, b).
        right: V (E, c). Checkpoints keep its transpose.
        relative_error: |T - reconstruction| / |T|, Frobenius norms.
        block_errors: the same for each of the N matrices, (N,) in float64.
        sweeps: refinement sweeps that were run.
    """

    core: Tensor
    layer: Tensor
    left: Tensor
    right: Tensor
    relative_error: float
    block_errors: Tensor
    sweeps: int


def tucker(
    tensor_NDE: Tensor, ranks: Ranks | tuple[int, int, int], sweeps: int = 10, tolerance: float = 2e-5
) -> Tucker:
    """Decompose T at the given ranks.

    Args:
        tensor_NDE: T, any floating dtype; tensors of 16-bit floats are decomposed in float32.
        ranks: (a, b, c).
        sweeps: at most this many refinement sweeps behind the truncated SVD.
        tolerance: stop when a sweep lowers the relative error by less than this.

    Raises:
        ModelError: a rank is below 1 or above its dimension, or T is not three-dimensional or not finite.
    """
    wanted = _checked(tensor_NDE, Ranks(*ranks))
    x = _working(tensor_NDE.detach())
    squared_N = torch.linalg.vector_norm(x.flatten(1), dim=1, dtype=torch.float64).square()
    total = float(squared_N.sum())
    if total == 0.0:
        raise ModelError("The tensor to decompose is zero everywhere.")
    layer, left, right, core = _truncated_svd(x, wanted)
    error, done, projected = _error_from_norms(total, core), 0, None
    # With two modes kept whole, the first guess is the best there is.
    while done < sweeps and sum(r < size for r, size in zip(wanted, x.shape, strict=True)) > 1:
        mixed = _mix(layer, x)
        left = _factor(mixed @ right, 1, wanted.left)
        right = _factor(left.T @ mixed, 2, wanted.right)
        projected = _project(x, left, right)
        layer = _factor(projected, 0, wanted.layer)
        core = _mix(layer, projected)
        before, error, done = error, _error_from_norms(total, core), done + 1
        if before - error < tolerance:
            break
    made = Tucker(core, layer, left, right, error, torch.empty(0), done)
    projected = _project(x, left, right) if projected is None else projected
    made = replace(made, block_errors=_block_errors(x, projected, squared_N, made))
    exact = float((made.block_errors.square() * squared_N).sum().div(total).sqrt())
    return _as(replace(made, relative_error=exact), tensor_NDE.dtype)


def reconstruct(made: Tucker) -> Tensor:
    """The tensor (N, D, E) that the factors stand for."""
    cores_Nbc = torch.einsum("na,abc->nbc", made.layer, made.core)
    return made.left @ cores_Nbc @ made.right.T


def relative_error(tensor: Tensor, approximation: Tensor) -> float:
    """|T - approximation| / |T|, Frobenius norms summed in float64."""
    difference = torch.linalg.vector_norm(tensor - approximation, dtype=torch.float64)
    return float(difference / torch.linalg.vector_norm(tensor, dtype=torch.float64))


def shared_factors(tensor_NDE: Tensor, left: int, right: int, sweeps: int = 10, tolerance: float = 2e-5) -> Tucker:
    """Tucker-2 (protocol III): outer factors for all matrices, a core (left, right) for each; `layer` is the identity.

    Raises:
        ModelError: as `tucker`.
    """
    return tucker(tensor_NDE, Ranks(tensor_NDE.shape[0], left, right), sweeps, tolerance)


class LowRank(NamedTuple):
    """Each matrix by itself: T[n] ~ left[n] (D, r) @ right[n] (r, E), with the relative error of each, (N,)."""

    left: Tensor
    right: Tensor
    block_errors: Tensor


def truncated_svd(tensor_NDE: Tensor, rank: int) -> LowRank:
    """The best approximation of rank `rank` to each matrix (protocol II); the singular values are split evenly.

    Raises:
        ModelError: the rank is below 1 or above the matrices' smaller dimension, or T is not finite.
    """
    smaller = min(tensor_NDE.shape[1:])
    _checked(tensor_NDE, Ranks(1, 1, 1))
    if not 1 <= rank <= smaller:
        raise ModelError(f"rank_dim {rank} is not between 1 and {smaller}, the dimension of the matrices.")
    lefts, rights, errors = [], [], []
    for matrix in tensor_NDE.detach():
        u, s, v = torch.linalg.svd(_working(matrix), full_matrices=False)
        signs = _signs(u[:, :rank])
        root = s[:rank].sqrt()
        lefts.append((u[:, :rank] * signs * root).to(tensor_NDE.dtype))
        rights.append(((v[:rank].T * signs * root).T).to(tensor_NDE.dtype))
        lost, whole = s[rank:].double().square().sum().sqrt(), s.double().square().sum().sqrt()
        errors.append(lost / whole if whole > 0 else lost)
    return LowRank(torch.stack(lefts), torch.stack(rights), torch.stack(errors).cpu())


def _checked(tensor: Tensor, ranks: Ranks) -> Ranks:
    if tensor.dim() != 3 or not tensor.is_floating_point():
        raise ModelError(f"Expected matrices stacked to (N, D, E), found {tensor.dtype} {tuple(tensor.shape)}.")
    names = ("rank_layer", "rank_condim", "rank_dim")
    whats = ("the number of stacked matrices", "the rows of a matrix", "the columns of a matrix")
    for name, rank, size, what in zip(names, ranks, tensor.shape, whats, strict=True):
        if not 1 <= rank <= size:
            raise ModelError(f"{name} {rank} is not between 1 and {size}, {what}.")
    if not bool(torch.isfinite(tensor).all()):
        raise ModelError("The weights to decompose hold values that are not finite numbers.")
    return ranks


def _working(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.numel() <= _EXACT_ELEMENTS else tensor.to(_at_least_float32(tensor.dtype))


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _as(made: Tucker, dtype: torch.dtype) -> Tucker:
    parts = {name: getattr(made, name).to(dtype).contiguous() for name in ("core", "layer", "left", "right")}
    return replace(made, **parts, block_errors=made.block_errors.cpu())


def _truncated_svd(x: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mode by mode, each on what the former left over: every step makes the next one cheaper."""
    layer = _factor(x, 0, ranks.layer)
    mixed = _mix(layer, x)
    left = _factor(mixed, 1, ranks.left)
    mixed = left.T @ mixed
    right = _factor(mixed, 2, ranks.right)
    return layer, left, right, mixed @ right


def _factor(x: Tensor, mode: int, rank: int) -> Tensor:
    """The `rank` leading left singular vectors of an unfolding, largest first; of all of them the simplest basis."""
    if rank == x.shape[mode]:
        return torch.eye(rank, dtype=x.dtype, device=x.device)
    _, vectors = torch.linalg.eigh(_gram(x, mode).double())
    leading = vectors[:, -rank:].flip(1)
    return (leading * _signs(leading)).to(x.dtype)


def _gram(x: Tensor, mode: int) -> Tensor:
    """Unfolding times its transpose."""
    if mode != 1:
        rows = x.flatten(1).T if mode == 0 else x.reshape(-1, x.shape[2])
        return rows.T @ rows
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype, device=x.device)
    for matrix in x:  # the sum of X_n X_n^T, without a transposed copy of the whole
        gram.addmm_(matrix, matrix.T)
    return gram


def _signs(columns: Tensor) -> Tensor:
    """+-1 per column, so that its largest entry becomes positive: eigenvectors come with either sign."""
    largest = columns.abs().argmax(0, keepdim=True)
    return torch.where(columns.gather(0, largest) < 0, -1.0, 1.0).to(columns.dtype)


def _mix(layer: Tensor, x: Tensor) -> Tensor:
    if layer.shape[0] == layer.shape[1]:  # the identity, see `_factor`
        return x
    return (layer.T @ x.flatten(1)).reshape(-1, *x.shape[1:])


def _project(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """U^T X_n V for every n, the side that shrinks more first."""
    if left.shape[1] * right.shape[0] < right.shape[1] * left.shape[0]:
        return (left.T @ x) @ right
    return left.T @ (x @ right)


def _error_from_norms(total: float, core: Tensor) -> float:
    """With orthonormal factors the squared norms of reconstruction and residual add up to the tensor's."""
    kept = float(torch.linalg.vector_norm(core, dtype=torch.float64).square())
    return max(0.0, 1.0 - kept / total) ** 0.5


def _block_errors(x: Tensor, projected: Tensor, squared_N: Tensor, made: Tucker) -> Tensor:
    """|X_n - U C_n V^T| / |X_n|: with P_n = U^T X_n V, the squared residual is |X_n|² - 2 <P_n, C_n> + |C_n|²."""
    cores = torch.einsum("na,abc->nbc", made.layer, made.core).flatten(1)
    if made.relative_error > _CANCELLATION[x.dtype]:
        products = (projected.flatten(1) * cores).sum(1, dtype=torch.float64)
        norms = torch.linalg.vector_norm(cores, dim=1, dtype=torch.float64).square()
        residual = (squared_N - 2 * products + norms).clamp(min=0)
    else:
        rows = zip(x, cores.unflatten(1, projected.shape[1:]), strict=True)
        differences = (matrix - made.left @ core @ made.right.T for matrix, core in rows)
        residual = torch.stack([torch.linalg.vector_norm(d, dtype=torch.float64).square() for d in differences])
    return torch.where(squared_N > 0, residual / squared_N, 0.0).sqrt()
