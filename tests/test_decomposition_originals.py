"""Checkpoints and configs in the original's format: they load through every head, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from model import DecompositionConfig, EmbeddingConfig, ModelError, apply_edit, edits_of
from model.backbone import BERT
from model.decomposition.config import Ops
from model.decomposition.originals import edit_from_original_config, is_original, load_original
from model.decomposition.stacking import StackOrder, stack_biases
from model.decomposition.surgery import BANK, role_slots
from tests.helpers_decomposition import decomposed, decompositions, tiny_bert, tiny_config, tiny_logits

pytestmark = pytest.mark.usefixtures("single_thread")

HEADS: dict[str, tuple[Any, Any]] = {
    "base": (AutoModel, BertModel),
    "masked": (AutoModelForMaskedLM, BertForMaskedLM),
    "pretraining": (AutoModelForPreTraining, BertForPreTraining),
    "sequence": (AutoModelForSequenceClassification, BertForSequenceClassification),
    "token": (AutoModelForTokenClassification, BertForTokenClassification),
    "answer": (AutoModelForQuestionAnswering, BertForQuestionAnswering),
}


def original_state(model: Any, edit: DecompositionConfig) -> dict[str, Tensor]:
    """The tensors of a decomposed model under the original's names: all biases of decomposed layers in one."""
    order = StackOrder.of(edit.ops, model.config.hidden_size, model.config.intermediate_size)
    names = {id(module): name for name, module in model.named_modules()}
    slots = [role_slots(layer) for layer in BERT.encoder_layers(model)]
    biases = [{role: layer[role].module.get_parameter("bias").detach() for role in order.roles} for layer in slots]
    left_out = {f"{names[id(layer[role].module)]}.bias" for layer in slots for role in order.roles}
    state = {key: tensor.clone() for key, tensor in model.state_dict().items() if key not in left_out}
    state = {key.replace(f"{BANK}.", "tucker_weighter."): tensor for key, tensor in state.items()}
    prefix = "bert." if hasattr(model, "bert") else ""
    state[f"{prefix}tucker_weighter.bias"] = stack_biases(order, biases)
    if edit.is_expand:
        state[f"{prefix}tucker_weighter.exp_core11"] = state[f"{prefix}tucker_weighter.core"].clone()
        state[f"{prefix}tucker_weighter.factor_layer"] = torch.zeros(biases[0]["query"].shape[0], 3)
    return state


def write_original(directory: Path, model: Any, edit: DecompositionConfig, **changes: Any) -> Path:
    """A directory as the original writes it; `changes` to its config, None removes a key."""
    directory.mkdir(exist_ok=True)
    torch.save(original_state(model, edit), directory / "pytorch_model.bin")
    sizes = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}
    sizes |= {"max_position_embeddings", "type_vocab_size", "hidden_act", "initializer_range"}
    values = {key: value for key, value in model.config.to_dict().items() if key in sizes}
    values |= {"load_compressed_model": True, "ops": edit.ops, "is_expand": edit.is_expand, "requires_grad": True}
    values |= {"rank_layer": edit.rank_layer, "rank_condim": edit.rank_condim, "rank_dim": edit.rank_dim}
    values |= {"pre_trained": "", "training": "", "embedding_type": "other", "compression_from_scratch": False}
    described = {key: value for key, value in (values | changes).items() if value is not None}
    (directory / "config.json").write_text(json.dumps(described))
    return directory


@pytest.mark.parametrize("head", HEADS)
def test_every_head_loads_with_its_weights(head: str, tmp_path: Path) -> None:
    """Outputs equal those of the model that was written; saved again, it is one of this toolkit's."""
    auto, dense = HEADS[head]
    edit = decompositions()["IV"]
    model = decomposed(edit, dense, layer_norm_eps=1e-12)
    directory = write_original(tmp_path / "original", model, edit)
    assert is_original(directory)
    loaded = load_original(directory, auto)
    torch.testing.assert_close(tiny_logits(loaded), tiny_logits(model), atol=4e-6, rtol=0)
    assert edits_of(loaded) == [edit]
    loaded.save_pretrained(tmp_path / "ours")
    again = auto.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(tiny_logits(again), tiny_logits(model), atol=4e-6, rtol=0)


@pytest.mark.parametrize("ops", ["san", "ffn", "san_ffn"])
def test_missing_ops_follow_from_the_weights(ops: Ops, tmp_path: Path) -> None:
    """As in the config that the original ships; ops that say otherwise are refused."""
    edit = decompositions(ops)["IV"]
    model = decomposed(edit, BertModel, layer_norm_eps=1e-12)
    loaded = load_original(write_original(tmp_path, model, edit, ops=None), AutoModel)
    assert edits_of(loaded) == [edit]
    torch.testing.assert_close(tiny_logits(loaded), tiny_logits(model), atol=4e-6, rtol=0)
    other = {"san": "ffn", "ffn": "san_ffn", "san_ffn": "san"}[ops]
    with pytest.raises(ModelError, match=f"ops is '{other}', but the decomposed matrices are those of '{ops}'"):
        load_original(write_original(tmp_path, model, edit, ops=other), AutoModel)


@pytest.mark.parametrize(
    "settings", [EmbeddingConfig("ket", 2, 2), EmbeddingConfig("ketxs", 3, 2)], ids=["ket", "ketxs"]
)
def test_factorised_embeddings_load(settings: EmbeddingConfig, tmp_path: Path) -> None:
    """The leaves of the original's word embedding, with the decomposed encoder; saved again, the model is the same."""
    edit = decompositions()["IV"]
    model = decomposed(edit, BertForMaskedLM, layer_norm_eps=1e-12)
    apply_edit(model, settings)
    directory = write_original(tmp_path / "original", model, edit, embedding_type=settings.embedding_type)
    state = torch.load(directory / "pytorch_model.bin", weights_only=True)
    prefix = "bert.embeddings.word_embeddings."
    state[f"{prefix}weight_leafs"] = state.pop(f"{prefix}leaves")
    torch.save(state, directory / "pytorch_model.bin")
    loaded = load_original(directory, AutoModelForMaskedLM)
    assert edits_of(loaded) == [edit, settings]
    torch.testing.assert_close(tiny_logits(loaded), tiny_logits(model), atol=4e-6, rtol=0)
    loaded.save_pretrained(tmp_path / "ours")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(tiny_logits(again), tiny_logits(model), atol=4e-6, rtol=0)


def test_the_expanded_variant_loads(tmp_path: Path) -> None:
    """Its doubled core and its unused `factor_layer` are left out."""
    edit = decompositions()["expanded"]
    model = decomposed(edit, BertModel, layer_norm_eps=1e-12)
    loaded = load_original(write_original(tmp_path, model, edit), AutoModel)
    assert edits_of(loaded) == [edit]
    torch.testing.assert_close(tiny_logits(loaded), tiny_logits(model), atol=4e-6, rtol=0)


def test_is_expand_without_its_tensors_is_the_plain_bank(tmp_path: Path) -> None:
    """The flag had no effect in the original, so its checkpoints hold plain factors under it."""
    edit = decompositions()["IV"]
    model = decomposed(edit, BertModel, layer_norm_eps=1e-12)
    assert edits_of(load_original(write_original(tmp_path, model, edit, is_expand=True), AutoModel)) == [edit]


def test_more_cores_than_blocks_load(tmp_path: Path) -> None:
    edit = DecompositionConfig(rank_layer=25, rank_condim=4, rank_dim=6)
    model = tiny_bert(BertModel, layer_norm_eps=1e-12)
    apply_edit(model, edit, from_scratch=True)
    loaded = load_original(write_original(tmp_path, model, edit), AutoModel)
    torch.testing.assert_close(tiny_logits(loaded), tiny_logits(model), atol=4e-6, rtol=0)


def test_old_names_of_layer_norm_and_other_containers_are_read(tmp_path: Path) -> None:
    """`gamma` and `beta`, `position_ids`, a file of safetensors, TinyBERT's projection, an epsilon nobody used."""
    edit = decompositions()["IV"]
    model = decomposed(edit, layer_norm_eps=1e-12)
    directory = write_original(tmp_path, model, edit, layer_norm_eps=0.5)
    state = original_state(model, edit)
    state = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for key, tensor in state.items()
    }
    state |= {"bert.embeddings.position_ids": torch.arange(16)[None], "fit_dense.weight": torch.ones(2, 2)}
    (directory / "pytorch_model.bin").unlink()
    save_file(state, directory / "model.safetensors")
    loaded = load_original(directory, AutoModelForSequenceClassification)
    torch.testing.assert_close(tiny_logits(loaded), tiny_logits(model), atol=4e-6, rtol=0)


def test_the_number_of_labels_follows_from_the_head(tmp_path: Path) -> None:
    edit = decompositions()["IV"]
    model = decomposed(edit, num_labels=5, layer_norm_eps=1e-12)
    loaded = load_original(write_original(tmp_path, model, edit), AutoModelForSequenceClassification)
    assert loaded.config.num_labels == 5
    torch.testing.assert_close(tiny_logits(loaded), tiny_logits(model), atol=4e-6, rtol=0)


def test_a_head_that_is_missing_is_drawn_with_a_warning(tmp_path: Path) -> None:
    edit = decompositions()["IV"]
    directory = write_original(tmp_path, decomposed(edit, BertForPreTraining), edit)
    with pytest.warns(UserWarning, match=r"has no classifier\.weight, classifier\.bias: drawn anew"):
        load_original(directory, AutoModelForSequenceClassification)


def damaged(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    """A state that cannot be loaded."""
    prefix = "tucker_weighter."
    if how == "no factors":
        return {key: tensor for key, tensor in state.items() if prefix not in key}
    if how == "no core":
        return {key: tensor for key, tensor in state.items() if key != f"{prefix}core"}
    if how == "no layer norm":
        return {key: tensor for key, tensor in state.items() if key != "encoder.layer.1.output.LayerNorm.weight"}
    if how == "transposed factor":
        return {**state, f"{prefix}factor_right": state[f"{prefix}factor_right"].T.clone()}
    if how == "fewer biases":
        return {**state, f"{prefix}bias": state[f"{prefix}bias"][:, :-1].clone()}
    assert how == "one layer more"
    return {**state, "encoder.layer.7.output.LayerNorm.weight": torch.ones(12)}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no factors", r"no decomposed BERT in the original's format: no tucker_weighter\.\*"),
        ("no core", r"lacks tucker_weighter\.core"),
        ("no layer norm", r"lacks 1 tensors of its encoder, encoder\.layer\.1\.output\.LayerNorm\.weight"),
        ("transposed factor", r"factor_right has shape \(12, 7\), its config gives \(7, 12\)"),
        ("fewer biases", r"bias has shape \(2, 7, 12\), its config gives \(2, 8, 12\)"),
        ("one layer more", r"has 1 tensors that its config gives no place, encoder\.layer\.7"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(how: str, words: str, tmp_path: Path) -> None:
    """Missing, superfluous and ill-shaped tensors are named."""
    edit = decompositions()["IV"]
    model = decomposed(edit, BertModel)
    directory = write_original(tmp_path, model, edit)
    torch.save(damaged(original_state(model, edit), how), directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match=words):
        load_original(directory, AutoModel)


def test_a_missing_or_unsafe_file_is_refused(tmp_path: Path) -> None:
    edit = decompositions()["IV"]
    directory = write_original(tmp_path, decomposed(edit, BertModel), edit)
    torch.save({"weights": tiny_bert}, directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match="nothing in it was executed"):
        load_original(directory, AutoModel)
    (directory / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="There is no weight file"):
        load_original(directory, AutoModel)
    (directory / "config.json").unlink()
    assert not is_original(directory)
    with pytest.raises(ModelError, match="There is no file"):
        load_original(directory, AutoModel)


# a plain BERT whose config.json was edited


def edited_config(path: Path, **values: Any) -> Any:
    """The config of a BERT directory whose `config.json` got more keys, as `AutoConfig` reads it."""
    tiny_config().save_pretrained(path)
    described = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(described | values))
    return AutoConfig.from_pretrained(path)


def test_rank_keys_in_a_config_ask_for_a_decomposition(tmp_path: Path) -> None:
    """Without `ops`, san_ffn; with `is_expand`, the expanded variant; without ranks, none."""
    ranks: dict[str, Any] = {"rank_layer": 3, "rank_condim": 5, "rank_dim": 4}
    assert edit_from_original_config(edited_config(tmp_path, **ranks)) == DecompositionConfig("IV", "san_ffn", **ranks)
    found = edit_from_original_config(edited_config(tmp_path, **ranks, ops="san", load_compressed_model=False))
    assert found == DecompositionConfig("IV", "san", **ranks)
    more = {"is_expand": True, "rank_left_expdim": 2, "rank_right_expdim": 3}
    found = edit_from_original_config(edited_config(tmp_path, **ranks, **more))
    assert found == DecompositionConfig("IV", "san_ffn", **ranks, **more)  # type: ignore[arg-type]
    assert edit_from_original_config(edited_config(tmp_path, ops="san", is_expand=False)) is None
    assert edit_from_original_config(BertConfig()) is None


def test_half_a_rank_and_a_misspelt_ops_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has rank_layer but lacks rank_condim, rank_dim"):
        edit_from_original_config(edited_config(tmp_path, rank_layer=3))
    with pytest.raises(ModelError, match=r"found 'san_fnn' \(did you mean 'san_ffn'\?\)"):
        edit_from_original_config(edited_config(tmp_path, rank_layer=3, rank_condim=5, rank_dim=4, ops="san_fnn"))
