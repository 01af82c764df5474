"""The GELU behind a decomposed projection: in evaluation a part of the product, never applied twice or left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.decomposition.packing import usable_for
from tests.helpers_decomposition import bank_of, decomposed, decompositions, tiny_inputs

pytestmark = pytest.mark.usefixtures("single_thread")

each_kind = pytest.mark.parametrize("kind", decompositions())


def logits(model: Any, gradients: bool) -> torch.Tensor:
    """Without gradients products are packed, with them they are plain."""
    with torch.set_grad_enabled(gradients):
        return model(**tiny_inputs()).logits.detach()


def needs_packing(model: Any) -> None:
    with torch.no_grad():
        if not usable_for(next(bank_of(model).parameters())):
            pytest.skip("this build of torch has no packed products")


@each_kind
def test_the_fused_path_gives_what_the_plain_one_gives(kind: str) -> None:
    """Claim: evaluation with packed products equals the forward with gradients."""
    model = decomposed(decompositions()[kind])
    assert torch.allclose(logits(model, False), logits(model, True), atol=1e-5)


@pytest.mark.parametrize("kind", ["III", "IV", "expanded"])
def test_the_module_is_left_out_where_the_product_did_its_work(kind: str) -> None:
    """Claim: with gradients the activation's module runs once per layer, with packed products never."""
    model = decomposed(decompositions()[kind])
    needs_packing(model)
    called: list[int] = []
    for layer in model.bert.encoder.layer:
        fused = layer.intermediate.intermediate_act_fn
        fused.activation.register_forward_hook(lambda module, given, made: called.append(1))
    logits(model, True)
    assert len(called) == len(model.bert.encoder.layer)
    logits(model, False)
    assert len(called) == len(model.bert.encoder.layer)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_other_activations_stay_as_they_are(activation: str) -> None:
    """Claim: only the exact GELU is fused."""
    model = decomposed(decompositions()["IV"], hidden_act=activation)
    assert model.bert.encoder.layer[0].intermediate.dense.followed_by is None
    assert torch.allclose(logits(model, False), logits(model, True), atol=1e-5)


def test_a_hook_on_the_projection_sees_its_own_result() -> None:
    """Claim: who looks at the projection sees it before the activation."""
    model = decomposed(decompositions()["IV"])
    expected = logits(model, True)
    seen: list[torch.Tensor] = []
    model.bert.encoder.layer[0].intermediate.dense.register_forward_hook(lambda m, i, o: seen.append(o))
    assert torch.allclose(logits(model, False), expected, atol=1e-5)
    assert (seen[0] < -0.2).any(), "the GELU never gives less than -0.17"
