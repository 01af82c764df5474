"""Padding: any length, any amount, anything at padded positions; and the original's treatment of it on request."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM

from model import ModelError, PluginConfig, apply_edit, undo_edit, use_ratio
from model.plugin.config import Compat
from model.plugin.mux import mux
from model.plugin.surgery import plugin_modules
from tests.helpers_plugin import RATIOS, VOCABULARY, close, encode, noise, rows, tiny_t5, with_plugins

pytestmark = pytest.mark.usefixtures("one_thread")

each_compat = pytest.mark.parametrize("compat", get_args(Compat))


def with_noise_at_padding(ids: Tensor, mask: Tensor, seed: int = 1) -> Tensor:
    """The same rows with random tokens where the mask is 0."""
    other = torch.randint(3, VOCABULARY, ids.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(mask == 1, ids, other)


@torch.no_grad()
def logits(model: Any, ratio: int, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits behind a decoder input of two tokens."""
    decoder = torch.tensor([[0, VOCABULARY - 1]]).expand(len(ids), 2)
    with use_ratio(model, ratio):
        return model(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder).logits


# the amount


@each_compat
@pytest.mark.parametrize("ratio", RATIOS)
def test_results_do_not_depend_on_the_amount_of_padding(ratio: int, compat: Compat) -> None:
    """A row gives the same alone, in a batch with a longer one, and padded by any number of positions."""
    model = with_plugins(compat=compat)
    alone = encode(model, ratio, *rows(5, to=5))[0]
    assert alone.shape == (5, 12)
    assert not torch.allclose(alone, encode(model, 1, *rows(5, to=5))[0], atol=1e-3)
    for to in (5, 6, 8, 9, 13, 24):
        close(encode(model, ratio, *rows(5, to=to))[0, :5], alone)
    for other in (1, 7, 11):
        close(encode(model, ratio, *rows(5, other, to=max(5, other)))[0, :5], alone)


@each_compat
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("length", [1, 3, 7])
def test_any_length_equals_padding_by_hand(length: int, ratio: int, masked: bool, compat: Compat) -> None:
    """Lengths that are no multiple of k, k above the length included: as if the caller had padded to one."""
    model = with_plugins(compat=compat)
    full = length + -length % ratio
    ids, mask = rows(length, length, to=length)
    expected = encode(model, ratio, *rows(length, length, to=full))[:, :length]
    found = encode(model, ratio, ids, mask if masked else None)
    assert found.shape == (2, length, 12)
    close(found, expected, 4e-6)


@torch.no_grad()
def test_no_output_shows_the_added_rows() -> None:
    """Hidden states and attention probabilities have the caller's length, in either return form."""
    model = with_plugins(attention="eager")
    ids, mask = rows(7, 4, to=7)
    with use_ratio(model, 4):
        ask = {"input_ids": ids, "attention_mask": mask, "output_hidden_states": True, "output_attentions": True}
        named = model.get_encoder()(**ask)
        plain = model.get_encoder()(**ask, return_dict=False)
    assert {h.shape for h in named.hidden_states} == {(2, 7, 12)}
    assert {a.shape for a in named.attentions} == {(2, 2, 7, 7)}
    for found, expected in zip(plain, named.to_tuple(), strict=True):
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


# the content


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_what_stands_at_padded_positions_does_not_matter(ratio: int, attention: str) -> None:
    """Random tokens under mask 0 change neither the encoder's rows of real tokens nor the logits."""
    model = with_plugins(attention=attention)
    for to in (7, 8, 13):
        ids, mask = rows(5, 1, 7, to=to)
        real = mask == 1
        encoded, scores = encode(model, ratio, ids, mask)[real], logits(model, ratio, ids, mask)
        for seed in (1, 2):
            other = with_noise_at_padding(ids, mask, seed)
            assert not torch.equal(other, ids)
            close(encode(model, ratio, other, mask)[real], encoded, 4e-6)
            close(logits(model, ratio, other, mask), scores, 4e-5)


@pytest.mark.parametrize("compat", ["grouping", "original"])
def test_the_originals_groups_do_look_at_padded_positions(compat: Compat) -> None:
    """The control: with the original's groups, what stands beside the last real token changes it."""
    model = with_plugins(compat=compat)
    ids, mask = rows(5, 7, to=8)
    other = with_noise_at_padding(ids, mask)
    before, after = encode(model, 4, ids, mask), encode(model, 4, other, mask)
    assert (before - after)[mask == 1].abs().max() > 1e-2
    close(encode(model, 1, other, mask)[mask == 1], encode(model, 1, ids, mask)[mask == 1], 4e-6)


@pytest.mark.parametrize("ratio", RATIOS)
def test_rows_of_a_batch_do_not_know_each_other(ratio: int) -> None:
    """Encoder output and logits of a row are those it has alone, whatever its neighbours' lengths and tokens."""
    model = with_plugins()
    alone = rows(5, to=5)
    encoded, scores = encode(model, ratio, *alone)[0], logits(model, ratio, *alone)[0]
    for lengths in ((5, 1), (5, 6), (5, 9, 2), (5, 5, 11, 3)):
        ids, mask = rows(*lengths, to=max(lengths))
        for given in (ids, with_noise_at_padding(ids, mask)):
            close(encode(model, ratio, given, mask)[0, :5], encoded)
            close(logits(model, ratio, given, mask)[0], scores, 1e-4)


def test_a_mask_weighs_only_what_it_shows() -> None:
    """The weights of the real positions are those of a group whose other vectors are 0, renormalised."""
    x, weight, bias = noise(1, 4, 3), noise(4, 12, seed=1), noise(4, seed=2)
    mask = torch.tensor([[1, 0, 1, 1]])
    shown = x * mask.unsqueeze(-1)
    scores = weight @ shown.flatten() + bias
    expected = scores[[0, 2, 3]].softmax(0) @ x[0, [0, 2, 3]]
    close(mux(x, weight, bias, mask)[0, 0], expected, 1e-12)
    assert torch.equal(mux(x, weight, bias, torch.ones(1, 4)), mux(x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_groups_of_padding_alone_are_finite(dtype: torch.dtype) -> None:
    """Values and gradients, in every precision; they get no share of the gradient."""
    x, weight, bias = noise(2, 6, 4, dtype=dtype), noise(3, 12, seed=1, dtype=dtype), noise(3, seed=2, dtype=dtype)
    x, weight, bias = x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
    out = mux(x, weight, bias, torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]))
    assert out.dtype == dtype and out.isfinite().all() and not out[1].any() and not out[0, 1].any()
    out.float().sum().backward()
    for leaf in (x, weight, bias):
        assert leaf.grad is not None and leaf.grad.isfinite().all()
    assert x.grad is not None and x.grad[0, :2].any() and not x.grad[1].any() and not x.grad[0, 2:].any()


@each_compat
def test_rows_of_padding_alone_leave_a_model_finite(compat: Compat) -> None:
    """A row without any token, and much padding behind another, give finite logits and gradients."""
    model = with_plugins((4,), compat)
    ids, mask = rows(5, 0, to=16)
    with use_ratio(model, 4):
        scores = model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids[:, :2]).logits
    assert scores.isfinite().all()
    scores.square().mean().backward()
    for module in plugin_modules(model, 4):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


# as the original


def test_zeroed_rows_match_the_originals_attention() -> None:
    """With `compat="original"` the attention output of padded rows is 0; otherwise it is Hugging Face's."""
    seen: dict[str, Tensor] = {}
    ids, mask = rows(7, 4, to=8)
    for compat in get_args(Compat):
        model = with_plugins((4,), compat)
        for module in model.modules():
            if hasattr(module, "variance_epsilon"):
                module.variance_epsilon = 1e-6
        attention: nn.Module = model.encoder.block[0].layer[0].SelfAttention
        keep = lambda _m, _a, output, name=compat: seen.__setitem__(name, output[0].detach())  # noqa: E731
        attention.register_forward_hook(keep)
        encode(model, 4, ids, mask)
    assert not seen["original"][mask == 0].any()
    for compat in ("native", "grouping"):
        assert seen[compat][mask == 0].any()
        assert torch.equal(seen["original"][mask == 1], seen[compat][mask == 1])


def epsilons(model: Any) -> set[float]:
    """The epsilons of all layer norms, in encoder and decoder."""
    return {module.variance_epsilon for module in model.modules() if hasattr(module, "variance_epsilon")}


def test_the_originals_epsilon_comes_and_goes_with_the_plugins(tmp_path: Any) -> None:
    """1e-2 everywhere while they are attached, also after saving and loading; then each norm's own again."""
    model = tiny_t5()
    model.decoder.final_layer_norm.variance_epsilon = 1e-5
    apply_edit(model, PluginConfig((4,), 6, compat="original"))
    assert epsilons(model) == {1e-2}
    assert model.config.layer_norm_epsilon == 1e-6
    model.save_pretrained(tmp_path / "model")
    undo_edit(model, "plugin")
    assert epsilons(model) == {1e-6, 1e-5} and model.decoder.final_layer_norm.variance_epsilon == 1e-5

    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    assert epsilons(loaded) == {1e-2}
    undo_edit(loaded, "plugin")
    assert epsilons(loaded) == {1e-6}
    for compat in ("native", "grouping"):
        assert epsilons(with_plugins((4,), compat)) == {1e-6}


def test_an_unknown_treatment_of_padding_is_refused() -> None:
    with pytest.raises(ModelError, match="compat is one of native, grouping, original, found 'exact'"):
        PluginConfig((4,), compat="exact")  # type: ignore[arg-type]
