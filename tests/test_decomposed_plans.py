"""Execution of decomposed projections: every plan is exact and costs what it says, and nothing stale is ever used."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metric.cost import count_macs
from model import DecompositionConfig, ModelError, optimize_for_inference
from model.decomposition import layers as layers_module
from model.decomposition.packing import PackedWeight, usable_for
from model.decomposition.plans import (
    Factors,
    Inner,
    PairFactors,
    Shape,
    SharedFactors,
    cheapest,
    costs,
    multiply,
    weights,
)
from model.decomposition.surgery import matrix_groups
from tests.helpers_close import same_logits
from tests.helpers_decomposition import WIDTH, bank_of, decomposed, decompositions, tiny_inputs, tiny_logits

pytestmark = pytest.mark.usefixtures("single_thread")

each_kind = pytest.mark.parametrize("kind", decompositions())
#: Query, key and value; output; FFN in; FFN out.
SHAPES = [Shape(1, 3, 6), Shape(1, 1, 6), Shape(1, 4, 6), Shape(4, 1, 6)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def factors_of(shape: Shape, inner: Inner) -> Factors:
    n, d, (p, q, shared) = shape.blocks, shape.width, inner
    if shared:
        return SharedFactors(noise(d, p), noise(n, p, q, seed=1), noise(q, d, seed=2))
    return PairFactors(noise(n, d, p), noise(n, p, d, seed=1))


def expected_product(x: Tensor, factors: Factors, shape: Shape, bias: Tensor) -> Tensor:
    """Chunk by chunk and block by block."""
    blocks = factors.first @ factors.last if isinstance(factors, PairFactors) else (
        factors.first @ factors.cores @ factors.last
    )  # fmt: skip
    chunks = x.split(shape.width, -1)
    rows = [sum(chunk @ blocks[i * shape.outputs + o] for i, chunk in enumerate(chunks)) for o in range(shape.outputs)]
    return torch.cat(rows, -1) + bias


# plans on plain tensors


@pytest.mark.parametrize("inner", [Inner(2, 5, True), Inner(5, 2, True), Inner(3, 3, True), Inner(4, 4, False)])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_plan_is_the_same_product_and_costs_what_it_says(shape: Shape, inner: Inner) -> None:
    """With and without bias; counted multiply-accumulates per position equal the formula."""
    factors = factors_of(shape, inner)
    x, bias = noise(2, 5, shape.inputs * shape.width, seed=3), noise(shape.outputs * shape.width, seed=4)
    expected = expected_product(x, factors, shape, bias)
    for plan, cost in costs(shape, inner).items():
        steps = weights(plan, factors, shape)
        torch.testing.assert_close(multiply(x, steps, bias), expected)
        torch.testing.assert_close(multiply(x, steps, None), expected - bias)
        assert count_macs(lambda steps=steps: multiply(x, steps, bias)) == 10 * cost.per_token, plan  # type: ignore[misc]
        built = count_macs(lambda plan=plan: weights(plan, factors, shape))  # type: ignore[misc]
        assert built == cost.build, plan


def test_the_cheapest_plan_is_taken() -> None:
    """Shared sides are shared, square ranks near D make the dense weight cheapest, forming it has to pay off."""
    qkv, ffn_out = Shape(1, 3, 768), Shape(4, 1, 768)
    assert cheapest(qkv, Inner(128, 128, True), 1024, cached=True) == "left"
    assert cheapest(ffn_out, Inner(128, 128, True), 1024, cached=True) == "right"
    assert cheapest(qkv, Inner(512, 64, True), 1024, cached=True) == "right"
    assert cheapest(qkv, Inner(700, 700, True), 1024, cached=True) == "dense"
    assert cheapest(qkv, Inner(384, 384, True), 8, cached=False) == "three"
    assert cheapest(qkv, Inner(384, 384, True), 10_000, cached=False) == "left"


def test_the_bound_of_the_shared_path_is_reached() -> None:
    """Multiply-accumulates of BERT-base's projections against the dense ones, at the published ranks."""
    for rank, least in ((384, 1.5), (256, 2.25), (128, 4.5), (64, 9.0)):
        kinds = (Shape(1, 3, 768), Shape(1, 1, 768), Shape(1, 4, 768), Shape(4, 1, 768))
        spent = sum(min(c.per_token for c in costs(shape, Inner(rank, rank, True)).values()) for shape in kinds)
        assert 12 * 768**2 / spent >= least - 1e-9


# packed weights


@torch.no_grad()
@pytest.mark.parametrize("rows", [0, 1, 7, 33])
def test_packed_products_are_the_plain_ones(rows: int) -> None:
    """Any number of rows, with and without bias, and inputs whose rows do not lie side by side."""
    weight, bias = noise(10, 6).float(), noise(6, seed=1).float()
    if not usable_for(weight):
        pytest.skip("this build of torch has no packed products")
    packed = PackedWeight(weight)
    for x in (noise(rows, 10, seed=2).float(), noise(10, rows, seed=2).float().T, noise(rows, 15).float()[:, 2:12]):
        torch.testing.assert_close(packed.product(x, bias), x @ weight + bias)
        torch.testing.assert_close(packed.product(x, None), x @ weight)


def test_packed_weights_are_for_plain_evaluation_in_float32_only() -> None:
    """Not with gradients, autocast, other precisions, or where operations are counted; a model mixes freely."""
    weight = noise(3, 4).float()
    assert not usable_for(weight)
    with torch.no_grad():
        assert not usable_for(weight.double()) and not usable_for(weight.to("meta"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not usable_for(weight)
        inside = []
        count_macs(lambda: inside.append(usable_for(weight)))
        assert inside == [False]
    model = decomposed(decompositions()["IV"])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    packed = tiny_logits(model)
    torch.testing.assert_close(model(**tiny_inputs()).logits, packed, atol=4e-6, rtol=0)
    assert same_logits(tiny_logits(model), packed)


def test_a_shared_factor_is_packed_once() -> None:
    """All groups that read U from the same side hold the same packed weight."""
    model = decomposed(DecompositionConfig("IV", "san", rank_layer=3, rank_condim=2, rank_dim=2))
    tiny_logits(model)
    held = [weight for _, weights in bank_of(model)._cache.entries.values() for weight in weights]
    packed = [weight for weight in held if isinstance(weight, PackedWeight)]
    assert len(held) == 8
    assert len(packed) in (0, 8) and len({id(weight) for weight in packed if weight.shape == (WIDTH, 2)}) <= 1


# choosing and caching in a model


@each_kind
def test_every_plan_gives_the_model_the_same_output(kind: str) -> None:
    """Whatever is fixed for whichever group."""
    model = decomposed(decompositions()[kind]).double()
    expected = tiny_logits(model)
    groups = matrix_groups(model)
    names = list(costs(groups[0].shape, groups[0].inner))
    for plan in names:
        for group in groups:
            group.fixed_plan = plan
        torch.testing.assert_close(tiny_logits(model), expected, atol=1e-12, rtol=0)


@each_kind
def test_optimizing_for_inference_measures_all_plans_and_keeps_the_output(kind: str) -> None:
    """Every kind of group gets its fastest plan; what was not decomposed, or trains, is refused."""
    model = decomposed(decompositions()[kind])
    expected = tiny_logits(model)
    chosen = optimize_for_inference(model, batch=2, length=7)
    assert [choice.roles for choice in chosen] == [group.roles for group in matrix_groups(model)][:4]
    for choice in chosen:
        assert choice.milliseconds[choice.plan] == min(choice.milliseconds.values())
    for group in matrix_groups(model):
        assert group.fixed_plan == next(choice.plan for choice in chosen if choice.roles == group.roles)
    torch.testing.assert_close(tiny_logits(model), expected, atol=4e-5, rtol=0)
    with pytest.raises(ModelError, match="positive, found 0 x 7"):
        optimize_for_inference(model, 0, 7)
    with pytest.raises(ModelError, match="evaluation mode"):
        optimize_for_inference(model.train(), 2, 7)


def formed_count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records every forming of weights."""
    calls: list[str] = []

    def counted(plan: str, factors: Factors, shape: Shape) -> tuple[Tensor, ...]:
        calls.append(plan)
        return weights(plan, factors, shape)

    monkeypatch.setattr(layers_module, "weights", counted)
    return calls


def test_weights_are_formed_once_in_evaluation_and_every_time_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Per group and forward: query, key and value are one group."""
    model = decomposed(decompositions()["IV"])
    calls = formed_count(monkeypatch)
    for _ in range(3):
        tiny_logits(model)
    assert len(calls) == 4 * model.config.num_hidden_layers
    calls.clear()
    model.train()
    for _ in range(3):
        tiny_logits(model)
    assert len(calls) == 3 * 4 * model.config.num_hidden_layers


def test_the_shared_factor_is_applied_once_to_query_key_and_value() -> None:
    """The counted work of a model is that of its plans, with attention and head."""
    model = decomposed(DecompositionConfig("III", "san", rank_condim=3, rank_dim=2))
    x = noise(1, 5, WIDTH).float()
    attention = model.bert.encoder.layer[0].attention.self
    with torch.no_grad():
        attention.query(x), attention.key(x), attention.value(x)  # forms the weights
        counted = count_macs(lambda: (attention.query(x), attention.key(x), attention.value(x)))
    best = min(cost.per_token for cost in costs(Shape(1, 3, WIDTH), Inner(3, 2, True)).values())
    assert counted == 5 * best


CHANGES: dict[str, Callable[[Any], object]] = {
    "in place": lambda model: bank_of(model).core.mul_(1.5),
    "one element": lambda model: bank_of(model).factor_left[0, 0].add_(3.0),
    "through data": lambda model: bank_of(model).core.data.mul_(1.5),
    "replaced": lambda model: setattr(
        bank_of(model), "factor_right", torch.nn.Parameter(bank_of(model).factor_right * 1.5)
    ),
    "new storage": lambda model: setattr(bank_of(model).core, "data", bank_of(model).core.data * 1.5),
    "a bias": lambda model: model.bert.encoder.layer[0].attention.self.value.bias.data.add_(1.0),
    "loaded": lambda model: model.load_state_dict({k: v * 1.5 for k, v in model.state_dict().items()}),
    "assigned": lambda model: model.load_state_dict({k: v * 1.5 for k, v in model.state_dict().items()}, assign=True),
    "cast": lambda model: model.bfloat16().float(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_parameters_are_seen(change: str) -> None:
    """The cached weights give what a model that never cached any gives."""
    model = decomposed(decompositions()["IV"])
    before = tiny_logits(model)
    with torch.no_grad():
        CHANGES[change](model)
    plain = copy.deepcopy(model)
    assert not bank_of(plain)._cache.entries
    found = tiny_logits(model)
    assert not torch.equal(found, before)
    assert same_logits(found, tiny_logits(plain))


def test_optimizer_steps_between_evaluations_are_seen() -> None:
    """Also those that write through `data`, and those taken in evaluation mode."""
    for training, through_data in itertools.product((True, False), (True, False)):
        model = decomposed(decompositions()["IV"])
        before = tiny_logits(model)
        model.train(training)
        model(**tiny_inputs(), labels=torch.tensor([0, 1])).loss.backward()
        for parameter in bank_of(model).parameters():
            if through_data:
                parameter.data.add_(parameter.grad, alpha=-0.5)
            else:
                with torch.no_grad():
                    parameter.add_(parameter.grad, alpha=-0.5)
        found = tiny_logits(model.eval())
        assert not torch.equal(found, before)
        assert same_logits(found, tiny_logits(copy.deepcopy(model)))


def test_cached_weights_are_not_saved() -> None:
    """Neither in the state dict nor in a pickle; the model unpickled works."""
    model = decomposed(decompositions()["IV"])
    keys, before = set(model.state_dict()), tiny_logits(model)
    assert bank_of(model)._cache.entries
    assert set(model.state_dict()) == keys
    again = pickle.loads(pickle.dumps(model))
    assert not bank_of(again)._cache.entries
    assert same_logits(tiny_logits(again), before)


def test_inference_mode_leaves_weights_that_training_can_use() -> None:
    """Weights cached inside inference mode also serve a later forward with gradients of other parameters."""
    model = decomposed(decompositions()["IV"])
    with torch.inference_mode():
        inside = model(**tiny_inputs()).logits.clone()
    assert torch.equal(tiny_logits(model), inside)
    for parameter in bank_of(model).parameters():
        parameter.requires_grad_(False)
    model(**tiny_inputs(), labels=torch.tensor([0, 1])).loss.backward()
    assert model.bert.embeddings.word_embeddings.weight.grad.abs().max() > 0
    assert model.bert.encoder.layer[0].attention.self.value.bias.grad.abs().max() > 0


def test_autocast_has_weights_of_its_own() -> None:
    """bf16 stays within bf16's precision, and float32 afterwards is float32's bits again."""
    model = decomposed(decompositions()["IV"])
    expected = tiny_logits(model)
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = tiny_logits(model)
        torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)
        assert not torch.equal(found.float(), expected)
        assert torch.equal(tiny_logits(model), expected)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**tiny_inputs(), labels=torch.tensor([0, 1])).loss
    loss.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in bank_of(model).parameters())


# results in waiting


@pytest.fixture
def attention() -> Any:
    """Self-attention of a decomposed layer, in evaluation mode."""
    return decomposed(decompositions()["III"]).double().bert.encoder.layer[0].attention.self


def alone(projection: Any, x: Tensor) -> Tensor:
    """What a projection gives by its own weight."""
    return torch.nn.functional.linear(x, projection.weight, projection.bias)


@torch.no_grad()
def test_members_are_right_in_any_order(attention: Any) -> None:
    """Every sequence of up to four calls, repeats included, on two tensors."""
    one, two = noise(2, 3, WIDTH), noise(2, 3, WIDTH, seed=1)
    projections = (attention.query, attention.key, attention.value)
    for calls in itertools.product(itertools.product(projections, (one, two)), repeat=3):
        for projection, x in calls:
            torch.testing.assert_close(projection(x), alone(projection, x))


@torch.no_grad()
def test_an_input_changed_in_place_is_computed_anew(attention: Any) -> None:
    x = noise(2, 3, WIDTH)
    attention.query(x)
    x.mul_(2)
    torch.testing.assert_close(attention.key(x), alone(attention.key, x))


def test_results_do_not_outlive_the_gradient_mode_or_the_parameters(attention: Any) -> None:
    """A key called with gradients after a query without has them; one after an update has the new values."""
    x = noise(2, 3, WIDTH)
    with torch.no_grad():
        attention.query(x)
    assert attention.key(x).requires_grad
    attention.query(x)
    bank = attention.query.group.bank
    with torch.no_grad():
        bank.core.mul_(3)
    torch.testing.assert_close(attention.value(x), alone(attention.value, x))
    bank.core.grad = None
    attention.key(x).sum().backward()
    assert bank.core.grad is not None


def test_nothing_is_kept_once_all_members_were_called(attention: Any) -> None:
    """No activation stays alive behind a forward."""
    x = noise(2, 3, WIDTH)
    for projection in (attention.query, attention.key, attention.value):
        projection(x)
    pending = attention.query.group._pending
    assert pending.x is None and pending.state is None and not pending.outputs


def test_threads_do_not_see_each_others_results() -> None:
    """Many threads run one model on inputs of their own, at the same time."""
    model = decomposed(decompositions()["IV"])
    inputs = [{**tiny_inputs(), "input_ids": (tiny_inputs()["input_ids"] + i) % 40} for i in range(4)]
    with torch.no_grad():
        expected = [model(**batch).logits for batch in inputs]
    bank_of(model).forget()
    found: dict[int, list[Tensor]] = {}
    start = threading.Barrier(len(inputs))

    def run(i: int) -> None:
        start.wait()
        with torch.no_grad():
            found[i] = [model(**inputs[i]).logits for _ in range(8)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, logits in found.items():
        assert len(logits) == 8
        for one in logits:
            torch.testing.assert_close(one, expected[i], atol=4e-6, rtol=0)
