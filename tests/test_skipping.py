"""Sub-layers of which nothing is left: no zeros are made, and everything else is as if they were."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from model.pruning import NestedWidths, committed, skipping, sparsify
from model.pruning import layers as pruning_layers
from model.pruning.skipping import SkippableFF, SkippableOutput, SkippableSelfOutput
from tests.helpers_decomposition import tiny_inputs, tiny_logits
from tests.helpers_edits import build_t5, inputs, logits
from tests.helpers_pruning import close, pruned_bert, random_importance, sizes_of, sorted_bert

pytestmark = pytest.mark.usefixtures("single_thread")


def sorted_t5() -> Any:
    model = build_t5("gated_deep_decoder", d_kv=8, num_heads=4, d_ff=32, num_layers=3).double()
    sparsify(model, random_importance(model))
    return model


def never_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on everything runs as in the stock modules."""
    monkeypatch.setattr(skipping._Skips, "skips", lambda self: False)


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_an_emptied_bert_makes_no_zeros_of_its_width(sparsity: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: only modules around what is empty are left out, committed and nested; bits as with the zeros."""
    whole = sorted_bert(layers=4)
    model = committed(whole, sparsity)
    heads, neurons = sizes_of(model)
    found = {type(m) for m in model.modules()} & {SkippableSelfOutput, SkippableOutput}
    assert found == {kind for kind, kept in ((SkippableSelfOutput, heads), (SkippableOutput, neurons)) if 0 in kept}
    with NestedWidths(whole) as nested:
        nested.select(sparsity)
        made, zeros = list[int](), pruning_layers.zeros

        def noted(x: torch.Tensor, width: int) -> torch.Tensor:
            made.append(width)
            return zeros(x, width)

        monkeypatch.setattr(pruning_layers, "zeros", noted)
        results = [tiny_logits(model), tiny_logits(whole)]
        assert not any(made), "what is left are empty tensors between the parts of a sub-layer"
        never_skip(monkeypatch)
        assert [torch.equal(tiny_logits(one), kept) for one, kept in zip((model, whole), results, strict=True)]
        assert any(made) == (0 in heads + neurons)


@pytest.mark.parametrize("sparsity", [0.8, 0.95])
def test_a_t5_skips_norms_and_keeps_the_bits(sparsity: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: outputs, generated tokens and gradients are those with the zeros; a skipped norm does not run."""
    model = committed(sorted_t5(), sparsity)
    assert any(isinstance(module, skipping._Skips) for module in model.modules())
    ran: list[int] = []
    for block in (*model.encoder.block, *model.decoder.block):
        for layer in block.layer:
            layer.layer_norm.register_forward_hook(lambda module, given, made: ran.append(1))

    def everything() -> list[torch.Tensor]:
        ran.clear()
        model.zero_grad()
        found = logits(model)
        model(**inputs()).logits.square().mean().backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        given = {key: value for key, value in inputs().items() if "decoder" not in key}
        return [found, model.generate(**given, max_new_tokens=4, do_sample=False), *grads]

    skipped, norms = everything(), len(ran)
    never_skip(monkeypatch)
    plain = everything()
    assert norms < len(ran) and len(plain) == len(skipped)
    assert all(torch.equal(a, b) for a, b in zip(plain, skipped, strict=True))


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_training_draws_the_same_random_numbers(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: a step with dropout is the same bits as with the zeros, and so is what is drawn after it."""
    model = pruned_bert(layers=4, hidden_dropout_prob=rate)
    sparsify(model, random_importance(model))
    model = committed(model, 0.9).train()

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        return model(**tiny_inputs()).logits.detach(), torch.rand(3)

    skipped = step()
    never_skip(monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(step(), skipped, strict=True))


def test_what_hangs_in_place_of_an_emptied_network_counts() -> None:
    """Claim: only the empty network itself is left out, not what an edit puts around it."""
    model = committed(sorted_t5(), 0.95)
    layer = next(module for module in model.modules() if type(module) is SkippableFF)
    x = torch.randn(2, 3, model.config.d_model).double()
    assert layer(x) is x
    layer.DenseReluDense = torch.nn.Identity()
    assert torch.equal(layer(x), x + layer.layer_norm(x))


def test_closing_nested_widths_gives_stock_classes_back_to_what_is_not_empty() -> None:
    """Claim: of a model that was cut before, too."""
    model = committed(sorted_bert(layers=4), 0.8)
    kinds, expected = [type(module) for module in model.modules()], tiny_logits(model)
    with NestedWidths(model) as nested:
        nested.select(0.95)
        assert close(tiny_logits(model), tiny_logits(committed(copy.deepcopy(model), 0.95)))
    assert [type(module) for module in model.modules()] == kinds and torch.equal(tiny_logits(model), expected)
