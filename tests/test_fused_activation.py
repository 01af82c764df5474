"""The GELU behind a decomposed projection: in evaluation a part of the product, never applied twice or left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.bert.modeling_bert import BertIntermediate

from model.decomposition.packing import usable_for
from tests.helpers_decomposition import bank_of, decomposed, decompositions, tiny_inputs

pytestmark = pytest.mark.usefixtures("single_thread")

each_kind = pytest.mark.parametrize("kind", decompositions())


def logits(model: Any, gradients: bool) -> torch.Tensor:
    """Without gradients products are packed, with them they are plain."""
    with torch.set_grad_enabled(gradients):
        return model(**tiny_inputs()).logits.detach()


class Counting(torch.nn.GELU):
    """A GELU that says when it runs."""

    def __init__(self, called: list[int]) -> None:
        super().__init__()
        self.called = called

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.called.append(1)
        return super().forward(x)


def needs_packing(model: Any) -> None:
    with torch.no_grad():
        if not usable_for(next(bank_of(model).parameters())):
            pytest.skip("this build of torch has no packed products")


@each_kind
def test_the_fused_path_gives_what_the_plain_one_gives(kind: str) -> None:
    """Claim: evaluation with packed products equals the forward with gradients."""
    model = decomposed(decompositions()[kind])
    assert torch.allclose(logits(model, False), logits(model, True), atol=4e-5)


@pytest.mark.parametrize("kind", ["III", "IV", "expanded"])
def test_the_module_is_left_out_where_the_product_did_its_work(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: with gradients the activation's module runs once per layer, with packed products never."""
    model = decomposed(decompositions()[kind])
    needs_packing(model)
    called: list[int] = []
    for layer in model.bert.encoder.layer:
        monkeypatch.setattr(layer.intermediate, "intermediate_act_fn", Counting(called))
    logits(model, True)
    assert len(called) == len(model.bert.encoder.layer)
    logits(model, False)
    assert len(called) == len(model.bert.encoder.layer)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_other_activations_stay_as_they_are(activation: str) -> None:
    """Claim: only the exact GELU is fused."""
    model = decomposed(decompositions()["IV"], hidden_act=activation)
    assert type(model.bert.encoder.layer[0].intermediate) is BertIntermediate
    assert torch.allclose(logits(model, False), logits(model, True), atol=4e-5)


def test_a_hook_on_the_projection_sees_its_own_result() -> None:
    """Claim: who looks at the projection sees it before the activation."""
    model = decomposed(decompositions()["IV"])
    expected = logits(model, True)
    seen: list[torch.Tensor] = []
    model.bert.encoder.layer[0].intermediate.dense.register_forward_hook(lambda m, i, o: seen.append(o))
    assert torch.allclose(logits(model, False), expected, atol=4e-5)
    assert (seen[0] < -0.2).any(), "the GELU never gives less than -0.17"


def test_the_projection_by_itself_is_not_activated() -> None:
    """Claim: whoever calls the projection gets x @ W + b, with gradients or without."""
    dense = decomposed(decompositions()["IV"]).bert.encoder.layer[0].intermediate.dense
    x = torch.randn(2, 3, dense.in_features)
    with torch.no_grad():
        assert torch.allclose(dense(x), x @ dense.weight.T + dense.bias, atol=4e-5)
