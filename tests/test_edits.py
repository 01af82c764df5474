"""The contract of every edit, on several backbones: settings, exactness, undo, stacking, gradients."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from model import (
    ModelError,
    PluginConfig,
    apply_edit,
    current_ratio,
    edits_of,
    set_ratio,
    undo_edit,
    use_ratio,
)
from model.compression import EditConfig, edit_from_dict
from tests.helpers_close import same_logits
from tests.helpers_edits import (
    CASES,
    STACK,
    Case,
    build_t5,
    choices,
    each_backbone,
    each_case,
    edited,
    inputs,
    logits,
    logits_by_choice,
    scramble,
    some_backbone,
    trained_parameters,
)

pytestmark = pytest.mark.usefixtures("single_thread")

# configure


@each_case
def test_settings_survive_json(case: Case) -> None:
    """The JSON form names the kind and gives an equal edit back, tuples included."""
    described = json.loads(json.dumps(case.edit.to_dict()))
    assert described["kind"] == case.edit.kind
    assert edit_from_dict(described) == case.edit


@each_case
def test_a_misspelt_setting_is_refused_by_name(case: Case) -> None:
    """A typo never becomes the default."""
    with pytest.raises(ModelError, match=f"'{case.edit.kind}' has no setting rnak"):
        edit_from_dict({**case.edit.to_dict(), "rnak": 3})


@pytest.mark.parametrize(
    ("edit_type", "settings", "word"),
    [(type(case.edit), settings, word) for case in CASES.values() for settings, word in case.refused],
)
def test_settings_that_cannot_be_are_refused_when_built(
    edit_type: type[EditConfig], settings: dict[str, Any], word: str
) -> None:
    """Validation happens at construction, not when the model is touched."""
    with pytest.raises(ModelError, match=word):
        edit_type(**settings)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"'prunning'.*lora.*plugin"):
        edit_from_dict({"kind": "prunning"})


def test_a_list_of_ratios_equals_the_tuple() -> None:
    """A user's list and the tuple that JSON gives back are the same settings."""
    assert PluginConfig(ratios=[2, 4]) == PluginConfig(ratios=(2, 4))  # type: ignore[arg-type]


# apply, exactness, undo


@each_backbone
@each_case
def test_identity_setting_is_bit_identical_to_the_dense_model(case: Case, backbone: str) -> None:
    """Applied and switched off (or as initialised), the edit changes no bit; its parameters do show once it is on."""
    model = build_t5(backbone)
    dense = logits(model)
    apply_edit(model, case.identity_for(model))
    assert torch.equal(logits(model), dense)
    model = edited(case, backbone)
    assert not torch.equal(logits_by_choice(model)[choices(model)[-1].key], dense)


@each_backbone
@each_case
def test_undo_gives_the_model_back(case: Case, backbone: str) -> None:
    """Same keys, same bits, same config and no hooks left, even when undone while it was switched on."""
    model = build_t5(backbone)
    keys, dense, described = list(model.state_dict()), logits(model), model.config.to_dict()
    apply_edit(model, case.edit)
    scramble(model, case.edit)
    assert [edit.kind for edit in edits_of(model)] == [case.edit.kind]
    if not case.reversible:
        with pytest.raises(ModelError, match="cannot be undone"):
            undo_edit(model, case.edit.kind)
        return
    set_ratio(model, *choices(model)[-1])
    undo_edit(model, case.edit.kind)
    assert torch.equal(logits(model), dense)
    assert list(model.state_dict()) == keys
    assert model.config.to_dict() == described
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_only_the_last_edit_can_be_undone() -> None:
    model = build_t5(some_backbone)
    with pytest.raises(ModelError, match="carries none"):
        undo_edit(model, "plugin")
    for name in STACK:
        apply_edit(model, CASES[name].edit)
    with pytest.raises(ModelError, match=r"'lora'.*lora \+ plugin"):
        undo_edit(model, "lora")


@each_case
def test_a_deep_copy_is_a_model_of_its_own(case: Case) -> None:
    """Switching or undoing on a copy leaves the original as it is."""
    model = edited(case)
    choice = choices(model)[-1]
    set_ratio(model, *choice)
    before, twin = logits(model), copy.deepcopy(model)
    assert same_logits(logits(twin), before)
    set_ratio(twin, 1)
    if case.reversible:
        undo_edit(twin, case.edit.kind)
    assert current_ratio(model) == choice.ratio
    assert torch.equal(logits(model), before)


@each_case
def test_matching_nothing_is_an_error_that_says_what_is_there(case: Case) -> None:
    """A model without layers, and one of an unknown family, are refused and stay as they are."""
    empty = build_t5("relu", num_layers=0, num_decoder_layers=0)
    with pytest.raises(ModelError, match=r"No .* was found: T5ForConditionalGeneration has 0 encoder and 0 decoder"):
        apply_edit(empty, case.edit)
    assert edits_of(empty) == []
    stranger = GPT2Model(GPT2Config(vocab_size=5, n_positions=4, n_embd=4, n_layer=1, n_head=1))
    with pytest.raises(ModelError, match=r"family 'gpt2' is known; there are: .*t5"):
        apply_edit(stranger, case.edit)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("plugin", "lora"), r"plugin \+ lora cannot be stacked in this order; legal is: lora \+ plugin"),
        (("lora", "lora"), r"lora \+ lora has the same edit twice; legal is: lora"),
        (("plugin", "plugin"), r"has the same edit twice; legal is: plugin"),
        (("lora", "pruning"), r"lora \+ pruning cannot be stacked in this order; legal is: pruning \+ lora"),
        (("pruning", "layer_drop"), r"pruning \+ layer_drop cannot be.*; legal is: layer_drop \+ pruning"),
        (("pruning", "pruning"), r"pruning \+ pruning has the same edit twice; legal is: pruning"),
        (("layer_drop", "layer_drop"), r"has the same edit twice; legal is: layer_drop"),
    ],
)
def test_illegal_stacks_are_refused_with_the_legal_order(kinds: tuple[str, str], message: str) -> None:
    model = build_t5(some_backbone)
    apply_edit(model, CASES[kinds[0]].edit)
    before = logits(model)
    with pytest.raises(ModelError, match=message):
        apply_edit(model, CASES[kinds[1]].edit)
    assert [edit.kind for edit in edits_of(model)] == [kinds[0]]
    assert torch.equal(logits(model), before)


# training


@each_backbone
@each_case
def test_gradients_reach_exactly_the_edits_parameters(case: Case, backbone: str) -> None:
    """After its freeze, every own parameter of every choice gets a gradient that is not zero, and nothing else does."""
    model = edited(case, backbone)
    case.freeze(model)
    model.train()
    for choice in choices(model)[1:] or choices(model):
        with use_ratio(model, *choice):
            model(**inputs()).logits.square().sum().backward()
    own = trained_parameters(model, case)
    reached = {id(p) for p in model.parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == set(own)
    assert {id(p) for p in model.parameters() if p.requires_grad} == set(own)


def test_training_lora_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="carries no LoRA"):
        CASES["lora"].freeze(build_t5(some_backbone))
