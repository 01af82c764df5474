"""Dense and pruned BERTs on packed weights: the outputs of the plain model, never those of weights that were."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from model import ModelError, optimize_for_inference
from model.decomposition import inference
from model.packed_layers import PackedLinear, pack, unpack
from model.packing import usable_for
from model.pruning import NestedWidths, committed, measure_importance
from tests.helpers_close import same_logits
from tests.helpers_decomposition import tiny_bert, tiny_inputs, tiny_logits
from tests.helpers_edits import build_t5
from tests.helpers_pruning import sizes_of, sorted_bert, square_loss, unchanged

pytestmark = pytest.mark.usefixtures("single_thread")

BUILD: dict[str, Callable[[], Any]] = {
    "dense": tiny_bert,
    "pruned": lambda: committed(sorted_bert().float(), 0.5),
    "emptied": lambda: committed(sorted_bert(layers=4).float(), 0.9),
}
each_model = pytest.mark.parametrize("kind", BUILD)


def kinds_of(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


def packed(model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model with all that can be packed, whatever is faster at this size."""
    with torch.no_grad():
        if not usable_for(next(model.parameters())):
            pytest.skip("this build of torch has no packed products")
    monkeypatch.setattr(inference, "_fastest", lambda runs, device: {plan: -len(plan) for plan in runs})
    assert all(choice.plan == "packed" for choice in optimize_for_inference(model, 2, 7))
    return model


def kept_of(model: nn.Module) -> list[Any]:
    return [module._kept for module in model.modules() if isinstance(module, PackedLinear)]


@each_model
def test_the_outputs_are_the_plain_models(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: every projection that is left is packed, and logits agree within 4e-5."""
    model = BUILD[kind]()
    expected = tiny_logits(model)
    packed(model, monkeypatch)
    for _ in range(2):
        torch.testing.assert_close(tiny_logits(model), expected, atol=4e-5, rtol=0)
    heads, neurons = sizes_of(model)
    kept = kept_of(model)
    assert len(kept) == 4 * sum(map(bool, heads)) + 2 * sum(map(bool, neurons)) and None not in kept
    with torch.inference_mode():
        torch.testing.assert_close(model(**tiny_inputs()).logits, expected, atol=4e-5, rtol=0)


def test_plans_are_measured_and_the_fastest_stays() -> None:
    """Claim: without being told, each kind of matrices has the plan of the smaller time, and outputs stay."""
    model = BUILD["emptied"]()
    expected = tiny_logits(model)
    chosen = optimize_for_inference(model, 2, 7)
    assert [choice.roles for choice in chosen] == [("query", "key", "value"), ("output",), ("ffn_in",), ("ffn_out",)]
    for choice in chosen:
        assert choice.milliseconds[choice.plan] == min(choice.milliseconds.values())
    torch.testing.assert_close(tiny_logits(model), expected, atol=4e-5, rtol=0)


@each_model
def test_the_model_stays_the_plain_one_for_all_who_save_or_copy_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claim: same keys and bits; copies, pickles and loaded checkpoints are made of the plain model's modules."""
    model = BUILD[kind]()
    expected, kinds = tiny_logits(model), kinds_of(model)
    with unchanged(model):
        packed(model, monkeypatch)
        tiny_logits(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    for twin in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert kinds_of(twin)[1:] == kinds[1:] and same_logits(tiny_logits(twin), expected)
        assert list(twin.state_dict()) == list(model.state_dict())
    for module in model.modules():
        unpack(module)
    assert kinds_of(model) == kinds and same_logits(tiny_logits(model), expected)


def _replace(linear: Any) -> None:
    linear.weight = nn.Parameter(linear.weight.detach() * 1.5)


def _reload(linear: Any) -> None:
    linear.load_state_dict({key: value * 1.5 for key, value in linear.state_dict().items()})


CHANGES: dict[str, Callable[[Any], None]] = {
    "in place": lambda linear: linear.weight.mul_(1.5),
    "through .data": lambda linear: linear.weight.data.mul_(1.5),
    ".data replaced": lambda linear: setattr(linear.weight, "data", linear.weight.data * 1.5),
    "another parameter": _replace,
    "a bias": lambda linear: linear.bias[::2].add_(0.5),
    "load_state_dict": _reload,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("slot", ["attention.self.value", "attention.output.dense", "intermediate.dense"])
def test_weights_that_were_are_never_used(change: str, slot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: after any change the outputs are those of a plain model with the same change."""
    model, plain = packed(tiny_bert(), monkeypatch), tiny_bert()
    before = tiny_logits(model)
    with torch.no_grad():
        for one in (model, plain):
            CHANGES[change](one.bert.encoder.layer[0].get_submodule(slot))
    after = tiny_logits(model)
    torch.testing.assert_close(after, tiny_logits(plain), atol=4e-5, rtol=0)
    assert not torch.allclose(after, before, atol=1e-4)


@each_model
def test_training_afterwards_is_the_plain_models(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: steps give the same bits, and the evaluation after each is that of the new weights."""
    model, plain = packed(BUILD[kind](), monkeypatch), BUILD[kind]()
    optimizers = [torch.optim.AdamW(one.parameters(), lr=0.01) for one in (model, plain)]
    for _ in range(2):
        tiny_logits(model.eval())
        model.train()
        assert not any(kept_of(model)), "packed weights take memory"
        for one, optimizer in zip((model, plain.train()), optimizers, strict=True):
            square_loss(one, tiny_inputs()).backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.testing.assert_close(tiny_logits(model.eval()), tiny_logits(plain.eval()), atol=4e-5, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_gradients_in_evaluation_mode_go_through_stock_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: what measures importances sees the plain model, bit for bit."""
    model, plain = packed(BUILD["pruned"](), monkeypatch), BUILD["pruned"]()
    tiny_logits(model)
    found, expected = (measure_importance(one, [tiny_inputs()], square_loss) for one in (model, plain))
    assert all(torch.equal(a, b) for a, b in zip(found.neurons, expected.neurons, strict=True))


def test_other_precisions_and_autocast_run_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: cast or under autocast, the bits are the plain model's."""
    model, plain = packed(tiny_bert(), monkeypatch), tiny_bert()
    tiny_logits(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tiny_logits(model), tiny_logits(plain))
    assert torch.equal(tiny_logits(model.double()), tiny_logits(plain.double()))


def test_a_hook_sees_the_projections_own_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: with a hook on it a projection is computed by itself: before the GELU, before the sum."""
    model, plain = packed(tiny_bert(), monkeypatch), tiny_bert()
    for slot in ("intermediate.dense", "output.dense", "attention.output.dense", "attention.self.query"):
        seen: list[torch.Tensor] = []
        for one in (model, plain):
            module = one.bert.encoder.layer[0].get_submodule(slot)
            module.register_forward_hook(lambda module, given, made, seen=seen: seen.append(made))
            tiny_logits(one)
        torch.testing.assert_close(seen[0], seen[1], atol=4e-5, rtol=0)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_python", "relu"])
def test_other_activations_stay_as_they_are(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert(hidden_act=activation)
    expected = tiny_logits(model)
    torch.testing.assert_close(tiny_logits(packed(model, monkeypatch)), expected, atol=4e-5, rtol=0)


def test_pruning_goes_on_from_a_packed_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: what is committed from it, and its nested widths, are the plain model's."""
    model, plain = packed(sorted_bert().float(), monkeypatch), sorted_bert().float()
    tiny_logits(model)
    small, expected = committed(model, 0.9), committed(plain, 0.9)
    assert kinds_of(small) == kinds_of(expected) and same_logits(tiny_logits(small), tiny_logits(expected))
    with NestedWidths(model) as nested:
        nested.select(0.9)
        torch.testing.assert_close(tiny_logits(model), tiny_logits(expected), atol=4e-5, rtol=0)
    torch.testing.assert_close(tiny_logits(model), tiny_logits(plain), atol=4e-5, rtol=0)


def test_packing_an_unknown_module_changes_nothing() -> None:
    module = nn.LayerNorm(3)
    pack(module)
    assert type(module) is nn.LayerNorm


def test_what_cannot_be_optimized_is_refused() -> None:
    """Another family, training mode, no positions, and a model of which nothing is left."""
    with pytest.raises(ModelError, match="family 'bert', found 't5'"):
        optimize_for_inference(build_t5("relu"), 2, 7)
    with pytest.raises(ModelError, match="evaluation mode"):
        optimize_for_inference(tiny_bert().train(), 2, 7)
    with pytest.raises(ModelError, match="positive, found 2 x 0"):
        optimize_for_inference(tiny_bert(), 2, 0)
    with pytest.raises(ModelError, match="No plain linear projection"):
        optimize_for_inference(committed(sorted_bert().float(), 0.999), 2, 7)
