"""Decomposed models in training: gradients, starts from scratch, checkpointing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from model import (
    apply_edit,
)
from model.decomposition.config import Ops
from model.decomposition.layers import DecomposedLinear
from tests.helpers_decomposition import (
    WIDTH,
    bank_of,
    decomposed,
    decompositions,
    tiny_bert,
    tiny_inputs,
)

pytestmark = pytest.mark.usefixtures("single_thread")

ROOT = Path(__file__).resolve().parent.parent
OPS: tuple[Ops, ...] = ("san", "ffn", "san_ffn")
each_ops = pytest.mark.parametrize("ops", OPS)
each_kind = pytest.mark.parametrize("kind", decompositions())


@each_ops
@each_kind
def test_gradients_reach_every_factor(kind: str, ops: Ops) -> None:
    """None of them is missing or zero, decomposed or drawn from scratch, in training and in evaluation mode."""
    for from_scratch, training in itertools.product((False, True), (False, True)):
        model = tiny_bert()
        apply_edit(model, decompositions(ops)[kind], from_scratch=from_scratch)
        model.train(training)
        model(**tiny_inputs(), labels=torch.tensor([0, 1])).loss.backward()
        for name, parameter in bank_of(model).named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        layers = [module for module in model.modules() if isinstance(module, DecomposedLinear)]
        keys = [layer for layer in layers if layer.role == "key"]  # a key's bias changes no softmax
        biases = [layer.get_parameter("bias").grad for layer in layers if layer not in keys]
        assert all(gradient is not None and gradient.abs().max() > 0 for gradient in biases)


@each_kind
def test_a_start_from_scratch_has_the_dense_models_scale_and_trains(kind: str) -> None:
    """Entries spread as `initializer_range` says; a few steps lower the loss. In the original all factors are 0."""
    model = tiny_bert(hidden_size=48, num_attention_heads=4, intermediate_size=144, initializer_range=0.05)
    edit = decompositions()[kind]
    apply_edit(model, edit, from_scratch=True)
    if kind != "expanded":  # tanh bounds what its first factor can hold
        spread = bank_of(model).matrices(slice(None)).std().item()
        assert 0.5 * 0.05 < spread < 2.0 * 0.05
    model.train()
    optimizer = torch.optim.AdamW(bank_of(model).parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = model(**tiny_inputs(), labels=torch.tensor([0, 1])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_gradients_equal_those_of_the_unfused_formula() -> None:
    """Through the fused products, x @ U @ core_b @ V gets the gradients that autograd gives the plain formula."""
    model = decomposed(decompositions("san")["IV"]).double()
    bank: Any = bank_of(model)
    x = torch.randn(3, WIDTH, dtype=torch.float64)
    layer = model.bert.encoder.layer[1]
    projections = (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value)
    torch.stack([projection(x) for projection in projections]).pow(3).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in bank.named_parameters()}
    model.zero_grad()
    plain = []
    for block, projection in enumerate(projections, start=4):
        core = sum(bank.factor_layer[block, i] * bank.core[i] for i in range(3))
        plain.append(x @ bank.factor_left @ core @ bank.factor_right + projection.bias)
    torch.stack(plain).pow(3).sum().backward()
    for name, parameter in bank.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_gradient_checkpointing_changes_nothing() -> None:
    """Layers that run again in the backward pass compute their fused products again."""
    gradients = []
    for checkpointing in (False, True):
        model = decomposed(decompositions()["IV"]).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**tiny_inputs(), labels=torch.tensor([0, 1])).loss.backward()
        gradients.append([parameter.grad for parameter in bank_of(model).parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
