"""Between ModelCenter and Hugging Face: names, units and configs, both ways, and the command that does it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, T5ForConditionalGeneration

from model import ModelError, PluginConfig, apply_edit
from model.modelcenter import (
    config_from_modelcenter,
    config_to_modelcenter,
    convert_modelcenter,
    to_modelcenter,
)
from model.weights import read_torch_file
from tests.helpers_edits import build_t5, logits
from tests.tiny import Tiny, original_checkpoint
from utils import convert_t5
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

#: Tied relu as T5 v1.0, gated with a head of its own as v1.1; both with unlike depths.
BACKBONES = {"tied": ("relu", 2, 3), "untied": ("gated_deep_encoder", 3, 1)}
each_backbone = pytest.mark.parametrize("name", BACKBONES)


def t5(name: str) -> Any:
    backbone, layers, decoder_layers = BACKBONES[name]
    return build_t5(backbone, num_layers=layers, num_decoder_layers=decoder_layers)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """The command, in this process."""
    monkeypatch.setattr(sys, "argv", ["convert_t5", *map(str, arguments)])
    convert_t5.main()


@each_backbone
@pytest.mark.parametrize("prefix", ["t5.", ""])
def test_tensors_come_back_from_modelcenter(name: str, prefix: str) -> None:
    """Every tensor but the tied aliases goes there under a name of its own and comes back within float's precision."""
    state = t5(name).state_dict()
    there = to_modelcenter(state, tied=name == "tied", prefix=prefix)
    assert all(key.startswith(prefix) for key in there)
    assert f"{prefix}output_projection.weight" in there or name == "tied"
    back = convert_modelcenter(there)
    aliases = {key for key in state if key.endswith("embed_tokens.weight") or (name == "tied" and "lm_head" in key)}
    assert back.keys() == state.keys() - aliases and len(there) == len(back)
    for key, tensor in back.items():
        torch.testing.assert_close(tensor, state[key], rtol=1e-6, atol=0)


def test_what_writes_to_the_residual_stream_is_a_hundredth() -> None:
    """Embeddings and outputs of attention and FFN (two factors of ten); norms and reads stay."""
    state = t5("tied").state_dict()
    there = to_modelcenter(state, prefix="")
    layer, block = "encoder.layers.1", "encoder.block.1.layer"
    for key, name, factor in (
        ("input_embedding.weight", "shared.weight", 100),
        (f"{layer}.self_att.self_attention.attention_out.weight", f"{block}.0.SelfAttention.o.weight", 100),
        (f"{layer}.self_att.self_attention.project_q.weight", f"{block}.0.SelfAttention.q.weight", 1),
        (f"{layer}.ffn.layernorm_before_ffn.weight", f"{block}.1.layer_norm.weight", 1),
        (f"{layer}.ffn.ffn.w_in.w.weight", f"{block}.1.DenseReluDense.wi.weight", 10),
        (f"{layer}.ffn.ffn.w_out.weight", f"{block}.1.DenseReluDense.wo.weight", 10),
    ):
        torch.testing.assert_close(there[key] * factor, state[name])


def test_the_names_are_those_of_original_checkpoints(tiny: Tiny, tmp_path: Path) -> None:
    """Written and hand-made state dicts have the same names and values."""
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny.model)
    expected = read_torch_file(original_checkpoint(model, tmp_path / "best_model.pt"))
    found = to_modelcenter(model.state_dict())
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, expected[key])


@each_backbone
def test_configs_come_back_from_modelcenter(name: str) -> None:
    """Sizes, activation, tying and position buckets survive; half precision aside, nothing else is kept."""
    config = t5(name).config
    config.relative_attention_num_buckets, config.relative_attention_max_distance = 24, 96
    described = json.loads(json.dumps(config_to_modelcenter(config)))
    back = config_from_modelcenter(described)
    for field in (
        *("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers"),
        *("relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon"),
        *("is_gated_act", "dense_act_fn", "scale_decoder_outputs", "tie_word_embeddings"),
        *("decoder_start_token_id", "pad_token_id", "eos_token_id"),
    ):
        assert getattr(back, field) == getattr(config, field), field
    assert back.dropout_rate == 0.0


@each_backbone
def test_the_command_converts_both_ways(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF to ModelCenter to HF gives a model of the same config, names and, within half precision, logits."""
    model = t5(name)
    model.save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "spiece.model").write_bytes(b"pieces")
    run(monkeypatch, tmp_path / "hf", tmp_path / "mc", "--to", "modelcenter")
    state = read_torch_file(tmp_path / "mc" / "pytorch_model.pt")
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    run(monkeypatch, tmp_path / "mc", tmp_path / "back")
    assert (tmp_path / "back" / "spiece.model").read_bytes() == b"pieces"
    back = T5ForConditionalGeneration.from_pretrained(tmp_path / "back").eval()
    assert back.state_dict().keys() == model.state_dict().keys()
    for key, tensor in back.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[key], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits(back), logits(model), rtol=2e-2, atol=2e-2)
    assert torch.equal(logits(back).argmax(-1), logits(model).argmax(-1))


def test_an_edited_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ModelCenter's T5 has no place for edits: the command names them and writes nothing."""
    model = t5("tied")
    apply_edit(model, PluginConfig((4,), 6))
    model.save_pretrained(tmp_path / "edited")
    with pytest.raises(UserError, match="edited carries plugin: only a dense T5 can be converted"):
        run(monkeypatch, tmp_path / "edited", tmp_path / "mc", "--to", "modelcenter")
    assert not (tmp_path / "mc").exists()
    with pytest.raises(ModelError, match="has no place in a ModelCenter T5"):
        to_modelcenter(model.state_dict())


def test_the_command_never_writes_over_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    t5("tied").save_pretrained(tmp_path / "hf")
    before = {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir()}
    with pytest.raises(UserError, match="which this call reads"):
        run(monkeypatch, tmp_path / "hf", tmp_path / "hf", "--to", "modelcenter")
    assert {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir()} == before


@pytest.mark.parametrize(
    ("config", "words"), [(None, "without config.json"), ({"dim_model": 8}, "lacks vocab_size, dim_head")]
)
def test_sources_that_cannot_be_read_are_one_sentence(
    config: dict[str, Any] | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory without a config, or with half a ModelCenter config, is refused, and nothing is written."""
    (tmp_path / "source").mkdir()
    if config is not None:
        (tmp_path / "source" / "config.json").write_text(json.dumps(config))
        torch.save({"shared.weight": torch.zeros(4, 8)}, tmp_path / "source" / "pytorch_model.pt")
    with pytest.raises((UserError, ModelError), match=words):
        run(monkeypatch, tmp_path / "source", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_an_untied_checkpoint_without_its_head_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing output projection is told, not replaced by random numbers."""
    model, source = t5("untied"), tmp_path / "source"
    model.save_pretrained(tmp_path / "hf")
    run(monkeypatch, tmp_path / "hf", source, "--to", "modelcenter")
    state = read_torch_file(source / "pytorch_model.pt")
    torch.save({k: v for k, v in state.items() if k != "output_projection.weight"}, source / "pytorch_model.pt")
    with pytest.raises(UserError, match=r"lacks 1 tensors of this T5, lm_head\.weight"):
        run(monkeypatch, source, tmp_path / "target")
