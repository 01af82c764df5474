"""Where a BERT and a T5 keep their parts: the slots that edits read and replace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertForMaskedLM, BertForQuestionAnswering, BertModel

from model import PluginConfig, apply_edit
from model.backbone import spec_for
from tests.helpers_decomposition import LAYERS, tiny_bert
from tests.helpers_edits import build_t5


@pytest.mark.parametrize("head", [BertModel, BertForMaskedLM, BertForQuestionAnswering])
def test_a_berts_parts_are_found_with_and_without_a_head(head: Any) -> None:
    """The slots that all edits go by, replaced through as well as read."""
    model = tiny_bert(head)
    spec = spec_for(model)
    assert spec.encoder(model) is getattr(model, "bert", model)
    assert spec.embeddings(model).module is model.get_input_embeddings()
    layers = spec.encoder_layers(model)
    assert len(layers) == LAYERS and spec.decoder_layers(model) == []
    first: Any = model.base_model.encoder.layer[0]
    assert layers[0].attention.block.module is first.attention.self
    assert layers[0].attention.output.module is first.attention.output.dense
    assert layers[0].ffn_in[0].module is first.intermediate.dense and layers[0].ffn is None
    layers[0].ffn_out.replace(torch.nn.Identity())
    assert isinstance(first.output.dense, torch.nn.Identity)


@pytest.mark.parametrize(("backbone", "matrices"), [("relu", 1), ("gated_deep_encoder", 2)])
def test_a_t5s_feed_forward_matrices_are_found_under_plugins_too(backbone: str, matrices: int) -> None:
    model = build_t5(backbone)
    before = [
        [slot.module for slot in (*layer.ffn_in, layer.ffn_out)] for layer in spec_for(model).encoder_layers(model)
    ]
    assert {len(row) for row in before} == {matrices + 1}
    apply_edit(model, PluginConfig((2,)))
    layers = spec_for(model).encoder_layers(model)
    assert [[slot.module for slot in (*layer.ffn_in, layer.ffn_out)] for layer in layers] == before
    assert spec_for(model).embeddings(model).module is model.get_input_embeddings()
