"""Pruning by importance: measuring, sorting, rounding, nested widths, real shrink, and what is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoModelForTextEncoding

from model import LoraConfig, ModelError, apply_edit, edits_of
from model.pruning import (
    Importance,
    NestedWidths,
    PruningConfig,
    Widths,
    committed,
    measure_importance,
    places_of,
    sparsify,
    sparsity_of,
    widths_at,
)
from model.pruning.commit import pruning_of
from model.pruning.importance import mask_gradients
from model.pruning.places import Places, Units
from model.pruning.widths import kept_units, removal_ranks, widths_of_ranks
from tests.helpers_close import same_logits
from tests.helpers_decomposition import decompositions, tiny_bert, tiny_inputs, tiny_logits
from tests.helpers_edits import build_t5, inputs, logits
from tests.helpers_pruning import (
    SPARSITIES,
    batches,
    close,
    masked,
    pruned_bert,
    random_importance,
    sizes_of,
    sorted_bert,
    square_loss,
    unchanged,
)

pytestmark = pytest.mark.usefixtures("single_thread")

#: Heads, head size, neurons, layers: the original fails at depths below 6 and at sizes that 8 does not divide.
SIZES = ((3, 8, 40, 1), (4, 12, 36, 3), (3, 20, 50, 2), (8, 4, 100, 2), (5, 6, 20, 4), (2, 16, 24, 13))


def count_parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# widths


@pytest.mark.parametrize(
    ("rows_gone", "rows_kept"), [(0, 64), (4, 64), (5, 56), (12, 48), (20, 48), (28, 32), (57, 8), (61, 0), (64, 0)]
)
def test_rows_go_in_multiples_of_eight_half_to_even(rows_gone: int, rows_kept: int) -> None:
    """4 -> 0, 12 -> 16, 20 -> 16, 28 -> 32 as in the original."""
    assert kept_units(Units("encoder", 64, 1), rows_gone, 8) == rows_kept


def test_what_is_left_below_eight_rows_goes_too() -> None:
    assert kept_units(Units("encoder", 100, 1), 94, 8) == 0
    assert kept_units(Units("encoder", 100, 1), 91, 8) == 12
    assert kept_units(Units("encoder", 4, 1), 0, 8) == 4, "but where nothing goes, nothing changes"


@pytest.mark.parametrize("size", [3, 4, 6, 12, 20, 64, 80])
@pytest.mark.parametrize("count", [1, 3, 4, 12])
def test_heads_stay_whole_and_never_become_more(size: int, count: int) -> None:
    """M-4: at head sizes 12 and 20 the original splits heads, and 3 of 3 heads of 20 removed leave 56 rows of 60."""
    kept = [kept_units(Units("encoder", count, size), gone, 8) for gone in range(count + 1)]
    assert kept[0] == count and kept[-1] == 0
    assert kept == sorted(kept, reverse=True) and min(kept) >= 0


@pytest.mark.parametrize("seed", range(3))
def test_a_higher_sparsity_never_keeps_more(seed: int) -> None:
    """In no place, at no percent, with ties among the importances; and the total follows the sparsity."""
    generator = torch.Generator().manual_seed(seed)
    units = [Units("encoder", 40, 1), Units("encoder", 24, 1), Units("decoder", 33, 1)]
    ranks = removal_ranks([torch.randint(0, 9, (unit.count,), generator=generator).double() for unit in units])
    before: Sequence[int] = [unit.count for unit in units]
    for percent in range(100):
        kept = widths_of_ranks(ranks, units, percent / 100, 8)
        assert all(new <= old for new, old in zip(kept, before, strict=True))
        assert abs(sum(kept) - (1 - percent / 100) * 97) <= len(units) * 8
        before = kept


def test_of_equal_importances_the_lower_layers_go_first() -> None:
    ranks = removal_ranks([torch.zeros(3), torch.ones(2), torch.zeros(2)])
    assert [rank.tolist() for rank in ranks] == [[0, 1, 2], [5, 6], [3, 4]]


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 90, float("nan"), "0.9", True, None])
def test_a_sparsity_is_a_fraction_below_one(sparsity: Any) -> None:
    with pytest.raises(ModelError, match="at least 0 and below 1, found"):
        committed(sorted_bert(layers=1), sparsity)


# importance


def test_importance_is_the_change_of_the_loss_with_a_mask() -> None:
    """Against differences of the loss with one head's or neuron's output columns scaled by 1 ± ε."""
    model = pruned_bert(layers=2)
    found, step = mask_gradients(model, batches()[:1], square_loss), 1e-5
    places = places_of(model)
    for output, columns, gradient in (
        (places.attentions[1].slots.output.module, slice(8, 16), found.heads[1][1]),
        (places.ffns[0].ffn_out.module, slice(5, 6), found.neurons[0][5]),
    ):
        losses = []
        for factor in (1 + step, 1 - step):
            with torch.no_grad():
                weight = output.get_parameter("weight")
                kept = weight[:, columns].clone()
                weight[:, columns] *= factor
                losses.append(float(square_loss(model, batches()[0])))
                weight[:, columns] = kept
        assert abs((losses[0] - losses[1]) / (2 * step)) == pytest.approx(float(gradient), rel=1e-6)


def test_importances_of_batches_add_up_whatever_their_size() -> None:
    """The absolute gradients of each batch's mean loss; and rows of length 1."""
    model = pruned_bert()
    each = [mask_gradients(model, [batch], square_loss) for batch in batches()]
    both, unit = mask_gradients(model, batches(), square_loss), measure_importance(model, batches(), square_loss)
    for i in range(3):
        assert close(both.heads[i], each[0].heads[i] + each[1].heads[i])
        assert close(both.neurons[i], each[0].neurons[i] + each[1].neurons[i])
        assert float(unit.heads[i].norm()) == pytest.approx(1) and close(
            unit.neurons[i] * both.neurons[i].norm(), both.neurons[i]
        )


def test_measuring_leaves_the_model_as_it_was() -> None:
    """No gradient, no hook, and the mode of training comes back, after an error too; dropout is off meanwhile."""
    model = pruned_bert(hidden_dropout_prob=0.5).train()
    with unchanged(model):
        first = measure_importance(model, batches(), square_loss)
        again = measure_importance(model.requires_grad_(False), batches(), square_loss)
        assert all(torch.equal(a, b) for a, b in zip(first.neurons, again.neurons, strict=True))
        with pytest.raises(ModelError, match="at least one batch"):
            measure_importance(model, [], square_loss)
        with pytest.raises(RuntimeError, match="inside"):
            measure_importance(model, batches(), lambda model, batch: _fail())
        with pytest.raises(ModelError, match="not finite"):
            measure_importance(model, batches(), lambda model, batch: square_loss(model, batch) * float("inf"))


def _fail() -> torch.Tensor:
    raise RuntimeError("inside")


def test_importance_of_a_pruned_model_has_rows_of_what_is_left() -> None:
    """M-6: emptied sub-layers have empty rows; the original crashes."""
    model = committed(sorted_bert(), 0.9)
    heads, neurons = sizes_of(model)
    assert 0 in heads and 0 in neurons
    found = measure_importance(model, batches(), square_loss)
    assert [len(row) for row in found.heads] == heads and [len(row) for row in found.neurons] == neurons


# sorting


def test_sorting_changes_no_logit_and_puts_the_important_first() -> None:
    model = pruned_bert()
    before, importance = tiny_logits(model), measure_importance(model, batches(), square_loss)
    sparsify(model, importance)
    assert close(tiny_logits(model), before)
    assert sparsity_of(model) == 0.0 and [edit.kind for edit in edits_of(model)] == ["pruning"]
    after = measure_importance(model, batches(), square_loss)
    for row in (*after.heads, *after.neurons):
        assert torch.equal(row, row.sort(descending=True).values)


@pytest.mark.parametrize("build", [pruned_bert, lambda: build_t5("gated_deep_decoder").double()])
def test_sorting_twice_is_sorting_by_the_second(build: Any) -> None:
    """M-9: orders compose (the original overwrites the first), so position biases still find their heads."""
    run = logits if "T5" in type(build()).__name__ else tiny_logits
    once, twice = build(), build()
    before, second = run(once), random_importance(once, seed=2)
    sparsify(once, second)
    sparsify(twice, random_importance(twice, seed=1))
    heads = pruning_of(twice)
    assert heads is not None
    orders = [torch.tensor(ids) for ids in heads.heads]
    moved = tuple(row[order] for row, order in zip(second.heads, orders, strict=True))
    # Neurons have no names: the same order again leaves them where they are.
    still = tuple(-torch.arange(len(row)).double() for row in second.neurons)
    sparsify(twice, Importance(moved, still))
    named, expected = pruning_of(twice), pruning_of(once)
    assert named is not None and expected is not None and named.heads == expected.heads
    assert close(run(twice), before) and close(run(once), before)


def test_importances_of_another_model_are_refused() -> None:
    model = pruned_bert()
    with unchanged(model):
        with pytest.raises(ModelError, match=r"rows of \[3\] heads, and the model has \[3, 3, 3\]"):
            sparsify(model, random_importance(pruned_bert(layers=1)))
        with pytest.raises(ModelError, match=r"rows of \[24, 24, 24\] neurons"):
            sparsify(model, random_importance(pruned_bert(ffn=24)))
        good = random_importance(model)
        with pytest.raises(ModelError, match="importance of the heads is not finite"):
            sparsify(model, Importance((torch.full((3,), float("nan")), *good.heads[1:]), good.neurons))


def test_what_cannot_be_pruned_is_refused() -> None:
    """A decomposed teacher, a model that was never sorted, one that is cut already, one with an edit on top."""
    decomposed = tiny_bert()
    apply_edit(decomposed, decompositions()["II"])
    with pytest.raises(ModelError, match=r"decomposition \+ pruning cannot be stacked.*pruning \+ decomposition"):
        sparsify(decomposed, random_importance(tiny_bert()))
    with pytest.raises(ModelError, match="sparsify it first"):
        committed(tiny_bert(), 0.5)
    with pytest.raises(ModelError, match="sparsify it first"):
        NestedWidths(tiny_bert())
    half = committed(sorted_bert(), 0.5)
    with pytest.raises(ModelError, match=r"cut to sparsity 0.5 already"):
        sparsify(half, random_importance(half))
    with pytest.raises(ModelError, match=r"sparsity 0.5 cannot grow back to 0.3"):
        committed(half, 0.3)
    t5 = build_t5("relu")
    sparsify(t5, random_importance(t5))
    apply_edit(t5, LoraConfig(rank=2))
    with pytest.raises(ModelError, match=r"pruning \+ lora"):
        committed(t5, 0.5)
    with pytest.raises(ModelError, match=r"pruning \+ lora"):
        sparsify(t5, Importance((), ()))


# real shrink and nested widths


@pytest.mark.parametrize(("heads", "head_size", "ffn", "layers"), SIZES)
def test_committed_equals_nested_equals_masked(heads: int, head_size: int, ffn: int, layers: int) -> None:
    """Real shapes, views, and the dense model with masks compute the same at any depth and head size."""
    dense = pruned_bert(heads, head_size, ffn, layers)
    importance, model = random_importance(dense), copy.deepcopy(dense)
    sparsify(model, importance)
    with NestedWidths(model) as nested:
        for sparsity in SPARSITIES:
            nested.select(sparsity)
            small = committed(model, sparsity)
            found, widths = tiny_logits(small), widths_at(importance, places_of(dense), sparsity)
            assert sizes_of(small) == (list(widths.heads), list(widths.neurons))
            assert close(tiny_logits(model), found), sparsity
            assert close(tiny_logits(masked(dense, importance, widths)), found), sparsity
            assert sparsity_of(small) == sparsity
    assert close(tiny_logits(model), tiny_logits(dense))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("backbone", "head_size"), [("relu", 4), ("gated_deep_decoder", 12), ("gated_deep_encoder", 8)]
)
def test_t5s_without_biases_prune_too(backbone: str, head_size: int, attention: str) -> None:
    """M-5, M-7, M-8: no bias, any head size, all heads of a decoder's self-attention gone; position biases are kept."""
    dense = build_t5(backbone, d_kv=head_size, num_heads=4, d_ff=32).double()
    dense.set_attn_implementation(attention)
    importance, model = random_importance(dense), copy.deepcopy(dense)
    sparsify(model, importance)
    vanished = set()
    with NestedWidths(model) as nested:
        for sparsity in SPARSITIES:
            nested.select(sparsity)
            small, widths = committed(model, sparsity), widths_at(importance, places_of(dense), sparsity)
            expected = logits(masked(dense, importance, widths))
            assert close(logits(model), expected) and close(logits(small), expected), sparsity
            vanished |= {
                unit.group for unit, kept in zip(places_of(dense).heads, widths.heads, strict=True) if not kept
            }
    assert vanished == {"encoder", "decoder", "cross"}


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.95])
def test_pruned_t5s_generate_the_same_with_and_without_cache(sparsity: float) -> None:
    """Self-attention without heads still tells the cache how many keys there were."""
    model = build_t5("gated_deep_decoder", d_kv=8, num_layers=3)
    sparsify(model, random_importance(model))
    small, given = committed(model, sparsity), inputs()
    del given["decoder_input_ids"]
    made = [
        small.generate(**given, max_new_tokens=6, min_new_tokens=6, do_sample=False, **how)
        for how in ({"use_cache": False}, {"use_cache": True}, {"cache_implementation": "static"})
    ]
    assert made[0].shape[1] == 7 and torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


def test_a_committed_model_is_made_of_stock_modules_of_smaller_size() -> None:
    """Plain linear layers with their own, dense memory; the attention block is Hugging Face's; nothing is left over."""
    source = sorted_bert()
    with unchanged(source):
        small = committed(source, 0.5)
    kinds = {type(module).__module__.split(".")[0] for module in small.modules()}
    assert kinds == {"torch", "transformers", "model"}
    heads, neurons = sizes_of(small)
    shared = {p.data_ptr() for p in source.parameters()} & {p.data_ptr() for p in small.parameters()}
    assert not shared and all(p.is_contiguous() for p in small.parameters())
    for i, layer in enumerate(small.bert.encoder.layer):
        shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
        rows = heads[i] * 8
        if rows:
            assert type(layer.attention.self.query) is nn.Linear and shapes["attention.self.value.bias"] == (rows,)
            assert shapes["attention.output.dense.weight"] == (24, rows)
            assert layer.attention.self.num_attention_heads == heads[i]
        else:
            assert not any(name.startswith(("attention.self", "attention.output.dense")) for name in shapes)
        if neurons[i]:
            assert shapes["intermediate.dense.weight"] == (neurons[i], 24)
        else:
            assert not any(name.startswith(("intermediate", "output.dense")) for name in shapes)


def test_a_vanished_sublayer_is_the_norm_of_its_input() -> None:
    """Its output bias is gone too; at the highest sparsity only embeddings and norms are left, and they train."""
    model = committed(sorted_bert(), 0.999).train()
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    layer = model.bert.encoder.layer[0]
    expected = layer.output.LayerNorm(layer.attention.output.LayerNorm(x))
    found = layer(x)
    assert torch.equal(found[0] if isinstance(found, tuple) else found, expected)
    square_loss(model, tiny_inputs()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("heads", "head_size", "ffn", "layers"), SIZES)
def test_a_sparser_model_is_never_larger(heads: int, head_size: int, ffn: int, layers: int) -> None:
    """M-4: the original's 95 % model with heads of 20 is larger than its 70 % one."""
    model = sorted_bert(heads=heads, head_size=head_size, ffn=ffn, layers=layers)
    counts = [count_parameters(committed(model, sparsity)) for sparsity in SPARSITIES]
    assert counts == sorted(counts, reverse=True) and counts[-1] < counts[0]


def test_steps_lead_to_the_same_model_as_one_cut(tmp_path: Path) -> None:
    """From any commitment, saved, reloaded and in half precision in between, sparsities count from the original."""
    model = sorted_bert(ffn=64)
    expected = committed(model, 0.9)
    by_steps = committed(committed(committed(model, 0.3), 0.3), 0.9)
    assert same_logits(tiny_logits(by_steps), tiny_logits(expected))
    assert edits_of(by_steps) == edits_of(expected)
    committed(model, 0.5).half().save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert sparsity_of(loaded) == 0.5
    assert sizes_of(committed(loaded, 0.9)) == sizes_of(expected)
    assert edits_of(committed(loaded, 0.9)) == edits_of(expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.6, 0.95])
def test_a_saved_model_loads_by_its_directory(sparsity: float, tmp_path: Path) -> None:
    """`Auto…` classes give the same bits, with the head and without it; the next save is the same again."""
    small = committed(sorted_bert().float(), sparsity)
    small.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert same_logits(tiny_logits(loaded), tiny_logits(small))
    assert list(loaded.state_dict()) == list(small.state_dict())
    base = AutoModel.from_pretrained(tmp_path).eval()
    assert same_logits(tiny_logits(base), small.bert(**tiny_inputs()).last_hidden_state)
    assert same_logits(tiny_logits(pickle.loads(pickle.dumps(small))), tiny_logits(small))


def test_an_encoder_alone_reads_a_pruned_t5(tmp_path: Path) -> None:
    model = build_t5("gated_deep_encoder", d_kv=8)
    sparsify(model, random_importance(model))
    committed(model, 0.6).save_pretrained(tmp_path)
    whole, encoder = (
        auto.from_pretrained(tmp_path).eval() for auto in (AutoModelForSeq2SeqLM, AutoModelForTextEncoding)
    )
    given = {key: value for key, value in inputs().items() if "decoder" not in key}
    with torch.no_grad():
        assert same_logits(encoder(**given).last_hidden_state, whole.get_encoder()(**given).last_hidden_state)


# applied by hand


def test_heads_and_neurons_can_be_named() -> None:
    """The named heads stay, in the given order, and the first neurons: as with masks."""
    dense, ids = pruned_bert(layers=2), ((2, 0), ())
    model = copy.deepcopy(dense)
    apply_edit(model, PruningConfig(0.5, ids, (16, 0)))
    order = (torch.tensor([2.0, 1.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]))
    first = -torch.arange(40.0)
    expected = masked(dense, Importance(order, (first, first)), Widths((2, 0), (16, 0)))
    assert close(tiny_logits(model), tiny_logits(expected))
    assert sizes_of(committed(model, 0.9)) < sizes_of(model)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (PruningConfig(0.5, ((0,),), (8,)), "for 1 attention blocks, and the model has 2"),
        (PruningConfig(0.5, ((0,), (3,)), (8, 8)), "names head 3, and the model's blocks have 3"),
        (PruningConfig(0.5, ((0,), (1,)), (8,)), "for 1 FFN blocks"),
        (PruningConfig(0.5, ((0,), (1,)), (8, 41)), "keeps 41 neurons, and the model's FFNs have 40"),
    ],
)
def test_a_pruning_for_another_model_is_refused(edit: PruningConfig, word: str) -> None:
    model = pruned_bert(layers=2)
    with unchanged(model), pytest.raises(ModelError, match=word):
        apply_edit(model, edit)


def test_places_know_their_original_sizes() -> None:
    """Also when cut; in the order encoder, decoder, cross."""
    model = build_t5("gated_deep_decoder")
    sparsify(model, random_importance(model))
    places: Places = places_of(committed(model, 0.9))
    assert [unit.group for unit in places.heads] == [*["encoder"] * 2, *["decoder"] * 3, *["cross"] * 3]
    assert [unit.group for unit in places.neurons] == [*["encoder"] * 2, *["decoder"] * 3]
    assert {(unit.count, unit.size) for unit in places.heads} == {(2, 6)}
    assert {(unit.count, unit.size) for unit in places.neurons} == {(20, 1)}
