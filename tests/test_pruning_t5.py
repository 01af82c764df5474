"""Pruning T5 encoders, with EncT5's heads and in T5's own models: position biases, head sizes, vanished decoders."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import T5EncoderModel

from model import LoraConfig, ModelError, apply_edit, edits_of, enct5_from_t5
from model.pruning import (
    LayerDropConfig,
    NestedWidths,
    committed,
    measure_importance,
    places_of,
    sparsify,
    sparsity_of,
    widths_at,
)
from model.pruning.commit import pruning_of
from model.pruning.t5 import PrunedT5Attention
from tests.conftest import ROOT
from tests.helpers_edits import build_t5, scramble
from tests.helpers_enct5 import HEADS, tiny_enct5, tiny_inputs, tiny_logits
from tests.helpers_pruning import masked, random_importance

pytestmark = pytest.mark.usefixtures("single_thread")

#: Of a model in float64; T5's layer norms compute in float32 inside, so that rounding may differ by more in one value.
EXACT = 1e-7
SPARSITIES = (0.0, 0.1, 0.4, 0.6, 0.75, 0.9, 0.95, 0.999)
each_head = pytest.mark.parametrize("head", HEADS)


def sorted_enct5(head: str = "sequence", **changes: Any) -> Any:
    """A sparsified EncT5 of sparsity 0, in float32."""
    model = tiny_enct5(head, **{"d_kv": 8, "num_heads": 4, "d_ff": 32, **changes})
    sparsify(model, random_importance(model))
    return model


def close(found: Tensor, expected: Tensor, tolerance: float = EXACT) -> bool:
    return torch.allclose(found, expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max())))


def attentions(model: Any) -> list[Any]:
    """All attention blocks, in the order of the places."""
    return [place.slots.block.module for place in places_of(model).attentions]


@each_head
@pytest.mark.parametrize(
    ("head_size", "layers", "attention"), [(4, 1, "sdpa"), (12, 3, "eager"), (8, 2, "eager"), (5, 13, "sdpa")]
)
def test_committed_equals_nested_equals_masked(head: str, head_size: int, layers: int, attention: str) -> None:
    """M-1, M-2, M-7: both heads, any depth and head size, at every sparsity (the original crashes at most of them)."""
    dense = tiny_enct5(head, d_kv=head_size, num_heads=4, d_ff=36, num_layers=layers).double()
    dense.set_attn_implementation(attention)
    importance, model = random_importance(dense), copy.deepcopy(dense)
    sparsify(model, importance)
    assert close(tiny_logits(model), tiny_logits(dense))
    with NestedWidths(model) as nested:
        for sparsity in SPARSITIES:
            nested.select(sparsity)
            widths = widths_at(importance, places_of(dense), sparsity)
            expected = tiny_logits(masked(dense, importance, widths))
            small = committed(model, sparsity)
            assert close(tiny_logits(small), expected), sparsity
            assert close(tiny_logits(model), expected), sparsity
            assert [place.kept for place in places_of(small).attentions] == list(widths.heads)


def test_a_decoder_without_self_attention_works() -> None:
    """M-8: every head of the decoder's self-attention gone, and nothing else; its input goes on as it is."""
    dense = tiny_enct5(d_kv=8, num_heads=4).double()
    importance, model = random_importance(dense), copy.deepcopy(dense)
    decoder = len(dense.encoder.block)
    assert [unit.group for unit in places_of(dense).heads] == ["encoder"] * decoder + ["decoder", "cross"]
    importance.heads[decoder].mul_(1e-6)
    sparsify(model, importance)
    small = committed(model, 4 / (4 * (decoder + 2)))
    assert [place.kept for place in places_of(small).attentions] == [4] * decoder + [0, 4]
    torch.nn.init.zeros_(places_of(dense).attentions[decoder].slots.output.module.get_parameter("weight"))
    small.decoder.block[0].layer[-1] = dense.decoder.block[0].layer[-1]  # some neurons went too
    for mine, theirs in zip(small.encoder.block, dense.encoder.block, strict=True):
        mine.layer[-1] = theirs.layer[-1]
    assert close(tiny_logits(small), tiny_logits(dense))


def test_heads_and_neurons_of_encoder_and_decoder_stand_in_one_queue() -> None:
    """As in the original, whose maps of encoder and decoder add up to the sparsity only together."""
    model = tiny_enct5(d_kv=8, num_heads=4, d_ff=32)
    importance = random_importance(model)
    importance.heads[-1].add_(10)
    importance.neurons[-1].add_(10)  # the cross-attention's and the decoder's are the last to go
    widths = widths_at(importance, places_of(model), 0.75)
    assert sum(widths.heads) == 5 and widths.heads[-1] == 4
    assert widths.neurons[-1] == 32


def test_the_position_bias_keeps_its_order_and_each_block_picks_its_heads() -> None:
    """The table is untouched, in all its columns; blocks hold the numbers of their heads, as whole numbers."""
    dense = tiny_enct5(d_kv=8, num_heads=4)
    model = copy.deepcopy(dense)
    sparsify(model, random_importance(model))
    small, edit = committed(model, 0.5), pruning_of(model)
    assert edit is not None
    for found in (model, small):
        for stack, original in ((found.encoder, dense.encoder), (found.decoder, dense.decoder)):
            table = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight
            assert torch.equal(table, original.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
    for block, ids in zip(attentions(model), edit.heads, strict=True):
        assert isinstance(block, PrunedT5Attention) and block.head_ids.tolist() == list(ids)
    assert any(list(ids) != sorted(ids) for ids in edit.heads)
    assert [len(block.head_ids) for block in attentions(small)] == [place.kept for place in places_of(small).attentions]


def test_the_order_of_the_heads_is_no_parameter() -> None:
    """M-9: no optimizer and no precision touches it (a head 257 would be 256 in bfloat16)."""
    model = sorted_enct5()
    assert not any("head_ids" in name for name, _ in model.named_parameters())
    before = [block.head_ids.tolist() for block in attentions(model)]
    model.to(torch.bfloat16)
    assert [block.head_ids.tolist() for block in attentions(model)] == before
    assert {block.head_ids.dtype for block in attentions(model)} == {torch.int64}


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95])
def test_position_biases_learn_at_every_width(sparsity: float) -> None:
    """The gradient reaches the table wherever a head is left; the columns of lost heads stay as they are."""
    model = sorted_enct5("token")
    small = committed(model, sparsity)
    small.train()(**tiny_inputs()).logits.square().sum().backward()
    table = small.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    alive = {i for block in attentions(small) for i in block.head_ids.tolist()}
    learnt = set() if table.grad is None else set(table.grad.any(0).nonzero().flatten().tolist())
    assert learnt == alive


@each_head
def test_importances_are_those_of_the_task_and_empty_decoders_have_none(head: str) -> None:
    """Measured on the loss of the labels; rows of every place, sorted once the model is; empty rows where cut."""
    model = tiny_enct5(head, d_kv=8, num_heads=4, d_ff=32)
    labels = torch.tensor([0, 2]) if head == "sequence" else tiny_inputs()["input_ids"] % 3
    batches = [{**tiny_inputs(), "labels": labels}]

    def loss(model: Any, batch: Any) -> Tensor:
        found: Tensor = model(**batch).loss
        return found

    importance = measure_importance(model, batches, loss)
    count = 3 if head == "token" else 5
    assert len(importance.heads) == count and len(importance.neurons) == (3 if head == "token" else 4)
    sparsify(model, importance)
    for row in measure_importance(model, batches, loss).heads:
        assert torch.all(row.diff() <= 1e-6)
    small = committed(model, 0.9)
    rows = measure_importance(small, batches, loss).heads
    assert [len(row) for row in rows] == [place.kept for place in places_of(small).attentions]


_FRESH = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification
import model
from model.pruning import committed
torch.set_num_threads(1)
root = Path(sys.argv[1])
auto = {"sequence": AutoModelForSequenceClassification, "token": AutoModelForTokenClassification}
for directory in sorted(p for p in root.iterdir() if p.is_dir()):
    head = directory.name.split("-")[0]
    loaded, info = auto[head].from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    with torch.no_grad():
        inputs = load_file(root / "inputs.safetensors")
        found = [m.eval()(**inputs).logits.contiguous() for m in (loaded, committed(loaded, 0.95))]
    save_file({"now": found[0], "further": found[1]}, directory / "found.safetensors")
"""
SAVED = (0.0, 0.6, 0.95)


@pytest.fixture(scope="module")
def fresh(single_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both heads at three sparsities, saved here; loaded, run and cut further by another process."""
    root = tmp_path_factory.mktemp("saved")
    save_file(tiny_inputs(), root / "inputs.safetensors")
    for head in HEADS:
        model = sorted_enct5(head)
        for sparsity in SAVED:
            small = committed(model, sparsity)
            small.save_pretrained(directory := root / f"{head}-{sparsity}")
            logits = {"now": tiny_logits(small), "further": tiny_logits(committed(small, 0.95))}
            save_file(
                {name: tensor.contiguous() for name, tensor in logits.items()}, directory / "expected.safetensors"
            )
    subprocess.run([sys.executable, "-c", _FRESH, str(root)], cwd=ROOT, check=True, capture_output=True, timeout=300)
    return root


@each_head
@pytest.mark.parametrize("sparsity", SAVED)
def test_a_fresh_process_loads_uneven_shapes_and_cuts_further(fresh: Path, head: str, sparsity: float) -> None:
    """The same bits from `AutoModelFor…Classification`, and from a cut made where the model was loaded."""
    found, expected = (
        load_file(fresh / f"{head}-{sparsity}" / f"{name}.safetensors") for name in ("found", "expected")
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# with other edits, and in other models


@pytest.mark.parametrize("layers", [(0, 1), (1, 2), (2,)])
def test_a_layer_dropped_enct5_can_be_pruned(layers: tuple[int, ...]) -> None:
    """The position biases stay although the first block went; the places are those of the layers that are left."""
    dense = tiny_enct5(d_kv=8, num_heads=4, d_ff=32).double()
    model = copy.deepcopy(dense)
    apply_edit(model, LayerDropConfig(layers))
    before, importance = tiny_logits(model), random_importance(model)
    bare = copy.deepcopy(model)
    sparsify(model, importance)
    assert close(tiny_logits(model), before)
    assert [edit.kind for edit in edits_of(model)] == ["layer_drop", "pruning"]
    widths = widths_at(importance, places_of(bare), 0.6)
    assert len(widths.heads) == len(layers) + 2
    assert close(tiny_logits(committed(model, 0.6)), tiny_logits(masked(bare, importance, widths)))


def test_lora_goes_on_a_pruned_enct5() -> None:
    """Starting at no change, on the projections that are left."""
    small = committed(sorted_enct5(), 0.3)
    before = tiny_logits(small)
    edit = LoraConfig(rank=2)
    apply_edit(small, edit)
    assert torch.equal(tiny_logits(small), before)
    scramble(small, edit)
    assert not torch.allclose(tiny_logits(small), before)


@pytest.mark.parametrize("backbone", ["relu", "gated_deep_encoder"])
def test_an_encoder_alone_is_pruned(backbone: str) -> None:
    """T5EncoderModel: the same places as the encoder of the whole T5 has, none of a decoder."""
    dense = T5EncoderModel(build_t5(backbone, d_kv=8, num_heads=3, d_ff=32).config).double().eval()
    importance, model = random_importance(dense), copy.deepcopy(dense)
    sparsify(model, importance)
    small = committed(model, 0.6)
    given = tiny_inputs()
    expected = masked(dense, importance, widths_at(importance, places_of(dense), 0.6))(**given).last_hidden_state
    assert close(small(**given).last_hidden_state.detach(), expected.detach())
    assert {unit.group for unit in places_of(small).heads} == {"encoder"} and sparsity_of(small) == 0.6


def test_a_t5_with_a_part_that_the_loss_does_not_see_is_measured() -> None:
    """A loss of the encoder alone leaves the decoder without importance: its heads and neurons go first."""
    model = build_t5("relu", d_kv=8, num_heads=4, d_ff=32)

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        found: Tensor = model.encoder(**batch).last_hidden_state.square().mean()
        return found

    importance = measure_importance(model, [tiny_inputs()], loss)
    encoder = len(model.encoder.block)
    assert all(row.any() for row in importance.heads[:encoder])
    assert not any(row.any() for row in importance.heads[encoder:])
    sparsify(model, importance)
    kept = [place.kept for place in places_of(committed(model, 2 / 3)).attentions]  # two of six blocks are left
    assert kept[:encoder] == [4] * encoder and sum(kept[encoder:]) == 0


def test_an_enct5_does_not_begin_from_a_pruned_t5() -> None:
    """Its shapes would not fit: the error says what was found."""
    t5 = build_t5("relu", d_kv=8)
    sparsify(t5, random_importance(t5))
    with pytest.raises(ModelError, match="compressed_t5"):
        enct5_from_t5(t5, 2)
