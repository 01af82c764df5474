"""EncT5: saving and loading, beginning from a T5, original checkpoints, padding, the token head, edits on top."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel

from model import (
    EmbeddingConfig,
    LoraConfig,
    ModelError,
    PluginConfig,
    apply_edit,
    edits_of,
    enct5_from_t5,
    use_ratio,
)
from model.backbone import family_of, spec_for
from model.enct5 import enct5_from_original
from tests.conftest import ROOT
from tests.helpers_close import same_logits
from tests.helpers_edits import build_t5, scramble
from tests.helpers_enct5 import HEADS, tiny_enct5, tiny_inputs, tiny_logits
from tests.helpers_tokenizer import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

each_head = pytest.mark.parametrize("head", HEADS)

_FRESH = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification
import torch
import model
torch.set_num_threads(1)
root = Path(sys.argv[1])
for directory in sorted(p for p in root.iterdir() if p.is_dir()):
    auto = {"sequence": AutoModelForSequenceClassification, "token": AutoModelForTokenClassification}
    loaded, info = auto[directory.name.split("-")[0]].from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    with torch.no_grad():
        found = loaded.eval()(**load_file(root / "inputs.safetensors")).logits
    save_file({"logits": found.contiguous()}, directory / "found.safetensors")
    (directory / "class.txt").write_text(type(loaded).__name__)
"""
STACKS: dict[str, tuple[Any, ...]] = {"dense": (), "edited": (LoraConfig(rank=2), PluginConfig((2,), bottleneck=3))}


@pytest.fixture(scope="module")
def fresh(single_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both heads, dense and edited, saved here and loaded by another process."""
    root = tmp_path_factory.mktemp("saved")
    save_file(tiny_inputs(), root / "inputs.safetensors")
    for head in HEADS:
        for label, edits in STACKS.items():
            model = tiny_enct5(head)
            for edit in edits:
                apply_edit(model, edit)
                scramble(model, edit)
            model.save_pretrained(root / f"{head}-{label}")
            save_file({"logits": tiny_logits(model).contiguous()}, root / f"{head}-{label}" / "expected.safetensors")
    subprocess.run([sys.executable, "-c", _FRESH, str(root)], cwd=ROOT, check=True, capture_output=True, timeout=300)
    return root


@pytest.mark.parametrize("label", STACKS)
@each_head
def test_a_fresh_process_gives_the_same_logits(fresh: Path, head: str, label: str) -> None:
    """`save_pretrained`, then `AutoModelFor…Classification` after `import model` elsewhere: no bit differs."""
    directory = fresh / f"{head}-{label}"
    assert same_logits(*(load_file(directory / f"{name}.safetensors")["logits"] for name in ("found", "expected")))
    prefix = "Compressed" if label == "edited" else ""
    assert (directory / "class.txt").read_text() == prefix + HEADS[head].__name__


def test_the_tokenizer_of_an_enct5_directory_is_found(tmp_path: Path) -> None:
    model = tiny_enct5()
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("a good film").input_ids == tiny_tokenizer()("a good film").input_ids


@each_head
def test_shapes_and_hidden_states(head: str) -> None:
    """(B, C) or (B, L, C); the hidden states are the encoder's, the last one after the final norm."""
    model = tiny_enct5(head)
    out = model(**tiny_inputs(), token_type_ids=tiny_inputs()["attention_mask"], output_hidden_states=True)
    assert out.logits.shape == ((2, 3) if head == "sequence" else (2, 7, 3))
    assert len(out.hidden_states) == 4
    assert torch.equal(out.hidden_states[-1], model.encoder(**tiny_inputs()).last_hidden_state)
    if head == "token":  # no decoder, and every position's logits are its own state's
        assert not hasattr(model, "decoder")
        assert torch.equal(out.logits, model.classifier(out.hidden_states[-1]))


@each_head
def test_padding_changes_nothing(head: str) -> None:
    """More padding, and other words in it, give the same logits (T5 computes in float32 inside: 4e-6)."""
    model = tiny_enct5(head)
    short = tiny_inputs()
    ids = torch.nn.functional.pad(short["input_ids"], (0, 3), value=9)
    mask = torch.nn.functional.pad(short["attention_mask"], (0, 3))
    longer = tiny_logits(model, input_ids=ids, attention_mask=mask)
    expected = tiny_logits(model)
    if head == "token":
        longer, expected = (x[:, :7][short["attention_mask"].bool()] for x in (longer, expected))
    assert torch.allclose(longer, expected, atol=4e-6)
    assert not torch.allclose(
        tiny_logits(model, attention_mask=torch.ones_like(short["attention_mask"])), tiny_logits(model)
    )


def test_losses_are_those_of_the_field() -> None:
    """Cross-entropy of classes; mean squared error with one output; -100 does not count among tokens."""
    classes, values = torch.tensor([0, 2]), torch.tensor([0.5, 2.0])
    out = tiny_enct5()(**tiny_inputs(), labels=classes)
    assert torch.equal(out.loss, torch.nn.functional.cross_entropy(out.logits, classes))
    out = tiny_enct5(num_labels=1)(**tiny_inputs(), labels=values)
    assert torch.allclose(out.loss, (out.logits[:, 0] - values).square().mean())
    tags = torch.where(tiny_inputs()["attention_mask"] == 1, tiny_inputs()["input_ids"] % 3, -100)
    out = tiny_enct5("token")(**tiny_inputs(), labels=tags)
    assert torch.allclose(out.loss, torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), tags.flatten()))


@each_head
def test_every_parameter_has_a_gradient(head: str) -> None:
    """Nothing is left over that the logits do not depend on (the embedding of the prompt's decoder, say)."""
    model = tiny_enct5(head)
    model(**tiny_inputs()).logits.square().sum().backward()
    # one prompt vector alone attends to itself only: its query, key and position bias cannot matter
    alone = tuple(f"decoder.block.0.layer.0.SelfAttention.{part}" for part in ("q", "k", "relative_attention_bias"))
    for name, parameter in model.named_parameters():
        assert name.startswith(alone) or (parameter.grad is not None and parameter.grad.any()), name


# --- beginning from a T5 ---------------------------------------------------------------------------------------


@each_head
@pytest.mark.parametrize("backbone", ["relu", "gated_deep_decoder"])
def test_an_enct5_begins_as_the_t5_it_comes_from(tmp_path: Path, backbone: str, head: Any) -> None:
    """Encoder states equal T5's to the bit, whether given as a model or a directory; the T5 is not changed."""
    t5 = build_t5(backbone)
    t5.save_pretrained(tmp_path)
    before = {name: tensor.clone() for name, tensor in t5.state_dict().items()}
    expected = t5.encoder(**tiny_inputs()).last_hidden_state
    for source in (t5, tmp_path):
        model = enct5_from_t5(source, 4, head)
        assert not model.training and model.config.num_labels == 4
        assert torch.equal(model.encoder(**tiny_inputs()).last_hidden_state, expected)
        assert model.encoder.embed_tokens.weight is model.shared.weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in t5.state_dict().items())


def test_the_decoder_is_t5s_first_layer_on_its_start_token() -> None:
    """Before any training the decoder's output is that of T5's first decoder layer for the start token."""
    t5 = build_t5("gated_deep_decoder")
    model = enct5_from_t5(t5, 2)
    assert len(model.decoder.block) == 1 and model.config.num_decoder_layers == 1
    t5.decoder.block = t5.decoder.block[:1]
    states = model.encoder(**tiny_inputs()).last_hidden_state
    given = {"encoder_hidden_states": states, "encoder_attention_mask": tiny_inputs()["attention_mask"]}
    expected = t5.decoder(input_ids=torch.zeros(2, 1, dtype=torch.long), **given).last_hidden_state[:, 0]
    assert torch.allclose(tiny_logits(model), model.classifier(expected), atol=4e-6)


def test_more_decoder_layers_are_kept_where_asked_for() -> None:
    assert len(enct5_from_t5(build_t5("gated_deep_decoder"), 2, decoder_layers=2).decoder.block) == 2
    with pytest.raises(ModelError, match="keeps 4 layers, the T5 has 3"):
        enct5_from_t5(build_t5("gated_deep_decoder"), 2, decoder_layers=4)


def test_a_t5_without_a_decoder_gives_a_drawn_one_and_a_warning() -> None:
    t5 = T5EncoderModel(build_t5("relu").config)
    with pytest.warns(UserWarning, match="drawn anew"):
        model = enct5_from_t5(t5, 2)
    assert tiny_logits(model).isfinite().all()


def test_what_is_no_plain_t5_is_refused(tmp_path: Path) -> None:
    """Another family, and a T5 that carries edits, given as a model or a directory."""
    edited = build_t5("relu")
    apply_edit(edited, LoraConfig(rank=2))
    edited.save_pretrained(tmp_path)
    for source in (edited, tmp_path):
        with pytest.raises(ModelError, match="compressed_t5"):
            enct5_from_t5(source, 2)
    with pytest.raises(ModelError, match="'enct5'"):
        enct5_from_t5(tiny_enct5(), 2)


# --- original checkpoints --------------------------------------------------------------------------------------


def original_state(model: Any, order: Tensor | None = None) -> dict[str, Tensor]:
    """The model's tensors as the original stores them; `order` permutes the heads of every block."""
    heads, size = model.config.num_heads, model.config.d_kv
    order = torch.arange(heads) if order is None else order
    rows = (order[:, None] * size + torch.arange(size)).flatten()
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        block, _, rest = name.rpartition("Attention.")
        if rest in ("q.weight", "k.weight", "v.weight"):
            tensor = tensor[rows]
        elif rest == "o.weight":
            tensor = tensor[:, rows]
            state[f"{block}Attention.head_indices.indices"] = order.float()
        state[name.replace("classifier.", "cls.")] = tensor
    return state


@each_head
@pytest.mark.parametrize("order", [None, torch.tensor([2, 0, 1])])
def test_original_names_load_and_reordered_heads_go_back(head: Any, order: Tensor | None) -> None:
    """The same logits to the bit, from a checkpoint as trained and from one reordered by importance."""
    model = tiny_enct5(head)
    state = original_state(model, order)
    loaded = enct5_from_original(state, model.config, head)
    assert same_logits(tiny_logits(loaded), tiny_logits(model))


def test_an_original_checkpoint_that_does_not_fit_is_refused() -> None:
    """Pruned, of another head, or something else: the error names the tensor."""
    model = tiny_enct5()
    state = original_state(model)
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    with pytest.raises(ModelError, match=r"block\.1.*\(12, 16\).*pruned"):
        enct5_from_original({**state, name: state[name][:12]}, model.config)
    with pytest.raises(ModelError, match="no place for"):
        enct5_from_original(state, model.config, "token")
    with pytest.raises(ModelError, match="lacks prompt"):
        enct5_from_original({k: v for k, v in state.items() if k != "prompt"}, model.config)
    with pytest.raises(ModelError, match=r"no cls\.weight"):
        enct5_from_original(build_t5("relu").state_dict(), model.config)


# --- the backbone's places, and edits --------------------------------------------------------------------------


@each_head
def test_the_backbones_parts_are_found(head: str) -> None:
    """Encoder and decoder layers; only a decoder's has a cross-attention; with and without a decoder."""
    model = tiny_enct5(head)
    spec = spec_for(model)
    assert family_of(model.config) == spec.family == "enct5" and spec.encoder(model) is model.encoder
    assert spec.embeddings(model).module is model.get_input_embeddings()
    assert [layer.cross_attention for layer in spec.encoder_layers(model)] == [None] * 3
    crosses = [layer.cross_attention for layer in spec.decoder_layers(model)]
    assert len(crosses) == (1 if head == "sequence" else 0)
    for cross in crosses:
        assert cross is not None and cross.output.module is model.decoder.block[0].layer[1].EncDecAttention.o
    assert spec.sizes(model.config).layers == 3 and spec.sizes(model.config).inner == 18


def test_plugins_speed_up_an_enct5_as_they_do_a_t5() -> None:
    """Plugins attach; at ratio 1 nothing changes, at ratio 2 the logits do, and detaching is recorded."""
    model = tiny_enct5()
    before = tiny_logits(model)
    edit = PluginConfig((2,), bottleneck=3)
    apply_edit(model, edit)
    scramble(model, edit)
    assert edits_of(model) == [edit.fitted(model)] and family_of(model.config) == "enct5"
    assert torch.equal(tiny_logits(model), before)
    with use_ratio(model, 2):
        assert not torch.allclose(tiny_logits(model), before)


def test_a_factorised_embedding_is_refused() -> None:
    """As T5's: encoder and model share one table, of which only one would be replaced."""
    with pytest.raises(ModelError, match="Factorised embeddings are for BERT"):
        apply_edit(tiny_enct5(), EmbeddingConfig())
