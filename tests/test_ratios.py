"""Switching between the ratios of a bank: what is refused, what comes back, what it costs, and in which thread."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model import (
    ModelError,
    PluginConfig,
    apply_edit,
    current_ratio,
    set_ratio,
    use_ratio,
)
from model.plugin import surgery
from model.plugin.bank import PluginFFN
from model.plugin.surgery import plugin_layers
from tests.helpers_close import same_logits
from tests.helpers_edits import (
    CASES,
    VOCABULARY,
    build_t5,
    edited,
    inputs,
    logits,
    logits_by_choice,
    same,
    some_backbone,
)

pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture
def bank() -> Iterator[Any]:
    yield edited(CASES["plugin_bank"])


def test_a_ratio_that_is_not_there_is_refused_with_those_that_are(bank: Any) -> None:
    """The ratio in use stays."""
    set_ratio(bank, 2)
    with pytest.raises(ModelError, match=r"no plugins for ratio 8; it has: 1, 2, 3, 4"):
        set_ratio(bank, 8)
    assert current_ratio(bank) == 2
    with pytest.raises(ModelError, match="no plugins for ratio 2; it has: 1"):
        set_ratio(build_t5(some_backbone), 2)


def test_use_ratio_restores_after_an_exception_and_when_nested(bank: Any) -> None:
    set_ratio(bank, 3)
    with pytest.raises(RuntimeError, match="inside"), use_ratio(bank, 4):
        with use_ratio(bank, 2):
            assert current_ratio(bank) == 2
        assert current_ratio(bank) == 4
        raise RuntimeError("inside")
    assert current_ratio(bank) == 3
    with pytest.raises(ModelError), use_ratio(bank, 9):
        pytest.fail("entered")  # pragma: no cover
    assert current_ratio(bank) == 3


def test_an_exception_inside_the_model_leaves_it_usable(bank: Any) -> None:
    """A forward that fails half-way leaves no padding behind for the next one."""
    expected = logits_by_choice(bank)
    with use_ratio(bank, 4), pytest.raises(IndexError):
        bank(**{**inputs(), "input_ids": torch.full((2, 7), VOCABULARY)})
    assert same(logits_by_choice(bank), expected)


def test_each_ratio_of_a_bank_is_the_plugin_alone() -> None:
    """Ratios share nothing but the backbone: in a bank each gives what it gives by itself."""
    config = CASES["plugin_bank"].edit
    assert isinstance(config, PluginConfig)
    model = edited(CASES["plugin_bank"])
    together = logits_by_choice(model)
    state = {f"{p}.{n}": t for p, m in config.own_modules(model).items() for n, t in m.state_dict().items()}
    for ratio in config.ratios:
        alone = build_t5(some_backbone)
        single = PluginConfig((ratio,), config.bottleneck, config.residual_scale)
        apply_edit(alone, single)
        for prefix, module in single.own_modules(alone).items():
            module.load_state_dict({n: state[f"{prefix}.{n}"] for n in module.state_dict()})
        assert same_logits(logits_by_choice(alone)[str(ratio)], together[str(ratio)])


# the cost of a switch


def test_switching_touches_no_layer(bank: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`set_ratio` and `use_ratio` neither walk the layers nor change any module: one object says what is in use."""
    expected = logits_by_choice(bank)
    layers = plugin_layers(bank)
    before = [{name: id(value) for name, value in vars(module).items()} for module in bank.modules()]

    def walked(*_: Any, **__: Any) -> Any:
        raise AssertionError("the layers were walked")

    monkeypatch.setattr(surgery, "plugin_layers", walked)
    monkeypatch.setattr(surgery, "spec_for", walked)
    for module_type in (nn.Module, PluginFFN):
        for name in ("modules", "named_modules", "children", "named_children", "parameters", "named_parameters"):
            monkeypatch.setattr(module_type, name, walked)
    for ratio in (2, 3, 4, 1, 4):
        set_ratio(bank, ratio)
        assert current_ratio(bank) == ratio
    with use_ratio(bank, 2):
        assert current_ratio(bank) == 2
    monkeypatch.undo()

    assert [{name: id(value) for name, value in vars(module).items()} for module in bank.modules()] == before
    assert len({id(layer.state) for layer in layers}) == 1
    assert torch.equal(logits(bank), expected["4"])
    set_ratio(bank, 1)
    assert torch.equal(logits(bank), expected["1"])


# threads


def in_a_thread(what: Callable[[], Any]) -> Any:
    """The result of `what`, run in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(what).result(timeout=60)


def test_threads_run_different_ratios_of_one_model_at_the_same_time(bank: Any) -> None:
    """Three forwards that wait for each other inside the encoder give what each gives by itself."""
    lengths = {2: 7, 3: 5, 4: 6}  # each thread's batch needs other padding and another mask
    batches = {}
    for ratio, length in lengths.items():
        batch = inputs()
        batches[ratio] = {**batch, **{key: batch[key][:, :length] for key in ("input_ids", "attention_mask")}}

    @torch.no_grad()
    def run(ratio: int) -> Tensor:
        with use_ratio(bank, ratio):
            return bank(**batches[ratio]).logits

    expected = {ratio: run(ratio) for ratio in lengths}
    barrier = threading.Barrier(len(lengths))

    def wait(*_: Any) -> None:
        barrier.wait(timeout=60)

    # Before every FFN all threads are inside the encoder, and none has left it.
    handles = [layer.register_forward_pre_hook(wait) for layer in plugin_layers(bank)]
    handles += [layer.register_forward_hook(wait) for layer in plugin_layers(bank)]
    try:
        with ThreadPoolExecutor(len(lengths)) as pool:
            found = dict(zip(lengths, pool.map(run, lengths, timeout=60), strict=True))
    finally:
        for handle in handles:
            handle.remove()
    for ratio in lengths:
        assert torch.equal(found[ratio], expected[ratio]), ratio
    assert current_ratio(bank) == 1


def test_use_ratio_is_of_its_thread_and_set_ratio_of_all(bank: Any) -> None:
    """A `with` block here is not seen there; what is set here is, and there too; overrides win inside their block."""
    expected = logits_by_choice(bank)
    set_ratio(bank, 3)
    with use_ratio(bank, 4):
        assert current_ratio(bank) == 4
        assert in_a_thread(lambda: current_ratio(bank)) == 3
        assert torch.equal(in_a_thread(lambda: logits(bank)), expected["3"])
        in_a_thread(lambda: set_ratio(bank, 2))
        assert current_ratio(bank) == 4
        assert torch.equal(logits(bank), expected["4"])
    assert current_ratio(bank) == 2
    assert torch.equal(in_a_thread(lambda: logits(bank)), expected["2"])


def test_models_do_not_share_their_ratio(bank: Any) -> None:
    """A block on one model leaves another model's ratio, and that of a pickled copy, as they are."""
    other, twin = edited(CASES["plugin_bank"]), pickle.loads(pickle.dumps(bank))
    expected = logits_by_choice(bank)
    with use_ratio(bank, 4):
        assert (current_ratio(other), current_ratio(twin)) == (1, 1)
        set_ratio(twin, 2)
        assert same_logits(logits(twin), expected["2"])
        assert current_ratio(bank) == 4 and torch.equal(logits(bank), expected["4"])


# what rows are padded to


def test_rows_are_padded_for_the_ratio_in_use_alone() -> None:
    """With nine ratios, whose least common multiple is 2,520, 21 positions become 21 to 30 in the groups."""
    ratios = tuple(range(2, 11))
    model = build_t5(some_backbone)
    apply_edit(model, PluginConfig(ratios, 6))
    seen: list[int] = []
    plugin_layers(model)[0].register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[1]))
    given = {"input_ids": torch.randint(3, VOCABULARY, (2, 21)), "attention_mask": torch.ones(2, 21).long()}
    for ratio in (1, *ratios):
        with torch.no_grad(), use_ratio(model, ratio):
            assert model.get_encoder()(**given).last_hidden_state.shape[1] == 21
    assert seen == [21, *(-(-21 // ratio) * ratio for ratio in ratios)]
