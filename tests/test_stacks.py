"""Edits on top of pruned models: what works, and what is refused with the reason."""

from __future__ import annotations

import copy

import pytest
import torch

from model import DecompositionConfig, ModelError, PluginConfig, apply_edit, committed, set_ratio
from model.pruning import sparsify
from tests.helpers_enct5 import tiny_enct5, tiny_logits
from tests.helpers_pruning import random_importance, sorted_bert

pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.mark.parametrize("sparsity", [0.5, 0.999])
def test_plugins_attach_to_what_is_left_of_a_pruned_t5(sparsity: float) -> None:
    """Also where whole FFNs are gone: at ratio 1 nothing changes, and other ratios run."""
    model = tiny_enct5("sequence", d_kv=8, num_heads=4, d_ff=32)
    sparsify(model, random_importance(model))
    pruned = committed(model, sparsity).eval()
    dense = tiny_logits(copy.deepcopy(pruned))
    apply_edit(pruned, PluginConfig(ratios=(2,), bottleneck=4))
    assert torch.equal(tiny_logits(pruned), dense)
    set_ratio(pruned, 2)
    assert torch.isfinite(tiny_logits(pruned)).all()


def test_uneven_layers_are_no_bank_and_the_first_of_them_is_named() -> None:
    """A bank is made of square blocks of the model's width; a layer that lost neurons has none."""
    pruned = committed(sorted_bert(ffn=48), 0.5)
    with pytest.raises(ModelError, match=r"Layer 0's query has shape .* layers that lost heads or neurons cannot be"):
        apply_edit(pruned, DecompositionConfig(rank_layer=4, rank_condim=8, rank_dim=8))
