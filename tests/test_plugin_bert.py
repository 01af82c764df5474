"""Plugins on BERT: what is joined and split again, what a layer computes, padding, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from model import (
    LayerDropConfig,
    ModelError,
    PluginConfig,
    PruningConfig,
    apply_edit,
    enable_gradient_checkpointing,
    find_edit,
    optimize_for_inference,
    set_ratio,
    undo_edit,
    use_ratio,
)
from model.backbone import spec_for
from model.plugin.surgery import plugin_layers, plugin_modules
from model.pruning import places_of
from tests.helpers_decomposition import LAYERS, decompositions, tiny_bert, tiny_inputs
from tests.helpers_edits import build_t5, scramble
from tests.helpers_plugin import close, rows

pytestmark = pytest.mark.usefixtures("single_thread")

HEADS = (
    *(BertModel, BertForMaskedLM, BertForPreTraining, BertForQuestionAnswering),
    *(BertForSequenceClassification, BertForTokenClassification),
)
PLUGINS = PluginConfig((2, 3), bottleneck=4)
#: The second layer of the pruned one has neither heads nor neurons.
UNDERNEATH: dict[str, Any] = {
    "dense": None,
    "pruned": PruningConfig(0.5, ((2, 0), ()), (20, 0)),
    "decomposed": decompositions()["IV"],
    "layer_drop": LayerDropConfig((1,)),
}


def with_plugins(head: Any = BertForSequenceClassification, under: Any = None, **changes: Any) -> Any:
    """A tiny BERT whose plugins are far from doing nothing."""
    model = tiny_bert(head, **changes)
    if under is not None:
        apply_edit(model, under)
    apply_edit(model, PLUGINS)
    scramble(model, PLUGINS)
    return model


@torch.no_grad()
def outputs(model: Any, ratio: int = 1, **given: Tensor) -> list[Tensor]:
    """All tensors that the model gives for `given` (default: the tiny inputs)."""
    with use_ratio(model, ratio):
        return [part for part in model(**(given or tiny_inputs()), return_dict=False) if isinstance(part, Tensor)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Bit by bit."""
    return len(one) == len(other) > 0 and all(map(torch.equal, one, other))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("under", UNDERNEATH.values(), ids=UNDERNEATH.keys())
def test_at_ratio_1_and_detached_no_bit_differs(head: Any, under: Any) -> None:
    """Every head, on dense, pruned, decomposed and shallower layers; the modules are at their places again."""
    model = tiny_bert(head)
    if under is not None:
        apply_edit(model, under)
    dense, keys, modules = outputs(model), list(model.state_dict()), dict(model.named_modules())
    described = model.config.to_dict()
    apply_edit(model, PLUGINS)
    scramble(model, PLUGINS)
    assert same(outputs(model), dense)
    assert not same(outputs(model, 2), dense)
    set_ratio(model, 3)
    undo_edit(model, "plugin")
    assert same(outputs(model), dense)
    assert list(model.state_dict()) == keys and model.config.to_dict() == described
    assert dict(model.named_modules()) == modules
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules.values())


@torch.no_grad()
def test_a_layer_is_attention_then_norm_of_residual_and_plugin() -> None:
    """Written out with the stock modules of a dense twin, at a length that no ratio has to fill up."""
    model, dense = with_plugins(num_hidden_layers=1), tiny_bert(num_hidden_layers=1)
    ids, _ = rows(6, 6, to=6)
    layer: Any = dense.bert.encoder.layer[0]
    x = layer.attention(dense.bert.embeddings(ids), None)[0]
    for ratio in PLUGINS.ratios:
        plugin = plugin_modules(model, ratio)[0]
        spread = plugin(x, lambda y: layer.output.dense(layer.intermediate(y)))
        with use_ratio(model, ratio):
            found = model.bert(ids).last_hidden_state
        close(found, layer.output.LayerNorm(x + spread), 4e-6)


@pytest.mark.parametrize("under", UNDERNEATH.values(), ids=UNDERNEATH.keys())
def test_all_matrices_are_found_under_plugins(under: Any) -> None:
    """Slots, and the sizes of pruned places, are those of the model without plugins."""
    model = tiny_bert()
    if under is not None:
        apply_edit(model, under)

    def found() -> list[Any]:
        layers = spec_for(model).encoder_layers(model)
        return [(*(s.module for s in layer.ffn_in), layer.activation, layer.ffn_out.module) for layer in layers]

    before = [(first, act.module, last) for first, act, last in found()]
    kept = [place.kept for place in places_of(model).ffns]
    apply_edit(model, PLUGINS)
    assert [(first, act.module, last) for first, act, last in found()] == before
    assert [place.kept for place in places_of(model).ffns] == kept
    layers = spec_for(model).encoder_layers(model)
    assert [layer.ffn.module for layer in layers if layer.ffn] == plugin_layers(model) and len(layers) == len(before)


@pytest.mark.parametrize("ratio", PLUGINS.ratios)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_row_does_not_depend_on_the_padding_of_its_batch(ratio: int, attention: str) -> None:
    """Alone, beside longer rows, padded to any length, with any token and segment at padded positions, pooled or not;
    up to the last position that the model has, which no ratio divides."""
    longest = 13
    model = with_plugins(BertModel, max_position_embeddings=longest, attn_implementation=attention)
    ids, mask = rows(5, to=5)
    alone, pooled = outputs(model, ratio, input_ids=ids, attention_mask=mask)
    for other in (1, 5, 6, 7, longest):
        ids, mask = rows(5, other, to=max(5, other))
        ids = torch.where(mask == 1, ids, 9)
        found, together = outputs(model, ratio, input_ids=ids, attention_mask=mask, token_type_ids=1 - mask)
        assert found.shape[:2] == ids.shape
        close(found[0, :5], alone[0])
        close(together[0], pooled[0])


@torch.no_grad()
def test_every_way_to_call_the_encoder_gives_the_same() -> None:
    """Positions, keywords, embeddings instead of ids, positions and segments given or left out."""
    model = with_plugins(BertModel)
    ids, mask = rows(7, 4, to=7)
    places = torch.arange(7).expand(2, 7)
    with use_ratio(model, 3):
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
        assert torch.equal(model(ids, mask, torch.zeros_like(ids), places).last_hidden_state, expected)
        assert torch.equal(model(ids, mask, position_ids=places[:1])[0], expected)
        embedded = model.get_input_embeddings()(ids)
        assert torch.equal(model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state, expected)
        others = model(ids, mask, position_ids=places.flip(1), token_type_ids=torch.ones_like(ids))
        assert not torch.allclose(others.last_hidden_state, expected, atol=1e-3)
        with pytest.raises(ModelError, match="mask of 4 dimensions cannot be filled up from 7 positions"):
            model(ids, torch.ones(2, 1, 7, 7, dtype=torch.bool))


@torch.no_grad()
def test_no_output_shows_the_added_rows() -> None:
    model = with_plugins(BertForTokenClassification, attn_implementation="eager")
    with use_ratio(model, 2):
        made = model(**tiny_inputs(), output_hidden_states=True, output_attentions=True)
    assert made.logits.shape[:2] == (2, 7)
    assert {h.shape for h in made.hidden_states} == {(2, 7, 12)}
    assert {a.shape for a in made.attentions} == {(2, 3, 7, 7)}


def test_the_default_residual_scale_is_the_familys() -> None:
    """T5's is 100 as ever, a BERT's 1; what was taken is recorded, and what is given is used."""
    for model, edit, scale in (
        (tiny_bert(), PluginConfig((2,)), 1.0),
        (tiny_bert(), PluginConfig((2,), residual_scale=3.0), 3.0),
        (build_t5("relu"), PluginConfig((2,)), 100.0),
    ):
        apply_edit(model, edit)
        recorded = find_edit(model, PluginConfig)
        assert recorded is not None and recorded.residual_scale == scale
        assert {plugin.scale for plugin in plugin_modules(model, 2)} == {scale}


@pytest.mark.parametrize(
    ("changes", "compat", "message"),
    [
        ({"is_decoder": True}, "native", "would see the future"),
        ({"chunk_size_feed_forward": 4}, "native", "chunk_size_feed_forward to 0, not 4"),
        ({}, "original", "a BERT takes 'native' or 'grouping'"),
        ({"num_hidden_layers": 0}, "native", "0 encoder and 0 decoder layers"),
    ],
)
def test_what_groups_do_not_go_with_is_refused_and_nothing_is_changed(
    changes: dict[str, Any], compat: Any, message: str
) -> None:
    model = tiny_bert(BertModel, **changes)
    before = list(model.state_dict())
    with pytest.raises(ModelError, match=message):
        apply_edit(model, PluginConfig((2,), compat=compat))
    assert list(model.state_dict()) == before


# what else happens to a model


def test_a_deep_copy_is_a_model_of_its_own() -> None:
    """Detaching plugins from a copy leaves the original's where they are."""
    model = with_plugins()
    before = outputs(model, 2)
    twin = copy.deepcopy(model)
    assert same(outputs(twin, 2), before)
    undo_edit(twin, "plugin")
    assert same(outputs(model, 2), before)


@pytest.mark.parametrize("under", UNDERNEATH.values(), ids=UNDERNEATH.keys())
def test_gradients_reach_plugins_and_are_the_same_with_checkpointing(under: Any) -> None:
    """Also where the ratio has been switched back before the backward pass, which runs the layers again."""

    def gradients(prepare: Callable[[Any], None]) -> list[Tensor]:
        model = with_plugins(under=under)
        prepare(model)
        model.train()
        with use_ratio(model, 3):
            loss = model(**tiny_inputs()).logits.square().sum()
        loss.backward()
        return [p.grad for plugin in plugin_modules(model, 3) for p in plugin.parameters() if p.grad is not None]

    plain = gradients(lambda model: None)
    unread = 2 if under == UNDERNEATH["pruned"] else 0  # what a layer without neurons squeezes, nobody looks at
    assert len(plain) == 6 * (1 if under == UNDERNEATH["layer_drop"] else LAYERS) - unread
    for found, expected in zip(gradients(enable_gradient_checkpointing), plain, strict=True):
        assert expected.abs().max() > 0
        close(found, expected, 4e-6)


@pytest.mark.parametrize("under", UNDERNEATH.values(), ids=UNDERNEATH.keys())
@pytest.mark.parametrize("plugins_first", [False, True])
def test_measured_plans_and_packed_weights_go_with_plugins(under: Any, plugins_first: bool) -> None:
    """In either order of attaching and optimising, the outputs are the plain model's but for rounding."""
    model = tiny_bert()
    if under is not None:
        apply_edit(model, under)
    plain = copy.deepcopy(model)
    for step in (True, False) if plugins_first else (False, True):
        if step:
            apply_edit(model, PLUGINS)
            scramble(model, PLUGINS)
        else:
            optimize_for_inference(model, 2, 7)
    apply_edit(plain, PLUGINS)
    scramble(plain, PLUGINS)
    for ratio in (1, 2):
        close(outputs(model, ratio)[0], outputs(plain, ratio)[0], 4e-5)
