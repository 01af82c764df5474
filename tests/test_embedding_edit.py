"""Factorised embeddings as an edit of a tiny BERT, with its tied output layer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
)

from model import DecompositionConfig, ModelError, apply_edit
from model.compression import edit_from_dict, edits_of
from model.decomposition.embeddings import (
    EmbeddingConfig,
    factorised_embedding,
)
from tests.helpers_close import same_logits
from tests.helpers_edits import build_t5

V, D = 50, 24
EDITS = {
    "ket": EmbeddingConfig("ket", order=2, rank=2),
    "ketxs": EmbeddingConfig("ketxs", order=3, rank=2),
    "tt": EmbeddingConfig("tt", order=3, rank=4),
    "tr": EmbeddingConfig("tr", order=3, rank=3),
}
each_edit = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())


def bert(head: Any = BertForMaskedLM, **changes: Any) -> Any:
    """A random BERT of one layer."""
    torch.manual_seed(0)
    settings = {
        **{"vocab_size": V, "hidden_size": D, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 32, "max_position_embeddings": 16},
    }
    model = head(BertConfig(**{**settings, **changes})).eval()
    with torch.no_grad():
        embedding = model.get_input_embeddings()
        embedding.weight.copy_(torch.randn_like(embedding.weight) * 0.3)
    return model


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        output = model(torch.tensor([[2, 9, 13, 49], [1, 0, 7, 7]]))
    return output[0] if "last_hidden_state" in output else output.get("logits", output.get("prediction_logits"))


def train_a_little(model: Any, steps: int = 3) -> None:
    """A few steps that learn to predict fixed tokens."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids = torch.tensor([[2, 9, 13, 49]])
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(logits_with_grad(model, ids).flatten(0, 1), torch.tensor([5, 6, 7, 8]))
        loss.backward()
        optimizer.step()


def logits_with_grad(model: Any, ids: Tensor) -> Tensor:
    output = model(ids)
    found: Tensor = output.get("logits", output.get("prediction_logits"))
    return found


@each_edit
@pytest.mark.parametrize("tied", [True, False])
def test_saved_models_load_with_the_same_logits(edit: EmbeddingConfig, tied: bool, tmp_path: Path) -> None:
    """After training, through save_pretrained and Auto…from_pretrained; with and without a tied output layer."""
    model = bert(tie_word_embeddings=tied)
    apply_edit(model, edit)
    train_a_little(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert same_logits(logits(loaded), logits(model))
    assert edits_of(loaded) == [edit]
    train_a_little(loaded)  # and goes on learning
    train_a_little(model)
    assert same_logits(logits(loaded), logits(model))


def test_all_heads_load(tmp_path: Path) -> None:
    """The bare model and the pre-training head too; a saved head loads as the bare model."""
    for head, auto in ((BertModel, AutoModel), (BertForPreTraining, AutoModelForPreTraining)):
        model = bert(head)
        apply_edit(model, EDITS["tt"])
        model.save_pretrained(tmp_path / head.__name__)
        loaded = auto.from_pretrained(tmp_path / head.__name__).eval()
        assert same_logits(logits(loaded), logits(model))
    base = AutoModel.from_pretrained(tmp_path / "BertForPreTraining").eval()
    assert torch.equal(factorised_embedding(base).weight, factorised_embedding(model).weight)


@each_edit
def test_the_tied_output_layer_follows_the_factors(edit: EmbeddingConfig) -> None:
    """Over many steps: equal to a head that multiplies with the present table, in values and gradients."""
    model = bert()
    apply_edit(model, edit)
    ids = torch.tensor([[2, 9, 13, 49]])
    before = None
    for _ in range(5):
        train_a_little(model, steps=1)
        hidden = model.cls.predictions.transform(model.bert(ids).last_hidden_state)
        expected = hidden @ factorised_embedding(model).weight.T + model.cls.predictions.bias
        found = logits_with_grad(model, ids)
        torch.testing.assert_close(found, expected)
        parameters = list(factorised_embedding(model).parameters())
        torch.testing.assert_close(
            torch.autograd.grad(found.sum(), parameters), torch.autograd.grad(expected.sum(), parameters)
        )
        assert before is None or not torch.equal(before, found)
        before = found


def test_at_full_rank_the_model_is_the_dense_one() -> None:
    """Exactness of the edit, tied and untied."""
    full = (EmbeddingConfig("ket", 2, 5), EmbeddingConfig("ketxs", 2, 40), EmbeddingConfig("tt", 3, 20))
    for edit in full:
        for tied in (True, False):
            model = bert(tie_word_embeddings=tied).double()
            expected = logits(model)
            apply_edit(model, edit)
            torch.testing.assert_close(logits(model), expected, atol=1e-9, rtol=1e-9)


def test_it_stacks_on_a_decomposition(tmp_path: Path) -> None:
    """A decomposed encoder with a factorised embedding saves and loads; the other order is refused."""
    decomposition = DecompositionConfig(protocol="IV", ops="san", rank_layer=2, rank_condim=10, rank_dim=8)
    model = bert()
    apply_edit(model, decomposition)
    apply_edit(model, EDITS["ketxs"])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert edits_of(loaded) == [decomposition, EDITS["ketxs"]]
    assert same_logits(logits(loaded), logits(model))
    other = bert()
    apply_edit(other, EDITS["ketxs"])
    with pytest.raises(ModelError, match=r"legal is: decomposition \+ embedding"):
        apply_edit(other, decomposition)


def test_the_edit_makes_the_model_smaller_and_says_how_near_it_is() -> None:
    """The parameters that go are the table's; the error is reported."""
    model = bert()
    before = sum(p.numel() for p in model.parameters())
    apply_edit(model, EDITS["ketxs"])
    embedding = factorised_embedding(model)
    after = sum(p.numel() for p in model.parameters())
    assert before - after == V * D - embedding.num_parameters() > 0
    summary = embedding.summary()
    assert summary["dense_params"] == V * D and summary["num_params"] == embedding.num_parameters()
    assert summary["relative_error"] is not None and 0 < summary["relative_error"] < 1


def test_an_untied_output_layer_stays_as_it_is() -> None:
    """tie_word_embeddings=False: the head keeps its weight."""
    model = bert(tie_word_embeddings=False)
    head = model.cls.predictions.decoder.weight
    apply_edit(model, EDITS["ket"])
    assert model.cls.predictions.decoder.weight is head


def test_tie_weights_and_copies_keep_the_head_on_the_factors() -> None:
    """tie_weights() changes nothing; a deep copy's head belongs to the copy."""
    model = bert()
    apply_edit(model, EDITS["ket"])
    expected = logits(model)
    model.tie_weights()
    assert torch.equal(logits(model), expected)
    other = copy.deepcopy(model)
    train_a_little(other)
    assert torch.equal(logits(model), expected)
    assert other.cls.predictions.decoder._embedding[0] is factorised_embedding(other)


def test_building_looks_at_no_weights() -> None:
    """The structure of a fresh model: also on the meta device, with factors that can train elsewhere."""
    for edit in EDITS.values():
        with torch.device("meta"):
            model = bert_without_values()
            edit.build(model)
        assert all(p.is_meta for p in factorised_embedding(model).parameters())
        model = bert()
        edit.build(model)
        assert 0.005 < factorised_embedding(model).weight.std() < 0.08
        before = logits(model)
        train_a_little(model)
        assert not torch.equal(logits(model), before)


def bert_without_values() -> Any:
    config = BertConfig(vocab_size=V, hidden_size=D, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    return BertForMaskedLM(config)


def test_half_precision_follows_the_model() -> None:
    """Fitted in float64, kept in the table's type."""
    model = bert().to(torch.bfloat16)
    apply_edit(model, EDITS["tt"])
    assert factorised_embedding(model).weight.dtype == torch.bfloat16
    assert bool(torch.isfinite(logits(model)).all())


def test_settings_round_trip_with_their_defaults() -> None:
    """config.json holds the numbers, not the absence of them."""
    edit = EmbeddingConfig("ketxs")
    assert (edit.order, edit.rank) == (4, 1)
    assert edit.to_dict() == {"kind": "embedding", "embedding_type": "ketxs", "order": 4, "rank": 1}
    assert edit_from_dict(edit.to_dict()) == edit


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"embedding_type": "kett"}, "did you mean 'ket'"),
        ({"order": 1}, "at least 2, found 1"),
        ({"order": 2.0}, "order must be a whole number"),
        ({"rank": 0}, "at least 1, found 0"),
        ({"rank": True}, "rank must be a whole number"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    """When the edit is made, in one sentence."""
    with pytest.raises(ModelError, match=words):
        EmbeddingConfig(**settings)


def test_ranks_that_add_nothing_are_refused() -> None:
    """Both numbers are named, and the model stays as it was."""
    model = bert()
    for edit, most in ((EmbeddingConfig("ket", 2, 6), 5), (EmbeddingConfig("ketxs", 2, 41), 40)):
        with pytest.raises(ModelError, match=rf"rank {edit.rank} is larger than {most}"):
            apply_edit(model, edit)
    with pytest.raises(ModelError, match="rank 999 is larger than"):
        apply_edit(model, EmbeddingConfig("tt", 3, 999))
    assert isinstance(model.get_input_embeddings(), nn.Embedding) and not edits_of(model)


def test_models_without_a_form_for_it_are_refused() -> None:
    """T5, a second time, and a head that only claims to be tied."""
    with pytest.raises(ModelError, match="T5 shares one table"):
        apply_edit(build_t5("relu"), EDITS["ket"])
    model = bert()
    apply_edit(model, EDITS["ket"])
    with pytest.raises(ModelError, match="same edit twice"):
        apply_edit(model, EDITS["ket"])
    loose = bert()
    loose.cls.predictions.decoder.weight = nn.Parameter(torch.zeros(V, D))
    with pytest.raises(ModelError, match="tie_word_embeddings"):
        apply_edit(loose, EDITS["ket"])
    assert isinstance(loose.get_input_embeddings(), nn.Embedding)
    with pytest.raises(ModelError, match="no factorised embedding"):
        factorised_embedding(loose)
