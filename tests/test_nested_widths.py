"""Views of a pruned model at every sparsity, in training; the sparsity axis; pruned models with other edits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from model import LayerDropConfig, ModelError, PluginConfig, apply_edit, edits_of, set_ratio
from model.attention_scores import trace, use_attention_scores
from model.pruning import NestedWidths, SparsityAxis, committed, sparsify, sparsity_of
from tests.helpers_close import same_logits
from tests.helpers_decomposition import tiny_inputs, tiny_logits
from tests.helpers_edits import build_t5, logits
from tests.helpers_pruning import (
    SPARSITIES,
    close,
    pruned_bert,
    random_importance,
    sizes_of,
    sorted_bert,
    square_loss,
    unchanged,
)

pytestmark = pytest.mark.usefixtures("single_thread")


def test_nested_widths_share_the_parameters() -> None:
    """No tensor is copied, by building, selecting or closing; afterwards the plain model is back."""
    model = sorted_bert()
    before = {id(parameter): parameter.data_ptr() for parameter in model.parameters()}
    keys, kinds = list(model.state_dict()), [type(module) for module in model.modules()]
    nested = NestedWidths(model)
    for sparsity in (0.9, 0.0, 0.5):
        nested.select(sparsity)
        assert {id(parameter): parameter.data_ptr() for parameter in model.parameters()} == before
    with pytest.raises(ModelError, match="nested widths already"):
        NestedWidths(model)
    nested.close()
    assert {id(parameter): parameter.data_ptr() for parameter in model.parameters()} == before
    assert list(model.state_dict()) == keys and [type(module) for module in model.modules()] == kinds


def test_a_step_at_a_sparsity_trains_what_it_keeps_and_nothing_else() -> None:
    """The gradient of a view is the committed model's; rows beyond it get zero."""
    model = sorted_bert()
    small = committed(model, 0.5)
    with NestedWidths(model) as nested:
        nested.select(0.5)
        square_loss(model, tiny_inputs()).backward()
    square_loss(small, tiny_inputs()).backward()
    for (name, part), whole in zip(
        small.named_parameters(), (dict(model.named_parameters())[n] for n, _ in small.named_parameters()), strict=True
    ):
        assert part.grad is not None and whole.grad is not None
        kept = tuple(slice(0, size) for size in part.shape)
        assert close(whole.grad[kept], part.grad), name
        assert whole.grad.abs().sum() == pytest.approx(float(part.grad.abs().sum()), rel=1e-9), name
    gone = {n for n, _ in model.named_parameters()} - {n for n, _ in small.named_parameters()}
    assert gone and all(dict(model.named_parameters())[name].grad is None for name in gone)


def test_a_checkpoint_of_nested_widths_loads_into_others() -> None:
    """Bit for bit, whatever was selected when it was written: what resuming needs."""
    first, second = sorted_bert(), sorted_bert(seed=3)
    one, two = NestedWidths(first), NestedWidths(second)
    one.select(0.99)
    two.select(0.5)
    second.load_state_dict(first.state_dict())
    for sparsity in (0.0, 0.7):
        one.select(sparsity)
        two.select(sparsity)
        assert same_logits(tiny_logits(first), tiny_logits(second))


def test_what_training_changed_is_what_is_committed() -> None:
    """The current weights are cut, while the nested widths go on."""
    model = sorted_bert()
    nested = NestedWidths(model)
    nested.select(0.7)
    before = tiny_logits(committed(model, 0.7))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05)
    small = committed(model, 0.7)
    assert close(tiny_logits(small), tiny_logits(model)) and not close(tiny_logits(small), before)
    assert nested.sparsity == 0.7 and not any("Nested" in type(module).__name__ for module in small.modules())


def test_autocast_computes_at_every_width() -> None:
    model = sorted_bert().float().train()
    with NestedWidths(model) as nested:
        for sparsity in SPARSITIES:
            nested.select(sparsity)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = square_loss(model, tiny_inputs())
            loss.backward()
            assert loss.isfinite()


# the axis


def test_the_axis_selects_and_commits_without_ending_the_training() -> None:
    model = sorted_bert()
    before = tiny_logits(model)
    axis = SparsityAxis(model, [0.5, 0.9])
    assert axis.name == "sparsity" and axis.grid == (0.5, 0.9)
    axis.select(0.9)
    small = axis.commit(0.9)
    assert close(tiny_logits(small), tiny_logits(model)) and sparsity_of(small) == 0.9
    axis.select(0.5)
    assert not close(tiny_logits(small), tiny_logits(model))
    axis.close()
    assert close(tiny_logits(model), before)


@pytest.mark.parametrize(
    ("grid", "word"), [([], "rises"), ([0.9, 0.5], "rises"), ([0.5, 0.5], "rises"), ([50], "below 1"), ([0.2], "0.2")]
)
def test_a_grid_rises_from_where_the_model_is(grid: list[float], word: str) -> None:
    model = committed(sorted_bert(), 0.3)
    with unchanged(model), pytest.raises(ModelError, match=word):
        SparsityAxis(model, grid)


def test_an_axis_goes_on_from_a_commitment() -> None:
    """What is selected on the 50 % model is what the whole one shows."""
    model = sorted_bert()
    axis = SparsityAxis(committed(model, 0.5), [0.5, 0.8])
    axis.select(0.8)
    assert close(tiny_logits(axis.model), tiny_logits(committed(model, 0.8)))
    with pytest.raises(ModelError, match=r"has no widths at 0\.3"):
        axis.select(0.3)


# with other edits


def test_attention_scores_of_pruned_models_are_read() -> None:
    """Scores have as many heads as the layer has; hidden states are the plain model's."""
    small = committed(sorted_bert(), 0.3)
    heads, _ = sizes_of(small)
    assert len(set(heads)) > 1 and 0 not in heads
    plain = small.bert(**tiny_inputs(), output_hidden_states=True).hidden_states
    use_attention_scores(small)
    found = trace(small, tiny_inputs(), (0, 1, 2))
    assert [scores.shape[1] for scores in found.scores] == heads
    assert all(close(found.hidden[i], plain[i + 1]) for i in range(3))


def test_layers_drop_first_then_heads_and_neurons_go(tmp_path: Path) -> None:
    model = pruned_bert(layers=4)
    apply_edit(model, LayerDropConfig((1, 3)))
    sparsify(model, random_importance(model))
    small = committed(model, 0.5).float()
    assert [edit.kind for edit in edits_of(small)] == ["layer_drop", "pruning"] and len(sizes_of(small)[0]) == 2
    small.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert same_logits(tiny_logits(loaded), tiny_logits(small))


def test_plugins_stack_on_a_pruned_t5(tmp_path: Path) -> None:
    model = build_t5("gated_deep_decoder", d_kv=8, d_ff=64)
    sparsify(model, random_importance(model))
    small = committed(model, 0.3)
    before = logits(small)
    apply_edit(small, PluginConfig(ratios=(2,), bottleneck=5))
    assert torch.equal(logits(small), before)
    small.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    for model in (small, loaded):
        set_ratio(model, 2)
    assert same_logits(logits(loaded), logits(small)) and not torch.equal(logits(small), before)
