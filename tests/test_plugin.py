"""Variator's plugins: the maths, calling the model, training, size and cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metric.cost import count_macs, parameter_counts
from metric.formulas import t5_encoder_macs
from model import ModelError, PluginConfig, apply_edit, set_ratio, undo_edit, use_ratio
from model.heads import Seq2SeqHead, VerbalizerHead
from model.plugin.mux import MuxLayer, demux, mux
from model.plugin.objective import Distil, PluginObjective, freeze_for
from model.plugin.surgery import plugin_layers, plugin_modules
from tests.helpers_plugin import RATIOS, VOCABULARY, close, encode, noise, rows, tiny_t5, with_plugins

pytestmark = pytest.mark.usefixtures("one_thread")


# the maths


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_a_constant_group_is_preserved(ratio: int, dtype: torch.dtype) -> None:
    """The weights of a group sum to one, whatever they are, and the dtype stays."""
    vectors = noise(2, 3, 5, dtype=dtype)
    weight, bias = noise(ratio, ratio * 5, seed=1, dtype=dtype), noise(ratio, seed=2, dtype=dtype)
    out = mux(vectors.repeat_interleave(ratio, 1), weight, bias)
    assert out.dtype == dtype
    close(out, vectors, 2e-2 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("ratio", [2, 5])
def test_the_map_chooses_within_the_group(ratio: int) -> None:
    """Without a map the group's mean comes out, with a large bias the position that it names."""
    x = noise(2, 3 * ratio, 4)
    nothing = torch.zeros(ratio, ratio * 4, dtype=torch.float64)
    close(mux(x, nothing, nothing[:, 0]), x.view(2, 3, ratio, 4).mean(2), 1e-12)
    bias = nothing[:, 0].clone()
    bias[1] = 1e3
    close(mux(x, nothing, bias), x[:, 1::ratio], 1e-12)


def test_groups_do_not_see_each_other() -> None:
    """Changing one group changes one compressed vector."""
    x, weight, bias = noise(1, 12, 4), noise(3, 12, seed=1), noise(3, seed=2)
    before = mux(x, weight, bias)
    x[0, 4] += 1.0
    changed = (mux(x, weight, bias) != before).any(-1)[0]
    assert changed.tolist() == [False, True, False, False]


def test_an_incomplete_group_is_refused() -> None:
    with pytest.raises(ModelError, match="7 positions cannot be cut into groups of 4"):
        mux(noise(1, 7, 3), noise(4, 12), noise(4))


def adapter(width: int, bottleneck: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    w_in, w_out = noise(bottleneck, 2 * width, seed=2, dtype=dtype), noise(width, bottleneck, seed=4, dtype=dtype)
    return w_in * 0.3, noise(bottleneck, seed=3, dtype=dtype), w_out * 0.3, noise(width, seed=5, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 2.5, 100.0])
@pytest.mark.parametrize("ratio", [2, 3, 8])
def test_demux_equals_the_formula_written_out(ratio: int, scale: float, dtype: torch.dtype) -> None:
    """Repeat, concatenate, adapt, add: what is computed once per group here gives the same."""
    width, y, x = 6, noise(2, 3, 6, dtype=dtype), noise(2, 3 * ratio, 6, seed=1, dtype=dtype)
    w_in, b_in, w_out, b_out = adapter(width, 5, dtype)
    repeated = y.repeat_interleave(ratio, dim=1)
    hidden = torch.tanh(torch.cat([repeated / scale, x], -1) @ w_in.T + b_in)
    expected = repeated + scale * (hidden @ w_out.T + b_out)
    close(demux(y, x, w_in, b_in, w_out, b_out, scale), expected, 1e-12 if dtype == torch.float64 else 1e-4)


def test_the_residual_scale_equals_converting_the_parameters() -> None:
    """Published parameters with scale S are other parameters with scale 1, so no accuracy hangs on the choice."""
    width, scale, y, x = 6, 100.0, noise(2, 3, 6) * 50, noise(2, 12, 6, seed=1)
    w_in, b_in, w_out, b_out = adapter(width, 5, torch.float64)
    converted = torch.cat([w_in[:, :width] / scale, w_in[:, width:]], 1), b_in, w_out * scale, b_out * scale
    close(demux(y, x, w_in, b_in, w_out, b_out, scale), demux(y, x, *converted), 1e-11)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_gradients_are_those_of_the_function(scale: float) -> None:
    """Finite differences agree for every input and parameter, the in-place sum included."""
    x, y = noise(1, 6, 3).requires_grad_(), (noise(1, 2, 3, seed=3) * scale).requires_grad_()
    leaves = [x, noise(3, 9, seed=1).requires_grad_(), noise(3, seed=2).requires_grad_()]
    assert torch.autograd.gradcheck(mux, leaves)
    leaves = [y, x, *(tensor.requires_grad_() for tensor in adapter(3, 4, torch.float64))]
    assert torch.autograd.gradcheck(lambda y, x, a, b, c, d: demux(y, x, a, b, c, d, scale) / scale, leaves)


def test_the_layer_feeds_the_ffn_one_vector_per_group() -> None:
    """The whole layer is mux, FFN, demux, and its initialisation is the published one."""
    torch.manual_seed(0)
    layer = MuxLayer(64, 4)
    assert abs(layer.mux_layer.weight.std().item() - (2 / (64 * 4)) ** 0.5) < 0.01
    assert abs(layer.demux_adapter.w_in.weight.std().item() - 0.01) < 1e-3
    assert not any(bias.any() for name, bias in layer.named_parameters() if name.endswith("bias"))
    seen = []

    def ffn(x: Tensor) -> Tensor:
        seen.append(x)
        return 2 * x

    x = noise(2, 8, 64, dtype=torch.float32)
    out = layer(x, ffn)
    assert seen[0].shape == (2, 2, 64)
    a = layer.demux_adapter
    close(out, demux(2 * seen[0], x, a.w_in.weight, a.w_in.bias, a.w_out.weight, a.w_out.bias))


# calling the model


@torch.no_grad()
def test_every_way_to_call_the_encoder_gives_the_same() -> None:
    """Keywords, positions, embeddings instead of ids, tuples instead of a dictionary."""
    model = with_plugins()
    ids, mask = rows(7, 4, to=7)
    with use_ratio(model, 4):
        encoder = model.get_encoder()
        expected = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        assert torch.equal(encoder(ids, mask).last_hidden_state, expected)
        assert torch.equal(encoder(ids, attention_mask=mask, return_dict=False)[0], expected)
        embedded = model.get_input_embeddings()(ids)
        assert torch.equal(encoder(inputs_embeds=embedded, attention_mask=mask).last_hidden_state, expected)
        start = torch.zeros(2, 1, dtype=torch.long)
        by_embedding = model(inputs_embeds=embedded, attention_mask=mask, decoder_input_ids=start).logits
        assert torch.equal(by_embedding, model(ids, mask, decoder_input_ids=start).logits)


@torch.no_grad()
def test_generation_runs_with_plugins_and_follows_the_logits() -> None:
    """Greedy `generate` gives the arg-max chain of the compressed model, row by row and in a batch."""
    model = with_plugins()
    ids, mask = rows(7, 3, to=7)
    with use_ratio(model, 4):
        ask = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
        found = model.generate(input_ids=ids, attention_mask=mask, **ask)
        chain = torch.zeros(2, 1, dtype=torch.long)
        for _ in range(4):
            scores = model(input_ids=ids, attention_mask=mask, decoder_input_ids=chain).logits[:, -1]
            scores[:, 1] = -torch.inf  # no end before the fourth token
            chain = torch.cat([chain, scores.argmax(-1, keepdim=True)], 1)
        assert torch.equal(found, chain)
        assert torch.equal(model.generate(input_ids=ids[:1], attention_mask=mask[:1], **ask), chain[:1])
    dense = model.generate(input_ids=ids, attention_mask=mask, **ask)
    undo_edit(model, "plugin")
    assert torch.equal(model.generate(input_ids=ids, attention_mask=mask, **ask), dense)


@torch.no_grad()
@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_bf16_runs_and_is_close(feed_forward: str) -> None:
    """Autocast over float32 weights, and weights in bf16, stay within bf16's precision of float32."""
    model = with_plugins(feed_forward_proj=feed_forward)
    ids, mask = rows(7, 4, to=7)
    for ratio in (1, 4):
        expected = encode(model, ratio, ids, mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            close(encode(model, ratio, ids, mask).float(), expected, 0.1)
    model.bfloat16()
    found = encode(model, 4, ids, mask)
    assert found.dtype == torch.bfloat16
    close(found.float(), expected, 0.2)


def test_plugins_take_the_backbones_dtype() -> None:
    model = tiny_t5().double()
    apply_edit(model, PluginConfig((2,), 4))
    assert {p.dtype for p in model.parameters()} == {torch.float64}


# training


def classification_batch() -> dict[str, Tensor]:
    ids, mask = rows(7, 5, 6, to=8)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 1])}


VERBALIZER = VerbalizerHead(token_ids=(5, 9), sentinel_id=VOCABULARY - 1)


@pytest.mark.parametrize("distil", ["hidden", "task-hidden", "task"])
def test_training_plugins_leaves_the_teacher_as_it_is(distil: Distil) -> None:
    """Teacher and student share every weight; steps on the plugins lower the loss and change no bit of the teacher."""
    model = with_plugins((2, 4), scale=1.0)
    freeze_for(model, distil, delta_tuning=False)
    objective = PluginObjective(model, VERBALIZER, distil, (2, 4))
    batch = classification_batch()
    places = {name: p.data_ptr() for name, p in model.named_parameters()}
    teacher = VERBALIZER(model, batch).encoder_hidden.detach().clone()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(15):
        loss, _ = objective(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(VERBALIZER(model, batch).encoder_hidden, teacher)
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == places
    assert not any(p.grad is not None for ffn in plugin_layers(model) for p in ffn.base_layer.parameters())


def test_the_teacher_gives_no_gradient_and_no_loss_to_itself() -> None:
    """A student that is the teacher has hidden loss 0; the losses of several ratios are averaged."""
    model = with_plugins((2, 4))
    freeze_for(model, "hidden", delta_tuning=False)
    batch = classification_batch()
    assert PluginObjective(model, VERBALIZER, "hidden", (1,))(batch)[0].item() == 0.0
    one, other, both = (PluginObjective(model, VERBALIZER, "hidden", r)(batch)[0] for r in ((2,), (4,), (2, 4)))
    close(both, (one + other) / 2)


def test_distillation_on_sequences_masks_the_decoder() -> None:
    """What stands at padded decoder positions does not reach the hidden loss."""
    model = with_plugins((4,))
    ids, mask = rows(7, 5, to=8)
    decoder, decoder_mask = rows(4, 2, to=4)
    batch = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder, "labels": decoder}
    objective = PluginObjective(model, Seq2SeqHead(), "hidden", (4,))
    before = objective({**batch, "decoder_attention_mask": decoder_mask})[0]
    changed = decoder.clone()
    changed[1, 2:] = 7
    after = objective({**batch, "decoder_attention_mask": decoder_mask, "decoder_input_ids": changed})[0]
    close(after, before, 4e-6)


def test_distillation_without_plugins_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Distillation \(hidden\) trains plugins, but the model has none"):
        PluginObjective(tiny_t5(), VERBALIZER, "hidden", ())


# size and cost


def test_parameters_are_what_the_formula_says() -> None:
    """d·k² + k in front, 2d·64 + 64 and 64·d + d behind: per layer and ratio."""
    d, model = 12, tiny_t5()
    apply_edit(model, PluginConfig(RATIOS))
    for k in RATIOS:
        counted = [sum(p.numel() for p in module.parameters()) for module in plugin_modules(model, k)]
        assert counted == [d * k * k + k + 2 * d * 64 + 64 + 64 * d + d] * 2


PUBLISHED_SIZES: dict[str, dict[str, Any]] = {
    "base": {"d_model": 768, "d_kv": 64, "num_heads": 12, "d_ff": 3072, "num_layers": 12},
    "large": {"d_model": 1024, "d_kv": 64, "num_heads": 16, "d_ff": 4096, "num_layers": 24},
}


@pytest.fixture(scope="module")
def meta_models() -> dict[str, Any]:
    """t5-base and t5-large with plugins at k=4, without memory behind their weights."""
    made = {}
    for name, sizes in PUBLISHED_SIZES.items():
        with torch.device("meta"):
            model = tiny_t5(**{**sizes, "vocab_size": 32128, "num_decoder_layers": sizes["num_layers"]})
            apply_edit(model, PluginConfig((4,)))
        made[name] = model
    return made


@pytest.mark.parametrize(
    ("size", "plugin", "backbone", "percent"),
    [("base", 1_926_960, 222_903_552, 0.8645), ("large", 5_138_016, 737_668_096, 0.6965)],
)
def test_published_shares_of_parameters(
    meta_models: dict[str, Any], size: str, plugin: int, backbone: int, percent: float
) -> None:
    """Plugins of t5-base and t5-large at k=4 have the published number of parameters and tensors."""
    model = meta_models[size]
    modules = plugin_modules(model, 4)
    counted = sum(p.numel() for module in modules for p in module.parameters())
    assert counted == plugin
    assert parameter_counts(model).total - counted == backbone
    assert round(100 * plugin / backbone, 4) == percent
    assert sum(len(list(module.parameters())) for module in modules) == 6 * len(modules)


@pytest.mark.parametrize("length", [96, 128, 512])
@pytest.mark.parametrize("size", PUBLISHED_SIZES)
def test_counted_macs_equal_the_formula_at_real_sizes(meta_models: dict[str, Any], size: str, length: int) -> None:
    """torch's counter on t5-base and t5-large, with and without plugins; the adapter's y half once per group."""
    model, sizes = meta_models[size], PUBLISHED_SIZES[size]
    shape = {"d_model": sizes["d_model"], "inner": sizes["d_model"], "d_ff": sizes["d_ff"]}
    shape["num_layers"] = sizes["num_layers"]
    ids = torch.ones(1, length, dtype=torch.long, device="meta")
    for ratio in (1, 4):
        with use_ratio(model, ratio):
            counted = count_macs(lambda: model.get_encoder()(input_ids=ids))
        assert counted == t5_encoder_macs(**shape, length=length, ratio=ratio, adapter_per_group=True)


@pytest.mark.parametrize("gated", [False, True], ids=["relu", "gated"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_counted_macs_equal_the_formula_at_every_ratio(ratio: int, gated: bool) -> None:
    """On a tiny T5, at a length that is a multiple of all ratios."""
    model = tiny_t5(feed_forward_proj="gated-gelu" if gated else "relu")
    apply_edit(model, PluginConfig(RATIOS, 6))
    set_ratio(model, ratio)
    counted = count_macs(lambda: model.get_encoder()(input_ids=torch.ones(1, 24, dtype=torch.long)))
    shape: dict[str, Any] = {"d_model": 12, "inner": 10, "d_ff": 18, "num_layers": 2, "length": 24, "bottleneck": 6}
    assert counted == t5_encoder_macs(**shape, gated=gated, ratio=ratio, adapter_per_group=True)
