"""Dropping layers of an encoder: what is left computes as the layers alone, and is found by its new numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from model import LayerDropConfig, LoraConfig, ModelError, PluginConfig, apply_edit, first_layers, set_ratio
from model.attention_scores import trace, use_attention_scores
from model.backbone import spec_for
from tests.helpers_close import same_logits
from tests.helpers_decomposition import decompositions, tiny_bert, tiny_inputs, tiny_logits
from tests.helpers_edits import build_t5, inputs, logits
from tests.helpers_pruning import unchanged

pytestmark = pytest.mark.usefixtures("single_thread")


def by_hand(model: Any, layers: tuple[int, ...]) -> torch.Tensor:
    """A BERT's last hidden states when only these layers run, one after the other."""
    given = tiny_inputs()
    hidden = model.bert.embeddings(input_ids=given["input_ids"], token_type_ids=given["token_type_ids"])
    allowed = given["attention_mask"].bool()[:, None, None, :]
    for i in layers:
        found = model.bert.encoder.layer[i](hidden, allowed)
        hidden = found[0] if isinstance(found, tuple) else found
    return hidden


@pytest.mark.parametrize("depth", [1, 4, 5, 6, 13])
@pytest.mark.parametrize("kept", [1, 4])
def test_the_first_layers_of_any_depth_run_alone(depth: int, kept: int) -> None:
    """M-3: a 4-layer student needs no 6 layers; the config goes on telling the original depth."""
    if kept > depth:
        with pytest.raises(ModelError, match=f"Layer {kept - 1} cannot be kept: the encoder's layers are 0 to 0"):
            apply_edit(tiny_bert(num_hidden_layers=depth), first_layers(kept))
        return
    model = tiny_bert(num_hidden_layers=depth)
    expected = by_hand(model, tuple(range(kept)))
    apply_edit(model, first_layers(kept))
    out = model.bert(**tiny_inputs(), output_hidden_states=True)
    assert torch.allclose(out.last_hidden_state, expected, atol=4e-6)
    assert len(out.hidden_states) == kept + 1
    assert len(spec_for(model).encoder_layers(model)) == kept and model.config.num_hidden_layers == depth


def test_any_rising_layers_can_stay() -> None:
    model = tiny_bert(num_hidden_layers=5)
    expected = by_hand(model, (0, 2, 3))
    apply_edit(model, LayerDropConfig((0, 2, 3)))
    assert torch.allclose(model.bert(**tiny_inputs()).last_hidden_state, expected, atol=4e-6)


def test_kept_layers_are_the_same_modules_with_new_numbers() -> None:
    """No weight is copied, and scores are read by the new number."""
    model = tiny_bert(num_hidden_layers=4)
    kept = [model.bert.encoder.layer[i] for i in (1, 3)]
    apply_edit(model, LayerDropConfig((1, 3)))
    assert list(model.bert.encoder.layer) == kept
    use_attention_scores(model)
    assert len(trace(model, tiny_inputs(), (0, 1)).scores) == 2


@pytest.mark.parametrize(
    ("head", "auto"),
    [
        (BertForSequenceClassification, AutoModelForSequenceClassification),
        (BertForTokenClassification, AutoModelForTokenClassification),
    ],
)
def test_a_saved_student_loads_by_its_directory(head: Any, auto: Any, tmp_path: Path) -> None:
    model = tiny_bert(head, num_hidden_layers=4)
    apply_edit(model, LayerDropConfig((0, 3)))
    model.save_pretrained(tmp_path)
    again = auto.from_pretrained(tmp_path).eval()
    assert same_logits(tiny_logits(again), tiny_logits(model))
    assert list(again.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("layers", [(0,), (1, 2), (2,), (0, 1, 2)])
def test_the_position_biases_of_a_t5_stay(layers: tuple[int, ...], tmp_path: Path) -> None:
    """They hang in the first layer; the layer that is first now adds the same numbers."""
    model = build_t5("gated_deep_encoder")
    table = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    whole = copy.deepcopy(model)
    apply_edit(model, LayerDropConfig(layers))
    attentions = [block.layer[0].SelfAttention for block in model.encoder.block]
    assert attentions[0].relative_attention_bias.weight is table
    assert [attention.has_relative_attention_bias for attention in attentions] == [True, *[False] * (len(layers) - 1)]
    # A layer whose outputs are 0 adds nothing to the stream: the whole model without the others.
    with torch.no_grad():
        for i in set(range(3)) - set(layers):
            for layer in whole.encoder.block[i].layer:
                for name in ("SelfAttention.o", "DenseReluDense.wo"):
                    if hasattr(layer, name.split(".")[0]):
                        layer.get_submodule(name).weight.zero_()
    assert torch.allclose(logits(model), logits(whole), atol=4e-5)
    model.save_pretrained(tmp_path)
    assert same_logits(logits(AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()), logits(model))


def test_a_decoder_keeps_its_layers() -> None:
    model = build_t5("relu")
    apply_edit(model, first_layers(1))
    assert len(model.encoder.block) == 1 and len(model.decoder.block) == 2
    made = model.generate(input_ids=inputs()["input_ids"], max_new_tokens=3, do_sample=False)
    assert made.shape[0] == 2


def test_other_edits_stack_on_it(tmp_path: Path) -> None:
    """Decomposed, with LoRA, with plugins: they see the layers that are left."""
    bert = tiny_bert(num_hidden_layers=4)
    apply_edit(bert, LayerDropConfig((1, 2)))
    apply_edit(bert, decompositions()["II"])
    bert.save_pretrained(tmp_path / "bert")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bert").eval()
    assert same_logits(tiny_logits(loaded), tiny_logits(bert))
    t5 = build_t5("gated_deep_encoder")
    for edit in (LayerDropConfig((0, 2)), LoraConfig(rank=2), PluginConfig((2,), 5)):
        apply_edit(t5, edit)
    t5.save_pretrained(tmp_path / "t5")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "t5").eval()
    for model in (t5, again):
        set_ratio(model, 2)
    assert same_logits(logits(again), logits(t5))


@pytest.mark.parametrize("count", [0, -1, 2.0, "4", True])
def test_the_number_of_first_layers_is_a_number_above_zero(count: Any) -> None:
    with pytest.raises(ModelError, match="at least 1, found"):
        first_layers(count)


def test_layers_that_are_not_there_are_refused() -> None:
    model = tiny_bert(num_hidden_layers=2)
    with unchanged(model), pytest.raises(ModelError, match="Layer 5 cannot be kept: the encoder's layers are 0 to 1"):
        apply_edit(model, LayerDropConfig((0, 5)))
