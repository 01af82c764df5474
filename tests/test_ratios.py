"""Switching between the ratios of a bank: what is refused, what comes back, what it costs, and in which thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from model import (
    ModelError,
    PluginConfig,
    apply_edit,
    current_ratio,
    set_ratio,
    use_ratio,
)
from tests.helpers_edits import (
    CASES,
    VOCABULARY,
    build_t5,
    edited,
    inputs,
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
        assert torch.equal(logits_by_choice(alone)[str(ratio)], together[str(ratio)])
