"""What a schedule may expect of every axis of scales: sparsity, rank, layers, ratio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from model import (
    DecompositionConfig,
    LayersAxis,
    ModelError,
    PluginConfig,
    RankAxis,
    RatioAxis,
    SparsityAxis,
    apply_edit,
    current_ratio,
    edits_of,
    find_edit,
    first_layers,
    measure_importance,
    optimize_for_inference,
    sort_components,
    sparsify,
)
from model.decomposition import at_ranks, matrix_bank, ranks_at
from model.schedule import Sandwich, ScaleAxis
from tests import helpers_decomposition as bert
from tests import helpers_enct5 as enct5

pytestmark = pytest.mark.usefixtures("single_thread")


class Case(NamedTuple):
    """A model, its axis, and scales of it, the first of which is 0."""

    make: Callable[[], Any]
    axis: Callable[[Any, tuple[float, ...]], ScaleAxis]
    grid: tuple[float, ...]
    helpers: Any = bert


def _sorted_bert() -> Any:
    model = bert.tiny_bert()
    batch = bert.tiny_inputs()
    sparsify(model, measure_importance(model, [batch], lambda m, b: m(**b).logits.square().sum()), round_to=1)
    return model


def _decomposed(protocol: str) -> Callable[[], Any]:
    return lambda: bert.decomposed(bert.decompositions()[protocol])


def _with_plugins() -> Any:
    model = enct5.tiny_enct5()
    torch.manual_seed(1)
    apply_edit(model, PluginConfig((2, 4), bottleneck=5, residual_scale=1.0))
    return model


CASES = {
    "sparsity": Case(_sorted_bert, SparsityAxis, (0.0, 0.3, 0.6)),
    "rank II": Case(_decomposed("II"), RankAxis, (0.0, 0.4, 0.7)),
    "rank III": Case(_decomposed("III"), RankAxis, (0.0, 0.4, 0.7)),
    "rank IV": Case(_decomposed("IV"), RankAxis, (0.0, 0.4, 0.7)),
    "layers": Case(lambda: bert.tiny_bert(num_hidden_layers=4), LayersAxis, (0.0, 0.25, 0.75)),
    "layers of T5": Case(enct5.tiny_enct5, LayersAxis, (0.0, 1 / 3, 2 / 3), enct5),
    "ratio": Case(_with_plugins, RatioAxis, (0.0, 0.5, 0.75), enct5),
}
each_axis = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


class Distance(nn.Module):
    """An objective whose teacher says 1."""

    def __init__(self, case: Case, student: Any) -> None:
        super().__init__()
        self.student, self.inputs = student, case.helpers.tiny_inputs()

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.ones(())

    def loss(self, batch: dict[str, Tensor], targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        value = (self.student(**self.inputs).logits - targets).square().sum()
        return value, {}


@each_axis
def test_selecting_copies_nothing_and_scale_zero_is_exact(case: Case) -> None:
    """The parameters stay the same memory under the same names; scale 0 gives the model's own logits, bit for bit."""
    model = case.make()
    whole, places = case.helpers.tiny_logits(model), {p.data_ptr() for p in model.parameters()}
    axis = case.axis(model, case.grid)
    names = [name for name, _ in model.named_parameters()]
    for scale in (*case.grid, *reversed(case.grid)):
        axis.select(scale)
        found = case.helpers.tiny_logits(model)
        assert torch.equal(found, whole) == (scale == 0)
        assert {p.data_ptr() for p in model.parameters()} == places
        assert [name for name, _ in model.named_parameters()] == names
    axis.select(case.grid[-1])
    axis.close()  # type: ignore[attr-defined]
    assert torch.equal(case.helpers.tiny_logits(model), whole)


@each_axis
def test_a_committed_scale_computes_what_was_selected(case: Case, tmp_path: Path) -> None:
    """Also when AutoModel has loaded it; it is no larger than the scale before, and the model goes on as it was."""
    model = case.make()
    axis, sizes = case.axis(model, case.grid), []
    for scale in case.grid:
        axis.select(scale)
        selected = case.helpers.tiny_logits(model)
        made = axis.commit(scale)
        torch.testing.assert_close(case.helpers.tiny_logits(made), selected, atol=4e-6, rtol=1e-5)
        made.save_pretrained(tmp_path / str(scale))
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path / str(scale)).eval()
        torch.testing.assert_close(case.helpers.tiny_logits(again), selected, atol=4e-6, rtol=1e-5)
        assert edits_of(again) == edits_of(made) and again.num_parameters() == made.num_parameters()
        sizes.append(made.num_parameters())
        assert torch.equal(case.helpers.tiny_logits(model), selected)
    if axis.name == "ratio":  # plugins cost parameters; what they save are positions
        assert sizes[1] < sizes[0]
    else:
        assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)


@each_axis
def test_scales_are_nested(case: Case) -> None:
    """What a smaller scale trains is trained by the larger ones too, but for the plugins, which are each ratio's own.

    And each scale of a sandwich's step brings gradients to what it selects.
    """
    model = case.make().requires_grad_(True)
    axis, trained = case.axis(model, case.grid), {}
    sandwich = Sandwich(Distance(case, model), axis, case.grid, 0.2, case.grid[-1])
    for piece in range(sandwich.pieces):
        model.zero_grad()
        sandwich({}, piece)[0].backward()
        # The softmax takes no notice of the keys' biases: their gradients are rounding errors.
        own = {name for name, _ in model.named_parameters() if ".bank." not in name and not name.endswith("key.bias")}
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        trained[piece] = {n: g != 0 for n, g in gradients.items() if n in own}
        assert any(bool(where.any()) for where in trained[piece].values())
        if axis.name == "ratio" and piece < 2:  # the pieces begin with the smallest scale
            used = [n for n, g in gradients.items() if f".bank.{(4, 2)[piece]}." in n and bool(g.any())]
            assert used and not [n for n, g in gradients.items() if f".bank.{(2, 4)[piece]}." in n and bool(g.any())]
    if axis.name != "ratio":
        for smaller, larger in ((0, 1), (1, 2)):
            for name, where in trained[smaller].items():
                assert not (where & ~trained[larger][name]).any(), name
        counts = [sum(int(where.sum()) for where in trained[piece].values()) for piece in range(3)]
        assert counts == sorted(counts) and counts[0] < counts[2]


@each_axis
def test_a_committed_scale_can_be_committed_further(case: Case) -> None:
    """An assistant's smaller scales are the model's own."""
    model = case.make()
    axis = case.axis(model, case.grid)
    whole: Any = {"whole": axis.whole} if isinstance(axis, RankAxis) else {}
    if axis.name == "ratio":
        with pytest.raises(ModelError, match="the model has plugins for 1, 2"):
            RatioAxis(axis.commit(case.grid[1]), case.grid[1:])
        return
    axis.select(case.grid[2])
    expected = case.helpers.tiny_logits(model)
    between: Any = axis.commit(case.grid[1])
    further = type(axis)(between, case.grid[1:], **whole)  # type: ignore[call-arg]
    made = further.commit(case.grid[2])
    torch.testing.assert_close(case.helpers.tiny_logits(made), expected, atol=4e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "grid", "found"),
    [
        ("rank IV", (0.5, 0.2), "rises from 0 to below 1"),
        ("rank IV", (0.0, 1.0), "rises from 0 to below 1"),
        ("layers", (0.0, 0.3), "At scale 0.3 of 4 layers 2.8 are left"),
        ("layers", (0.5, 0.5), "rises in what is gone"),
        ("ratio", (0.6,), "whole number k of at least 1, found 0.6"),
        ("ratio", (2 / 3,), "ratio 3, and the model has plugins for 1, 2, 4"),
        ("ratio", (0.75, 0.5), "rises"),
    ],
)
def test_a_grid_that_cannot_be_is_told(name: str, grid: tuple[float, ...], found: str) -> None:
    """With what was found and what there is."""
    with pytest.raises(ModelError, match=found):
        CASES[name].axis(CASES[name].make(), grid)


# --- rank ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["II", "III", "IV"])
def test_sorting_keeps_the_function_and_puts_the_important_components_first(protocol: str) -> None:
    """After training has mixed them: less is lost by leaving out the last half, and no more than a decomposition."""
    model = bert.decomposed(bert.decompositions()[protocol])
    bank = matrix_bank(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    whole, before = bank.matrices(slice(None)), bert.tiny_logits(model)
    losses = []
    for repeat in range(2):
        bank.narrow(ranks_at(bank.ranks, 0.5))
        losses.append(float((bank.matrices(slice(None)) - whole).detach().norm()))
        bank.narrow(None)
        if not repeat:
            sort_components(model)
    torch.testing.assert_close(bank.matrices(slice(None)), whole, atol=4e-5, rtol=1e-4)
    torch.testing.assert_close(bert.tiny_logits(model), before, atol=4e-5, rtol=1e-4)
    assert losses[1] < losses[0]
    if protocol == "II":  # of a matrix alone, the best approximation of its rank
        best = torch.linalg.svdvals(whole.detach())[:, bank.ranks["rank_dim"] // 2 + 1 :].norm()
        assert losses[1] == pytest.approx(float(best), rel=1e-4)


def test_formed_weights_notice_the_selection() -> None:
    """In evaluation the products are formed once per scale: neither the cache nor a fixed plan keeps the former one."""
    model = CASES["rank IV"].make()
    axis = RankAxis(model, (0.0, 0.7))
    optimize_for_inference(model, 2, 7)
    found = []
    for scale in (0.0, 0.7, 0.0):
        axis.select(scale)
        found.append((bert.tiny_logits(model), bert.tiny_logits(model)))
        torch.testing.assert_close(found[-1][0], bert.tiny_logits(axis.commit(scale)), atol=4e-5, rtol=1e-4)
    assert all(torch.equal(*pair) for pair in found) and torch.equal(found[0][0], found[2][0])
    assert not torch.equal(found[0][0], found[1][0])


def test_ranks_of_a_scale() -> None:
    """ceil((1 - s) r), at least 1, without the noise of floating point."""
    assert ranks_at({"rank_layer": 10, "rank_dim": 3}, 0.3) == {"rank_layer": 7, "rank_dim": 3}
    assert ranks_at({"rank_dim": 10}, 0.99) == {"rank_dim": 1}
    assert ranks_at({"rank_dim": 256}, 0.25) == {"rank_dim": 192}


def test_what_has_no_order_of_components_is_refused() -> None:
    """A dense model, tanh between shared and own components, more cores than blocks, ranks above the bank's."""
    with pytest.raises(ModelError, match="not decomposed"):
        RankAxis(bert.tiny_bert(), (0.0,))
    expanded = bert.decomposed(bert.decompositions()["expanded"])
    for call in (lambda: RankAxis(expanded, (0.0,)), lambda: sort_components(expanded)):
        with pytest.raises(ModelError, match="With is_expand, tanh mixes"):
            call()
    drawn = bert.tiny_bert()
    apply_edit(drawn, DecompositionConfig("IV", "san", 9, 4, 4), from_scratch=True)
    with pytest.raises(ModelError, match="9 cores for 8 blocks"):
        sort_components(drawn)
    with pytest.raises(ModelError, match="rank_dim 8 is not between 1 and 7"):
        at_ranks(CASES["rank IV"].make(), {"rank_layer": 3, "rank_condim": 4, "rank_dim": 8})


# --- layers and ratio ------------------------------------------------------------------------------------------------


def test_layers_count_from_the_original_depth() -> None:
    """Three of four layers are scale 0.25 of a model that has three left; edits on the depth are refused."""
    model = bert.tiny_bert(num_hidden_layers=4)
    apply_edit(model, first_layers(3))
    made: Any = LayersAxis(model, (0.25, 0.5)).commit(0.5)
    edit = find_edit(made, type(first_layers(1)))
    assert edit is not None and edit.layers == (0, 1) and made.config.num_hidden_layers == 4
    with pytest.raises(ModelError, match="expected 1 to 2"):
        LayersAxis(made, (0.25, 0.5))
    with pytest.raises(ModelError, match="has nested layers already"):
        LayersAxis(model, (0.25,))
    with pytest.raises(ModelError, match="the model carries 'decomposition'"):
        LayersAxis(CASES["rank IV"].make(), (0.0,))


def test_a_committed_ratio_is_on_when_it_is_loaded(tmp_path: Path) -> None:
    """Without a call of set_ratio; a ratio that the bank lacks cannot be the one in use."""
    axis = RatioAxis(_with_plugins(), (0.0, 0.5, 0.75))
    axis.commit(0.75).save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert current_ratio(again) == 4 and find_edit(again, PluginConfig) == PluginConfig(
        (4,), bottleneck=5, residual_scale=1.0, ratio=4
    )
    with pytest.raises(ModelError, match=r"The ratio in use is 1 or one of \[4\], found 2"):
        PluginConfig((4,), ratio=2)
