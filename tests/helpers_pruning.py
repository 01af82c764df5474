"""Importances of tiny models, and dense models whose lost heads and neurons are masked instead of cut."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from model.pruning import Importance, Widths, places_of, sparsify
from tests.helpers_decomposition import tiny_bert, tiny_inputs

#: Of a model in float64.
EXACT = 1e-12
SPARSITIES = (0.0, 0.07, 0.3, 0.5, 0.66, 0.8, 0.9, 0.95, 0.999)


def pruned_bert(heads: int = 3, head_size: int = 8, ffn: int = 40, layers: int = 3, **more: Any) -> Any:
    """A float64 BERT that is not sparsified yet."""
    sizes = {"hidden_size": heads * head_size, "num_attention_heads": heads, "intermediate_size": ffn}
    return tiny_bert(num_hidden_layers=layers, **sizes, **more).double()


def random_importance(model: Any, seed: int = 0) -> Importance:
    """Positive numbers for every head and neuron that `model` has now."""
    generator = torch.Generator().manual_seed(seed)
    places = places_of(model)
    rows = [
        tuple(torch.rand(place.kept, generator=generator, dtype=torch.float64) for place in kind)
        for kind in (places.attentions, places.ffns)
    ]
    return Importance(*rows)


def sorted_bert(seed: int = 0, round_to: int = 8, **sizes: Any) -> Any:
    """A sparsified BERT of sparsity 0."""
    model = pruned_bert(**sizes)
    sparsify(model, random_importance(model, seed), round_to)
    return model


def square_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Any loss that every parameter is in; a batch's mean."""
    return model(**batch).logits.square().mean()


def batches() -> list[dict[str, Tensor]]:
    """Two batches, the second one smaller."""
    whole = tiny_inputs()
    return [whole, {key: value[:1] for key, value in whole.items()}]


@torch.no_grad()
def masked(model: Any, importance: Importance, widths: Widths) -> Any:
    """A copy of a dense model in which what `widths` leave out contributes nothing: no column of an output projection
    takes it in, and a sub-layer without heads or neurons has no bias either."""
    twin = copy.deepcopy(model)
    places = places_of(twin)
    for place, row, count in zip(places.attentions, importance.heads, widths.heads, strict=True):
        mute(place.slots.output.module, row, count, place.units.size)
    for ffn, row, count in zip(places.ffns, importance.neurons, widths.neurons, strict=True):
        mute(ffn.ffn_out.module, row, count, 1)
    return twin


def mute(output: Any, row: Tensor, count: int, size: int) -> None:
    """Zero the columns of all but the `count` most important of the units of `size` columns."""
    lost = row.argsort(descending=True, stable=True)[count:]
    output.weight.unflatten(1, (len(row), size))[:, lost] = 0
    if not count and output.bias is not None:
        output.bias.zero_()


def close(found: Tensor, expected: Tensor, tolerance: float = EXACT) -> bool:
    """Equal but for rounding, relative to the largest expected number (at least 1)."""
    found, expected = found.detach(), expected.detach()
    return bool((found - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max())))


def sizes_of(model: Any) -> tuple[list[int], list[int]]:
    """Heads and neurons that each place has now."""
    places = places_of(model)
    return [place.kept for place in places.attentions], [place.kept for place in places.ffns]


@contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Asserts that keys, bits, config and modes of `model` are the same afterwards."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    config, training = model.config.to_dict(), [module.training for module in model.modules()]
    yield
    after = model.state_dict()
    assert list(after) == list(state) and all(torch.equal(after[key], state[key]) for key in state)
    assert model.config.to_dict() == config
    assert [module.training for module in model.modules()] == training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
