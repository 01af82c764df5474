"""The parameters of decomposed matrices, one module for a whole encoder, and the weights formed from them.

Shapes: N stacked blocks, D width, a, c, d the ranks rank_layer, rank_condim, rank_dim; n blocks of a group.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from model.decomposition.plans import Factors, Inner, PairFactors, SharedFactors
from model.errors import ModelError
from model.packing import PackedWeight, Weight, usable_for

#: Values looked at to notice a change that bypassed autograd (`parameter.data`).
_PROBED = 64


class State:
    """What formed weights depend on: equal states mean equal weights."""

    def __init__(self, parameters: tuple[Tensor, ...], marks: tuple[Any, ...]) -> None:
        self._parameters = parameters
        self._marks = marks

    def same(self, other: State) -> bool:
        """Whether no parameter was replaced, moved or written to in between."""
        return self._marks == other._marks and all(
            mine is theirs for mine, theirs in zip(self._parameters, other._parameters, strict=True)
        )


class _Cache:
    """Formed weights by group. Neither copied nor saved with a model: they can be formed again."""

    def __init__(self) -> None:
        self.entries: dict[Any, tuple[State, tuple[Weight, ...]]] = {}
        self.packed: dict[Any, tuple[State, PackedWeight]] = {}
        self.probe: Tensor | None = None

    def __reduce__(self) -> tuple[type[_Cache], tuple[()]]:
        return _Cache, ()


class MatrixBank(nn.Module, ABC):
    """Base of the banks: gives any rows of the stacked blocks in factorised form."""

    def __init__(self) -> None:
        super().__init__()
        self._cache = _Cache()
        self._changes = 0
        self._kept: dict[str, int] | None = None

    @property
    @abstractmethod
    def inner(self) -> Inner:
        """Inner dimensions of every block's factors, not transposed."""

    @abstractmethod
    def stacked_factors(self, rows: slice) -> Factors:
        """The blocks of `rows` as factors."""

    @abstractmethod
    def reset_parameters(self, std: float) -> None:
        """Draw all factors so that the blocks' entries have the standard deviation `std`."""

    @property
    @abstractmethod
    def ranks(self) -> dict[str, int]:
        """The ranks that can be narrowed, by their names in the config: how many components the parameters hold."""

    @abstractmethod
    def _views(self, kept: Mapping[str, int]) -> dict[str, Tensor]:
        """The leading components of each parameter, as views of them."""

    def narrow(self, kept: Mapping[str, int] | None) -> None:
        """Compute with the leading components alone from now on, without a copy; None gives all of them back.

        Raises:
            ModelError: a rank is below 1 or above what there is, or the bank is not of a kind that can be narrowed.
        """
        kept = None if kept is None else self._checked(kept)
        if kept != self._kept:
            self._kept = kept
            self.forget()

    def shrink(self, kept: Mapping[str, int]) -> None:
        """Let go of all but the leading components; the parameters are new ones.

        Raises:
            ModelError: as `narrow`.
        """
        self.narrow(None)
        for name, view in self._views(self._checked(kept)).items():
            old = self.get_parameter(name)
            setattr(self, name, nn.Parameter(view.detach().clone(), requires_grad=old.requires_grad))
        self.forget()

    def _checked(self, kept: Mapping[str, int]) -> dict[str, int]:
        for name, most in self.ranks.items():
            if not 1 <= kept[name] <= most:
                raise ModelError(f"{name} {kept[name]} is not between 1 and {most}, what the bank has.")
        return dict(kept)

    def _part(self, name: str) -> Tensor:
        """A parameter, or the part of it that is in use."""
        return self.get_parameter(name) if self._kept is None else self._views(self._kept)[name]

    def factors(self, rows: slice, transposed: bool) -> Factors:
        """The blocks of `rows` as factors, or their transposes."""
        made = self.stacked_factors(rows)
        if not transposed:
            return made
        if isinstance(made, PairFactors):
            return PairFactors(made.last.mT, made.first.mT)
        return SharedFactors(made.last.T, made.cores.mT, made.first.T)

    def matrices(self, rows: slice) -> Tensor:
        """The blocks of `rows`, (n, D, D)."""
        made = self.stacked_factors(rows)
        return made.first @ made.last if isinstance(made, PairFactors) else made.first @ made.cores @ made.last

    # weights that are formed once

    def state(self) -> State:
        """What formed weights depend on now."""
        parameters = tuple(self.parameters())
        marks = [self._changes, _autocast_dtype(parameters[0].device)]
        for parameter in parameters:
            marks += [None if parameter.is_inference() else parameter._version, parameter.data_ptr()]
        return State(parameters, tuple(marks))

    def cached(self, key: Any, form: Callable[[], tuple[Tensor, ...]]) -> tuple[Weight, ...]:
        """The weights that `form` gives, formed anew only where the state has changed since the last time.

        Where it can be, they come packed (see `packing`).
        """
        state, parameter = self.state(), next(self.parameters())
        packs = usable_for(parameter)
        entry = self._cache.entries.get((key, packs))
        if entry is None or not entry[0].same(state):
            dtype = _autocast_dtype(parameter.device)
            # Formed inside inference mode they could never be used outside it.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(parameter.device.type, enabled=False):
                formed = tuple(weight if dtype is None else weight.to(dtype) for weight in form())
                made = tuple(self._packed(weight, state) for weight in formed) if packs else formed
            self._cache.entries[key, packs] = entry = (state, made)
        return entry[1]

    def _packed(self, weight: Tensor, state: State) -> Weight:
        """A matrix packed; one that lies in a parameter, as shared factors do, once for all groups."""
        if weight.dim() != 2:
            return weight
        if weight.data_ptr() not in {parameter.data_ptr() for parameter in self.parameters()}:
            return PackedWeight(weight)
        place = (weight.data_ptr(), weight.shape, weight.stride())
        entry = self._cache.packed.get(place)
        if entry is None or not entry[0].same(state):
            self._cache.packed[place] = entry = (state, PackedWeight(weight))
        return entry[1]

    def forget(self) -> None:
        """Drop all formed weights."""
        self._cache.entries.clear()
        self._cache.packed.clear()
        self._changes += 1

    @torch.no_grad()
    def probe(self) -> None:
        """Forget the formed weights if some values differ from those of the last time.

        Writing through `parameter.data` leaves no trace for autograd. A few values of each parameter, looked at
        once per forward, show it; on a GPU that would make every forward wait, so there it is not looked for.
        """
        parts = [p.detach().view(-1)[:: max(1, p.numel() // _PROBED)] for p in self.parameters()]
        if parts[0].device.type != "cpu":
            return
        found = torch.cat(parts)
        if self._cache.probe is not None and not torch.equal(found, self._cache.probe):
            self.forget()
        self._cache.probe = found

    def train(self, mode: bool = True) -> Self:
        """Training forms weights anew in every step, so those kept for evaluation are dropped."""
        if mode:
            self.forget()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self.forget()  # moved or cast
        return super()._apply(*args, **kwargs)


class TuckerBank(MatrixBank):
    """Protocols III and IV: block b is U @ core_b @ V with core_b = sum over i of factor_layer[b, i] core[i].

    Args:
        blocks: N.
        width: D.
        ranks: (a, c, d); without a, every block has a core of its own and there is no `factor_layer`.

    Parameters have the original's names and shapes: `core` (a or N, c, d), `factor_layer` (N, a), `factor_left` (D, c),
    `factor_right` (d, D).
    """

    def __init__(self, blocks: int, width: int, ranks: tuple[int | None, int, int], **kind: Any) -> None:
        super().__init__()
        layer, left, right = ranks
        self.core = nn.Parameter(torch.empty(layer or blocks, left, right, **kind))
        self.factor_layer = nn.Parameter(torch.empty(blocks, layer, **kind)) if layer else None
        self.factor_left = nn.Parameter(torch.empty(width, left, **kind))
        self.factor_right = nn.Parameter(torch.empty(right, width, **kind))

    @property
    def inner(self) -> Inner:
        """(c, d), shared."""
        core = self._part("core")
        return Inner(core.shape[1], core.shape[2], True)

    @property
    def ranks(self) -> dict[str, int]:
        """rank_layer (of protocol IV alone), rank_condim, rank_dim."""
        layer, left, right = self.core.shape
        ranks = {"rank_condim": left, "rank_dim": right}
        return ranks if self.factor_layer is None else {"rank_layer": layer, **ranks}

    def _views(self, kept: Mapping[str, int]) -> dict[str, Tensor]:
        left, right = kept["rank_condim"], kept["rank_dim"]
        views = {"factor_left": self.factor_left[:, :left], "factor_right": self.factor_right[:right]}
        if self.factor_layer is None:
            return {**views, "core": self.core[:, :left, :right]}
        layer = kept["rank_layer"]
        return {**views, "core": self.core[:layer, :left, :right], "factor_layer": self.factor_layer[:, :layer]}

    def cores(self, rows: slice) -> Tensor:
        """The blocks' own cores, (n, c, d)."""
        core = self._part("core")
        if self.factor_layer is None:
            return core[rows]
        mixed = self._part("factor_layer")[rows] @ core.flatten(1)
        return mixed.view(-1, *core.shape[1:])

    def stacked_factors(self, rows: slice) -> Factors:
        """U, the cores, V."""
        return SharedFactors(self._part("factor_left"), self.cores(rows), self._part("factor_right"))

    def reset_parameters(self, std: float) -> None:
        """Outer factors of unit size; the core carries the scale: Var = c d / D² Var(core)."""
        width, (_, left, right) = self.factor_left.shape[0], self.core.shape
        nn.init.normal_(self.factor_left, std=width**-0.5)
        nn.init.normal_(self.factor_right, std=width**-0.5)
        if self.factor_layer is not None:
            nn.init.normal_(self.factor_layer, std=self.factor_layer.shape[1] ** -0.5)
        nn.init.normal_(self.core, std=std * width / math.sqrt(left * right))


class PairBank(MatrixBank):
    """Protocol II: block b is left[b] (D, r) @ right[b] (r, D)."""

    def __init__(self, blocks: int, width: int, rank: int, **kind: Any) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.empty(blocks, width, rank, **kind))
        self.right = nn.Parameter(torch.empty(blocks, rank, width, **kind))

    @property
    def inner(self) -> Inner:
        """(r, r), each block's own."""
        rank = self._part("left").shape[2]
        return Inner(rank, rank, False)

    @property
    def ranks(self) -> dict[str, int]:
        """rank_dim."""
        return {"rank_dim": self.left.shape[2]}

    def _views(self, kept: Mapping[str, int]) -> dict[str, Tensor]:
        rank = kept["rank_dim"]
        return {"left": self.left[:, :, :rank], "right": self.right[:, :rank]}

    def stacked_factors(self, rows: slice) -> Factors:
        """The pairs as they are."""
        return PairFactors(self._part("left")[rows], self._part("right")[rows])

    def reset_parameters(self, std: float) -> None:
        """Both factors alike: Var = r Var(left) Var(right)."""
        each = math.sqrt(std) * self.left.shape[2] ** -0.25
        nn.init.normal_(self.left, std=each)
        nn.init.normal_(self.right, std=each)


class ExpandedBank(TuckerBank):
    """`is_expand`: block b is tanh([U u_b] @ [[core_b, w12_b], [w21_b, w22_b]]) @ [V; v_b], tanh of each element.

    Args:
        expansion: columns of u_b and rows of v_b.

    Parameters besides those of the bank without layer ranks: `exp_left` (N, D, l), `exp_right` (N, r, D),
    `exp_core12` (N, c, r), `exp_core21` (N, l, d), `exp_core22` (N, l, r).
    """

    def __init__(
        self, blocks: int, width: int, ranks: tuple[int, int], expansion: tuple[int, int], **kind: Any
    ) -> None:
        super().__init__(blocks, width, (None, *ranks), **kind)
        left, right = expansion
        self.exp_left = nn.Parameter(torch.empty(blocks, width, left, **kind))
        self.exp_right = nn.Parameter(torch.empty(blocks, right, width, **kind))
        self.exp_core12 = nn.Parameter(torch.empty(blocks, ranks[0], right, **kind))
        self.exp_core21 = nn.Parameter(torch.empty(blocks, left, ranks[1], **kind))
        self.exp_core22 = nn.Parameter(torch.empty(blocks, left, right, **kind))

    @property
    def ranks(self) -> dict[str, int]:
        """None.

        Raises:
            ModelError: always.
        """
        raise ModelError("With is_expand, tanh mixes the components: they are in no order, so no rank can be narrowed.")

    @property
    def inner(self) -> Inner:
        """(d + r, d + r): tanh leaves each block a left factor of its own."""
        rank = self.core.shape[2] + self.exp_right.shape[1]
        return Inner(rank, rank, False)

    def stacked_factors(self, rows: slice) -> Factors:
        """The two factors on either side of the product that follows tanh."""
        from_shared = torch.cat([self.core[rows], self.exp_core12[rows]], dim=2)
        from_own = torch.cat([self.exp_core21[rows], self.exp_core22[rows]], dim=2)
        first = torch.tanh(self.factor_left @ from_shared + self.exp_left[rows] @ from_own)
        own = self.exp_right[rows]
        last = torch.cat([self.factor_right.expand(own.shape[0], -1, -1), own], dim=1)
        return PairFactors(first, last)

    def reset_parameters(self, std: float) -> None:
        """As without the expansion, which starts small but not at zero."""
        super().reset_parameters(std)
        own = (self.exp_left, self.exp_right, self.exp_core12, self.exp_core21, self.exp_core22)
        for parameter in own:
            nn.init.normal_(parameter, std=std)


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)
