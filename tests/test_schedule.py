"""Schedules on an axis that is no compression at all: paths, the lambda-tradeoff, the sandwich."""

from __future__ import annotations

import ast
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import model.schedule
import notation
from model import ModelError
from model.schedule import Choice, Sandwich, choose, find_scale, tradeoff
from notation import NotationError, Step, parse_path, parse_paths, parse_step

GRID = (0.5, 0.7, 0.9, 0.95)


class Prefixes:
    """An axis: the first (1 - scale) of a vector's numbers take part."""

    name = "sparsity"
    grid = GRID

    def __init__(self, owner: Any) -> None:
        self.owner, self.selected = owner, list[float]()

    def select(self, scale: float) -> None:
        self.owner.kept = round((1 - scale) * len(self.owner.weight))
        self.selected.append(scale)

    def commit(self, scale: float) -> Any:
        raise NotImplementedError


class Distance(nn.Module):
    """An objective: the mean squared distance of what takes part from the batch's numbers times 2."""

    def __init__(self, size: int = 20) -> None:
        super().__init__()
        self.weight, self.kept, self.asked = nn.Parameter(torch.arange(size) / size), size, 0

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        self.asked += 1
        return batch["x"] * 2

    def loss(self, batch: dict[str, Tensor], targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        value = (self.weight[: self.kept] - targets[: self.kept]).square().sum()
        return value, {"hidden_loss": value.detach()}


def sandwich(**changes: Any) -> Sandwich:
    settings: dict[str, Any] = {"scales": GRID, "lam": 0.2, "target": 0.9}
    objective = Distance()
    return Sandwich(objective, Prefixes(objective), **{**settings, **changes})


def batch() -> dict[str, Tensor]:
    return {"x": torch.linspace(-1, 1, 20)}


def test_the_package_knows_no_compression() -> None:
    """Of model/ it imports nothing but itself and the error."""
    for file in Path(model.schedule.__file__).parent.glob("*.py"):
        ours = {name for name in imported(file) if name.startswith("model.")}
        assert all(name == "model.errors" or name.startswith("model.schedule") for name in ours), file


def test_how_scales_are_written_needs_nothing() -> None:
    """Neither a library nor anything of the project: flags are read before any is loaded."""
    for file in Path(notation.__file__).parent.glob("*.py"):
        tops = {name.partition(".")[0] for name in imported(file)}
        assert tops <= {"notation", *sys.stdlib_module_names}, file


def imported(file: Path) -> set[str]:
    """The modules that a file takes names from."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90S", ("sparsity", 0.9)), (" 4L ", ("layers", 4)), ("85.5s", ("sparsity", 0.855)), ("0S", ("sparsity", 0.0))],
)
def test_a_step_is_a_fraction_or_a_number_of_layers(text: str, expected: tuple[str, float]) -> None:
    """Percent become a fraction, once."""
    assert parse_step(text) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90", "'90' is no scale: expected a sparsity such as 90S, .*, layers such as 4L or "),
        ("S", "'S' is no scale"),
        ("", "'' is no scale"),
        ("nanS", "'nanS' is no scale"),
        ("1.2.3S", "'1.2.3' is no number"),
        ("100S", "below 100 percent, found 100"),
        ("-5S", "found -5"),
        ("4.5L", "whole number of at least 1, found 4.5"),
        ("0L", "found 0"),
        ("90X", "'90X' is no scale"),
    ],
)
def test_what_is_no_step_is_told(text: str, found: str) -> None:
    """The sentence says what was found and what was expected."""
    with pytest.raises(NotationError, match=found):
        parse_step(text)


def test_paths_share_the_last_letter() -> None:
    """`80,90S`, `80S,90S` and `6,4L`; one step is a path as well."""
    assert parse_path("80,90S") == parse_path("80S, 90S") == (Step("sparsity", 0.8), Step("sparsity", 0.9))
    assert parse_path("6,4L") == (Step("layers", 6), Step("layers", 4))
    assert parse_path("90S") == (parse_step("90S"),)
    assert len(parse_path("50,60,70,80,85,90,95S")) == 7
    assert [step.text for step in parse_path("6,4L")] == ["6L", "4L"]
    assert [step.text for step in parse_path("5,85.5S")] == ["5S", "85.5S"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90,80S", "from 90S to 80S: each step has to be smaller than the one before it, that is a higher sparsity"),
        ("4,6L", "from 4L to 6L: each step has to be smaller than the one before it, that is fewer layers"),
        ("90,90S", "from 90S to 90S"),
        ("100,95S", "'100' in '100,95S'"),
        ("6L,90S", "mixes"),
        ("80,,90S", "'' in '80,,90S' is no scale"),
        ("80,90", "'80' in '80,90' is no scale"),
    ],
)
def test_paths_go_downwards_in_size(text: str, found: str) -> None:
    """Upwards, twice the same and two letters are refused."""
    with pytest.raises(NotationError, match=found):
        parse_path(text)


def test_path_steps_are_compared_as_numbers() -> None:
    """5 is before 10 and 10 layers are more than 5, whatever their texts are (M-11)."""
    assert parse_path("5,10S") == (Step("sparsity", 0.05), Step("sparsity", 0.1))
    assert parse_path("10,5L") == (Step("layers", 10), Step("layers", 5))
    with pytest.raises(NotationError, match="from 10S to 5S"):
        parse_path("10,5S")


def test_several_paths_are_separated_by_semicolons() -> None:
    """Each has its own letter; the same one twice is a mistake."""
    assert parse_paths("80,90S;6,4L") == (parse_path("80,90S"), parse_path("6,4L"))
    with pytest.raises(NotationError, match="80S,90S comes twice"):
        parse_paths("80,90S;80S,90S")


# --- the lambda-tradeoff ---------------------------------------------------------------------------------------------


def test_tradeoff_adds_a_share_of_the_scale() -> None:
    """metric + lambda times the fraction that is gone."""
    assert tradeoff(0.75, 0.5, 0.2) == 0.85


def test_any_lambda_counts() -> None:
    """0.2 and 0.5 choose other scales than 0 and 1 do (M-10: only whole numbers could be given)."""
    best = {0.5: 0.90, 0.6: 0.89, 0.7: 0.87, 0.8: 0.84, 0.85: 0.82, 0.9: 0.78}
    assert [choose(best, lam, 0.9).scale for lam in (0, 0.2, 0.5, 1)] == [0.5, 0.6, 0.85, 0.9]


def test_scales_are_compared_as_numbers() -> None:
    """0.05 is below 0.1 and 0.95 below 1.0, though "5" > "10" and "95" > "100" (M-11)."""
    assert choose({0.0: 0.5, 0.05: 0.9, 0.1: 0.1}, 0.2, 0.1).scale == 0.05
    assert choose({0.5: 0.5, 0.95: 0.9, 1.0: 0.5}, 0.2, 1.0).scale == 0.95
    assert choose({0.5: 0.5, 0.9: 0.5, 1.0: 0.9}, 0.2, 0.9).scale == 0.9


def test_a_choice_above_the_target_becomes_the_target_with_its_own_tradeoff() -> None:
    """Scores stay comparable; the original's plain metric is there on request (M-12)."""
    best = {0.7: 0.5, 0.9: 0.6, 0.95: 0.9}
    found = choose(best, 0.2, 0.9)
    assert (found.scale, found.score) == (0.9, 0.6 + 0.9 * 0.2)
    assert "0.95" in found.reason
    assert choose(best, 0.2, 0.9, drop_clamped_term=True).score == 0.6


def test_a_score_that_rises_belongs_to_a_scale_that_has_just_improved() -> None:
    """For any course of evaluations: so the weights to keep are those of now (the original's scores break it)."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        best = dict.fromkeys(GRID, math.nan)
        highest = -math.inf
        for _ in range(6):
            before = dict(best)
            for scale in GRID:
                metric = round(float(torch.rand((), generator=generator)), 1)
                best[scale] = metric if math.isnan(best[scale]) else max(best[scale], metric)
            found = choose(best, 0.2, 0.9)
            if found.score > highest:
                highest = found.score
                assert not best[found.scale] <= before[found.scale]


def test_metrics_are_fractions_so_that_lambda_matters() -> None:
    """An F1 in percent chooses as if lambda were 0; the sandwich refuses one (M-15)."""
    fractions = {0.5: 0.91, 0.7: 0.90, 0.9: 0.85}
    assert choose(fractions, 0.2, 0.9).scale == 0.7
    assert choose({scale: 100 * metric for scale, metric in fractions.items()}, 0.2, 0.9).scale == 0.5
    with pytest.raises(ModelError, match=r"The metric at sparsity 0\.5 is 91: lambda belongs to fractions"):
        sandwich().update({0.5: 91.0})


def test_scores_of_zero_and_below_are_choices() -> None:
    """A Matthews correlation of 0 or less has an assistant too (M-21)."""
    assert choose({0.5: 0.0, 0.9: 0.0}, 0, 0.9).scale == 0.5
    assert choose({0.5: -0.1, 0.9: -0.4}, 0, 0.9) == Choice(
        0.5, -0.1, "largest tradeoff at λ = 0", {0.5: (-0.1, -0.1), 0.9: (-0.4, -0.4)}
    )


@pytest.mark.parametrize("last", [False, True])
def test_nothing_evaluated_is_told(last: bool) -> None:
    """Where the original went on with an empty path (M-21)."""
    with pytest.raises(ModelError, match=r"No scale from the teacher's 0 upwards|The target 0.9"):
        choose(dict.fromkeys(GRID, math.nan), 0.2, 0.9, last=last)


def test_a_target_outside_the_grid_is_told() -> None:
    """With the scales that there are (M-22)."""
    with pytest.raises(ModelError, match=r"The target 0.75 is none of the scales 0.5, 0.9"):
        choose({0.5: 0.8, 0.9: 0.7}, 0.2, 0.75, last=True)
    with pytest.raises(ModelError, match=r"The target sparsity 0.75 is none of the scales 0.5, 0.7, 0.9, 0.95"):
        sandwich(target=0.75)


def test_candidates_begin_at_the_teachers_own_scale() -> None:
    """An assistant is not larger than its teacher; what was not measured is no candidate."""
    best = {0.5: 0.95, 0.7: 0.8, 0.9: 0.7}
    assert choose(best, 0, 0.9, teacher_scale=0.7).scale == 0.7
    assert choose({**best, 0.7: math.nan}, 0, 0.9, teacher_scale=0.7).scale == 0.9


def test_the_last_iteration_chooses_the_target_by_its_metric() -> None:
    """Whatever the tradeoffs say."""
    found = choose({0.5: 0.9, 0.9: 0.5}, 0.2, 0.9, last=True)
    assert (found.scale, found.score, found.table[0.5]) == (0.9, 0.5, (0.9, 1.0))


def test_scales_are_found_up_to_rounding() -> None:
    """90 / 100 and 1 - 0.1 are one scale."""
    assert find_scale((0.5, 0.9), 1 - 0.1, "target") == 0.9
    assert find_scale((0.1 + 0.2,), 0.3, "target") == 0.1 + 0.2


# --- the sandwich ----------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_scales_with_one_teacher_pass() -> None:
    """Its parts are the scales' own losses."""
    made = sandwich()
    loss, parts = made(batch())
    assert set(parts) == {"loss@50", "loss@70", "loss@90", "loss@95"}
    assert loss.item() == pytest.approx(sum(parts.values()).item() / 4)
    assert made.objective.asked == 1
    assert parts["loss@50"] > parts["loss@95"]


def test_pieces_add_up_to_the_whole() -> None:
    """Losses and gradients of one backward pass per piece are those of the sum; the teacher runs once per batch."""
    whole, pieces = sandwich(), sandwich()
    loss, parts = whole(batch())
    loss.backward()
    assert pieces.pieces == 4
    found: dict[str, Tensor] = {}
    total = 0.0
    for repeat in range(2):
        pieces.zero_grad()
        found, total = {}, 0.0
        for piece in range(pieces.pieces):
            summand, part = pieces(batch(), piece)
            summand.backward()
            found.update(part)
            total += summand.item()
        assert pieces.objective.asked == repeat + 1
    assert total == pytest.approx(loss.item()) and found == parts
    grads: Any = whole.objective.weight.grad, pieces.objective.weight.grad
    torch.testing.assert_close(*grads)
    assert pieces.axis.selected[-1] == 0.5  # type: ignore[attr-defined]


def test_the_best_metric_of_each_scale_is_kept() -> None:
    """A running maximum; NaN before the first; an evaluation of some scales leaves the others alone."""
    made = sandwich(lam=0.0)
    assert made.best_metric.isnan().all() and made.best_metric.dtype == torch.float64
    assert made.update({0.5: 0.6, 0.7: 0.5}).scale == 0.5
    assert made.update({0.5: 0.2, 0.7: 0.65, 0.9: math.nan}).scale == 0.7
    assert made.best_metric.tolist()[:2] == [0.6, 0.65] and made.best_metric[2:].isnan().all()
    with pytest.raises(ModelError, match=r"The evaluated sparsity 0\.6 is none"):
        made.update({0.6: 0.5})


def test_the_best_metrics_are_part_of_the_state() -> None:
    """Exactly, so that a resumed schedule chooses as the one that goes on."""
    first, second = sandwich(), sandwich()
    first.update(dict.fromkeys(GRID, 1 / 3))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.best_metric, second.best_metric)
    assert first.choice() == second.choice()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"scales": ()}, "No scale is left"),
        ({"scales": (0.5, 0.6)}, r"The sparsity 0\.6 is none of the scales 0\.5, 0\.7, 0\.9, 0\.95"),
        ({"scales": (0.5,)}, r"The target sparsity 0\.9 is none of the scales 0\.5\."),
        ({"lam": -1.0}, "Lambda must be a number of at least 0, found -1"),
        ({"lam": math.nan}, "found nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], found: str) -> None:
    """Before any training."""
    with pytest.raises(ModelError, match=found):
        sandwich(**changes)
