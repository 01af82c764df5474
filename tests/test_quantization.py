"""int8 weights: how far they are from the dense ones, where they are, what they weigh, what cannot be done."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from metric.cost import count_macs, parameter_counts
from model import DecompositionConfig, LoraConfig, ModelError, PluginConfig, QuantizationConfig, apply_edit, undo_edit
from model.compression import edit_from_dict
from model.decomposition.layers import DecomposedLinear
from model.delta import save_delta
from model.plugin.objective import freeze_for
from model.plugin.surgery import plugin_layers
from model.quantization import Int8Linear, layers
from model.quantization.layers import Activations
from tests.helpers_close import same_logits
from tests.helpers_decomposition import tiny_bert, tiny_inputs, tiny_logits
from tests.helpers_edits import build_t5, logits
from utils import quantize
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("single_thread")

each_kind = pytest.mark.parametrize("activations", ["float", "int8"])


def linear(inputs: int = 24, outputs: int = 16, dtype: torch.dtype = torch.float32) -> nn.Linear:
    """With rows of very different size, one of them zero."""
    torch.manual_seed(0)
    made = nn.Linear(inputs, outputs)
    with torch.no_grad():
        made.weight.mul_(torch.logspace(-3, 3, outputs)[:, None])[0] = 0
    return made.to(dtype).eval()


@each_kind
def test_every_weight_is_within_half_a_step_of_the_dense_one(activations: Activations) -> None:
    """A step is the largest weight of the row over 127.5 (torchao's range), so rows do not spoil each other."""
    dense = linear()
    made = Int8Linear.of(dense, activations)
    step = dense.weight.detach().abs().amax(1, keepdim=True) / 127
    found = made.weight_int8.float() * made.weight_scale
    assert ((found - dense.weight).abs() <= 0.51 * step + 1e-12).all()
    assert made.weight_int8.dtype == torch.int8 and made.weight_int8.abs().max() > 100
    assert made.bias is dense.bias and torch.equal(dense.weight, linear().weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_layer_computes_with_the_rounded_weights(dtype: torch.dtype) -> None:
    """With float activations it is the product with the rounded weights; with int8 ones it is near that, not equal."""
    dense, x = linear(dtype=dtype), torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    made = Int8Linear.of(dense, "float")
    rounded = (made.weight_int8.float() * made.weight_scale).to(dtype)
    expected = x.float() @ rounded.float().T + dense.bias.float()
    found, integers = made(x), Int8Linear.of(dense, "int8")(x)
    assert found.dtype == integers.dtype == dtype and found.shape == (3, 5, 16)
    size = expected.abs().amax((0, 1))
    for result, tolerance in ((found, 1e-5 if dtype == torch.float32 else 2e-2), (integers, 3e-2)):
        assert ((result - expected).abs() <= tolerance * (size + 1)).all()
    assert not torch.equal(integers, found)


@each_kind
@pytest.mark.parametrize("backbone", ["bert", "t5"])
def test_logits_stay_near_the_dense_models(activations: Activations, backbone: str) -> None:
    """Within 2 % of the largest, but not the same; a copy gives the same bits."""
    model: Any = tiny_bert() if backbone == "bert" else build_t5("gated_deep_encoder")
    run = tiny_logits if backbone == "bert" else logits
    dense = run(model)
    apply_edit(model, QuantizationConfig(activations))
    found = run(model)
    assert 0 < (found - dense).abs().max() <= 0.02 * dense.abs().max()
    assert same_logits(run(copy.deepcopy(model)), found)


def test_what_is_quantised_and_what_stays() -> None:
    """Linear layers of encoder and decoder, below LoRA too; not embeddings, heads, plugins, LoRA or factors."""
    model = build_t5("relu")
    for edit in (LoraConfig(rank=2), PluginConfig((2,), 3), QuantizationConfig()):
        apply_edit(model, edit)
    plain = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert all("bank" in name or name == "lm_head" for name in plain) and "lm_head" in plain
    assert len(QuantizationConfig().own_modules(model)) == 2 * (4 + 2) + 2 * (8 + 2)
    assert all(isinstance(ffn.base_layer.wi, Int8Linear) for ffn in plugin_layers(model))
    assert isinstance(model.encoder.block[0].layer[0].SelfAttention.q.base_layer, Int8Linear)

    bert = tiny_bert()
    apply_edit(bert, DecompositionConfig("III", "san", rank_condim=7, rank_dim=4))
    apply_edit(bert, QuantizationConfig())
    layer = bert.bert.encoder.layer[0]
    assert isinstance(layer.attention.self.query, DecomposedLinear) and isinstance(layer.output.dense, Int8Linear)
    assert type(bert.classifier) is nn.Linear and type(bert.bert.pooler.dense) is nn.Linear


def test_files_hold_plain_tensors_of_a_byte_per_weight(tmp_path: Path) -> None:
    """And parameters and multiply-accumulates are counted as those of the dense model, scales apart."""
    model = tiny_bert()
    dense, macs = parameter_counts(model).total, count_macs(lambda: model(**tiny_inputs()))
    apply_edit(model, QuantizationConfig("int8"))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    held = [tensor for name, tensor in tensors.items() if name.endswith("weight_int8")]
    assert {tensor.dtype for tensor in held} == {torch.int8} and len(held) == 2 * 6
    scales = sum(tensor.numel() for name, tensor in tensors.items() if name.endswith("weight_scale"))
    assert parameter_counts(model).total == dense + scales
    assert count_macs(lambda: model(**tiny_inputs())) == macs


def test_it_cannot_be_undone_handed_on_trained_or_misspelt(tmp_path: Path) -> None:
    model = tiny_bert()
    apply_edit(model, QuantizationConfig())
    with pytest.raises(ModelError, match="'quantization' cannot be undone: reload the model without it"):
        undo_edit(model, "quantization")
    with pytest.raises(ModelError, match="no delta file: save it whole"):
        save_delta(model, "quantization", tmp_path)
    with pytest.raises(ModelError, match="activations is one of float, int8, found 'int4'"):
        edit_from_dict({"kind": "quantization", "activations": "int4"})
    t5 = build_t5("relu")
    apply_edit(t5, QuantizationConfig())
    with pytest.raises(ModelError, match="A quantised model cannot be trained: train the one"):
        freeze_for(t5, "no", delta_tuning=False)
    with pytest.raises(ModelError, match="0 encoder and 0 decoder layers"):
        apply_edit(build_t5("relu", num_layers=0, num_decoder_layers=0), QuantizationConfig())


def test_the_command_rounds_a_saved_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tensors are those of the edit, its task is the model's; a second call does not overwrite them."""
    model = tiny_bert()
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "task.json").write_text('{"dataset": "sst2", "decoder_start": 2}')
    command = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "int8"), "--activations", "int8"]
    quantize.main(command)
    apply_edit(model, QuantizationConfig("int8"))
    saved, wanted = load_file(tmp_path / "int8" / "model.safetensors"), model.state_dict()
    assert saved.keys() == wanted.keys() and all(torch.equal(saved[name], wanted[name]) for name in saved)
    assert (tmp_path / "int8" / "task.json").read_text() == '{"dataset": "sst2", "decoder_start": 2}'
    assert "utils.cost --model" in capsys.readouterr().out
    with pytest.raises(UserError, match="exists already: name a new directory"):
        quantize.main(command)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_processors_without_exact_integer_products_work_with_floats(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large values of one sign, whose sums AVX2 alone cuts off: the product of the same integers, found otherwise."""
    dense = torch.nn.Linear(96, 16).to(dtype)
    with torch.no_grad():
        dense.weight.copy_(dense.weight.abs() + 1)
    made = Int8Linear.of(dense, "int8")
    x = torch.rand(2, 3, 96, generator=torch.Generator().manual_seed(0)).to(dtype) + 1
    monkeypatch.setattr(layers, "has_exact_integer_products", lambda: False)
    found, expected = made(x), dense(x)
    assert found.dtype == dtype and (found - expected).abs().max() <= 0.02 * expected.abs().max()
    monkeypatch.undo()
    if layers.has_exact_integer_products():
        assert (made(x) - found).abs().max() <= (4e-6 if dtype == torch.float32 else 1e-2) * expected.abs().max()
