"""Factorised embeddings: the maths on small tables, and the edit on a tiny BERT with its tied output layer."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorly
import torch
from tensorly.decomposition import tensor_ring, tensor_train
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
    EmbeddingKet,
    EmbeddingKetXS,
    EmbeddingTensorRing,
    EmbeddingTensorTrain,
    FactorisedEmbedding,
    factorised_embedding,
)
from model.decomposition.embeddings.fitting import fit_products, fit_ring, rebuild, ring_ranks
from model.decomposition.embeddings.shapes import balanced_sizes, fold_table, leaf_size
from tests.helpers_edits import build_t5

V, D = 50, 24

Make = Callable[..., FactorisedEmbedding]
#: One of each kind, at a rank that loses something and at one that does not.
KINDS: dict[str, tuple[Any, dict[str, int], dict[str, int] | None]] = {
    "ket2": (EmbeddingKet, {"order": 2, "rank": 2}, {"order": 2, "rank": 5}),
    "ket3": (EmbeddingKet, {"order": 3, "rank": 2}, {"order": 3, "rank": 9}),
    "ket4": (EmbeddingKet, {"order": 4, "rank": 1}, None),
    "ketxs2": (EmbeddingKetXS, {"order": 2, "rank": 3}, {"order": 2, "rank": 40}),
    "ketxs3": (EmbeddingKetXS, {"order": 3, "rank": 3}, None),
    "ketxs4": (EmbeddingKetXS, {"order": 4, "rank": 2}, None),
    "tt2": (EmbeddingTensorTrain, {"order": 2, "rank": 5}, {"order": 2, "rank": 99}),
    "tt3": (EmbeddingTensorTrain, {"order": 3, "rank": 5}, {"order": 3, "rank": 99}),
    "tr3": (EmbeddingTensorRing, {"order": 3, "rank": 3}, {"order": 3, "rank": 99}),
    "tr4": (EmbeddingTensorRing, {"order": 4, "rank": 2}, {"order": 4, "rank": 99}),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def table(rows: int = V, columns: int = D, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(kind: str, padding_idx: int | None = None) -> FactorisedEmbedding:
    """A freshly drawn embedding in float64."""
    torch.manual_seed(3)
    make, settings, _ = KINDS[kind]
    module: FactorisedEmbedding = make(V, D, padding_idx=padding_idx, **settings).double()
    module.reset_parameters(std=1.0)
    return module


# --- sizes --------------------------------------------------------------------------------------------------------


def test_leaf_sizes_are_exact_roots() -> None:
    """Rounding of a floating-point root never adds or loses one."""
    for order in (2, 3, 4, 5, 7):
        for base in range(1, 40):
            assert leaf_size(base**order, order) == base
            assert leaf_size(base**order + 1, order) == base + 1
    assert leaf_size(3125, 5) == 5 < math.ceil(3125 ** (1 / 5))


def test_balanced_sizes_waste_little() -> None:
    """Their product reaches the total, with at most a few per cent more, and the sizes are alike."""
    assert balanced_sizes(384, 3) == (6, 8, 8)
    for total in (7, 97, 120, 768, 30522, 32128):
        for order in (2, 3, 4):
            sizes = balanced_sizes(total, order)
            assert len(sizes) == order and total <= math.prod(sizes)
            assert math.prod(sizes) <= leaf_size(total, order) ** order
    assert math.prod(balanced_sizes(30522, 3)) <= 1.01 * 30522


# --- the maths ----------------------------------------------------------------------------------------------------


def test_ket_and_ketxs_are_kronecker_products() -> None:
    """Against torch.kron, first factor slowest, cut to the table's size."""
    ket, xs = build("ket3"), build("ketxs3")
    assert isinstance(ket, EmbeddingKet) and isinstance(xs, EmbeddingKetXS)
    row = sum(torch.kron(torch.kron(w[0][17], w[1][17]), w[2][17]) for w in ket.leaves.transpose(0, 1))
    assert isinstance(row, Tensor)
    torch.testing.assert_close(ket.weight[17], row[:D])
    whole = sum(torch.kron(torch.kron(w[0], w[1]), w[2]) for w in xs.leaves.transpose(0, 1))
    assert isinstance(whole, Tensor)
    torch.testing.assert_close(xs.weight, whole[:V, :D])


def test_ring_is_the_trace_of_the_cores() -> None:
    """Against the definition, entry by entry."""
    ring = build("tr4")
    assert isinstance(ring, EmbeddingTensorRing) and ring.ranks[0] > 1
    row, column = 37, 19
    product, i, j = torch.eye(ring.ranks[-1 + 1], dtype=torch.float64), row, column
    digits = []
    for rows, columns in zip(reversed(ring.row_sizes), reversed(ring.column_sizes), strict=True):
        digits.append((i % rows, j % columns))
        i, j = i // rows, j // columns
    for core, (a, b) in zip(ring.cores, reversed(digits), strict=True):
        product = product @ core[:, a, b]
    torch.testing.assert_close(ring.weight[row, column], product.trace())


@each_kind
def test_lookup_by_row_equals_the_table(kind: str) -> None:
    """Values and gradients of the row path equal those of nn.functional.embedding on the table."""
    ids = torch.tensor([[0, 1, 49], [7, 7, 0]])
    for padding in (None, 0, -1):
        module = build(kind, padding)
        weight = module.weight
        assert weight.shape == (V, D)
        found, expected = module(ids), nn.functional.embedding(ids, weight, module.padding_idx)
        torch.testing.assert_close(found, expected)
        one = torch.autograd.grad(found.square().sum(), list(module.parameters()), allow_unused=True)
        two = torch.autograd.grad(expected.square().sum(), list(module.parameters()), allow_unused=True)
        torch.testing.assert_close(one, two)


@each_kind
def test_looking_up_many_ids_equals_looking_up_few(kind: str) -> None:
    """From V ids on the table is computed once; the result is the same."""
    module = build(kind, 0)
    many = torch.arange(V).repeat(2)
    torch.testing.assert_close(module(many)[:V], torch.cat([module(part) for part in many[:V].split(7)]))


@each_kind
def test_projection_equals_the_product_with_the_table(kind: str) -> None:
    """Whichever way is cheaper; gradients too."""
    module = build(kind)
    hidden = table(3, D, seed=5).view(3, 1, D).requires_grad_()
    found, expected = module.project(hidden), hidden @ module.weight.T
    torch.testing.assert_close(found, expected)
    wanted = [hidden, *module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), wanted), torch.autograd.grad(expected.square().sum(), wanted)
    )


def test_every_way_to_project_is_taken() -> None:
    """Few products: through the halves, whichever half is cheaper first; many products: the table."""
    ways = set()
    for rows, columns, rank in ((400, 9, 1), (9, 400, 1), (50, 24, 40)):
        module = EmbeddingKetXS(rows, columns, 3 if rank == 1 else 2, rank).double()
        left, right, dense = module._project_macs(*module.halves(), 4)
        ways.add(min((left, "left"), (right, "right"), (dense, "dense"))[1])
        hidden = table(4, columns)
        torch.testing.assert_close(module.project(hidden), hidden @ module.weight.T)
    assert len(ways) >= 2 and "dense" in ways


@each_kind
def test_fresh_tables_have_the_wanted_size(kind: str) -> None:
    """The entries' standard deviation is the one asked for, within the spread of so few factors."""
    values = []
    for seed in range(8):
        torch.manual_seed(seed)
        module = build(kind)
        torch.manual_seed(seed)
        module.reset_parameters(std=0.5)
        values.append(module.weight.square().mean().item())
    assert 0.2 < math.sqrt(sum(values) / len(values)) < 0.9


def test_ids_beyond_the_table_are_refused() -> None:
    """The factors span more rows than the table has."""
    for kind in KINDS:
        with pytest.raises(IndexError, match="50"):
            build(kind)(torch.tensor([V]))


# --- fitting ------------------------------------------------------------------------------------------------------


@each_kind
def test_fit_reports_its_error_and_full_rank_is_exact(kind: str) -> None:
    """The reported relative error is the table's; at full rank nothing is lost."""
    make, settings, full = KINDS[kind]
    weight = table()
    module = make.from_weight(weight, padding_idx=0, **settings)
    error = ((module.weight - weight).norm() / weight.norm()).item()
    assert module.relative_error == pytest.approx(error, abs=1e-12) and 0 < error < 1
    if full is not None:
        assert make.from_weight(weight, **full).relative_error < (
            1e-10 if full["order"] == 2 or "t" in kind[0] else 0.1
        )


@each_kind
def test_tables_of_the_right_form_are_found_again(kind: str) -> None:
    """A table that is such a product of rank 1, and fills the factors, is fitted without loss."""
    make, settings, _ = KINDS[kind]
    size = 3 ** settings["order"]
    truth = make(size, size, settings["order"], 1).double()
    truth.reset_parameters(std=1.0)
    assert make.from_weight(truth.weight, **settings).relative_error < 1e-4


def test_fit_beats_neighbouring_factors() -> None:
    """No small change of the factors lowers the error of the SVD fits (order 2): they are minima."""
    weight = table(36, 16)
    for make in (EmbeddingKet, EmbeddingKetXS, EmbeddingTensorTrain):
        module = make.from_weight(weight, order=2, rank=2)
        (module.weight - weight).square().sum().backward()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert gradients and all(gradient.abs().max() < 1e-8 for gradient in gradients)


def test_more_products_fit_better() -> None:
    """The error falls with the rank, beyond the leaf size too."""
    weight = table(8, 16)
    errors = [EmbeddingKet.from_weight(weight, order=4, rank=rank).relative_error for rank in (1, 2, 3, 5)]
    assert all(a is not None and b is not None and b < a for a, b in itertools.pairwise(errors))


def test_fitting_is_deterministic() -> None:
    """Twice the same bits, whatever the global random state."""
    target = table(4, 81).view(4, 3, 3, 3, 3)
    one = fit_products(target, 5)
    torch.manual_seed(99)
    assert all(torch.equal(a, b) for a, b in zip(one, fit_products(target, 5), strict=True))


def test_products_fit_every_table_of_a_batch_alone() -> None:
    """Fitting tables together gives what each gives alone."""
    target = table(3, 64).view(3, 4, 4, 4)
    together = rebuild(fit_products(target, 2, sweeps=6))
    alone = torch.cat([rebuild(fit_products(one[None], 2, sweeps=6)) for one in target])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("closed", [False, True])
def test_trains_and_rings_are_as_good_as_tensorlys(closed: bool) -> None:
    """The same ranks give tensorly's error; a ring's depends a little on the signs of its first singular vectors."""
    folded = fold_table(table(60, 24), (3, 4, 5), (2, 3, 4))
    ranks = ring_ranks(folded.shape, 3 if closed else 4, closed)
    assert closed == (ranks[0] > 1)
    chain = torch.einsum(
        "zaiy,yjx,xkz->ijk", *(c.unsqueeze(1) if n == 0 else c for n, c in enumerate(fit_ring(folded, ranks)))
    )
    decompose, rebuild_theirs = (
        (tensor_ring, tensorly.tr_to_tensor) if closed else (tensor_train, tensorly.tt_to_tensor)
    )
    theirs = torch.from_numpy(rebuild_theirs(decompose(folded.numpy(), [*ranks, ranks[0]])))
    torch.testing.assert_close((chain - folded).norm(), (theirs - folded).norm(), rtol=0.02 if closed else 1e-6, atol=0)


def test_bad_tables_and_settings_are_refused() -> None:
    """One sentence each."""
    with pytest.raises(ModelError, match="not finite"):
        EmbeddingKet.from_weight(torch.full((4, 4), math.nan))
    with pytest.raises(ModelError, match="order must be at least 2, found 1"):
        EmbeddingKet(4, 4, order=1)
    with pytest.raises(ModelError, match="rank must be at least 1, found 0"):
        EmbeddingKetXS(4, 4, rank=0)
    with pytest.raises(ModelError, match="padding_idx 4"):
        EmbeddingTensorTrain(4, 4, padding_idx=4)
    with pytest.raises(ModelError, match="four dimensions"):
        EmbeddingKet.from_leaves(torch.zeros(3, 4), 4)
    with pytest.raises(ModelError, match="fewer than 17 columns"):
        EmbeddingKet.from_leaves(torch.zeros(2, 1, 5, 4), 17)
    with pytest.raises(ModelError, match="shape"):
        EmbeddingKet(4, 4).fit(torch.zeros(4, 5))


def test_zero_tables_fit_without_error() -> None:
    """No division by a norm of zero."""
    for kind in KINDS:
        make, settings, _ = KINDS[kind]
        module = make.from_weight(torch.zeros(V, D, dtype=torch.float64), **settings)
        assert module.relative_error == 0 and bool(torch.isfinite(module.weight).all())


# --- the edit -----------------------------------------------------------------------------------------------------

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
    assert torch.equal(logits(loaded), logits(model))
    assert edits_of(loaded) == [edit]
    train_a_little(loaded)  # and goes on learning
    train_a_little(model)
    assert torch.equal(logits(loaded), logits(model))


def test_all_heads_load(tmp_path: Path) -> None:
    """The bare model and the pre-training head too; a saved head loads as the bare model."""
    for head, auto in ((BertModel, AutoModel), (BertForPreTraining, AutoModelForPreTraining)):
        model = bert(head)
        apply_edit(model, EDITS["tt"])
        model.save_pretrained(tmp_path / head.__name__)
        loaded = auto.from_pretrained(tmp_path / head.__name__).eval()
        assert torch.equal(logits(loaded), logits(model))
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
    assert torch.equal(logits(loaded), logits(model))
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
