"""The language of budgets, the Pareto front and the choice, as pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import UserError
from utils.plan.budget import QUANTITIES, parse_budget
from utils.plan.choose import Candidate, choose, dominates, fits, pareto_front

NAMES = ("latency_ms", "macs", "params", "delta_bytes")
#: Few values, so that ties and dominated points are frequent.
_COST = st.integers(0, 4).map(float)
_CANDIDATES = st.lists(
    st.tuples(st.fixed_dictionaries(dict.fromkeys(NAMES, _COST)), st.none() | st.integers(0, 3).map(float)),
    min_size=1,
    max_size=7,
).map(lambda rows: [Candidate(str(i), costs, metric) for i, (costs, metric) in enumerate(rows)])
_BOUNDS = st.dictionaries(st.sampled_from(NAMES), _COST, min_size=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency_ms<=8", [("latency_ms", 8.0, False)]),
        (" macs <= 0.5x , params<=2.5M", [("macs", 0.5, True), ("params", 2.5e6, False)]),
        ("delta_bytes<=.5k,macs<=3G", [("delta_bytes", 500.0, False), ("macs", 3e9, False)]),
        ("params<=1e6", [("params", 1e6, False)]),
        ("latency_ms<=0.5, delta_bytes<=0", [("latency_ms", 0.5, False), ("delta_bytes", 0, False)]),
    ],
)
def test_a_budget_is_read(text, expected):
    assert [(limit.quantity, limit.value, limit.is_relative) for limit in parse_budget(text)] == expected


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 1, "expected one of latency_ms"),
        ("latency<=8", 1, "'latency' is unknown"),
        ("macs<8", 5, "expected <="),
        ("macs<=", 7, "expected a number"),
        ("macs<=-1", 7, "expected a number"),
        ("macs<=8q", 8, "unknown suffix 'q'"),
        ("macs<=8 params<=9", 9, "unknown suffix 'params'"),
        ("macs<=8,", 9, "expected one of"),
        ("params<=8;macs<=8", 10, "expected a comma"),
        ("macs<=8, macs<=9", 10, "macs is limited twice"),
        ("macs<=1e999", 7, "too large"),
        ("macs<=0.5", 7, "0.5 times the whole model's is written 0.5x"),
        ("latency_ms<=0.5, params <= 1", 28, "1 times the whole model's is written 1x"),
        ("memory_bytes<=.0004k", 15, "no model keeps memory_bytes<=0.4; 0.4 times"),
    ],
)
def test_what_is_no_budget_is_refused_with_its_place(text, position, words):
    with pytest.raises(UserError) as caught:
        parse_budget(text)
    sentence, line, caret = str(caught.value).split("\n")
    assert words in sentence and f"character {position}:" in sentence
    assert line[2:] == text and caret.index("^") - 2 == position - 1


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("latency_msmacs<=,.0123456789xkMG e\t\n")))
def test_any_text_is_a_budget_or_a_sentence(text):
    try:
        limits = parse_budget(text)
    except UserError:
        return
    assert limits and all(limit.quantity in QUANTITIES and limit.value >= 0 for limit in limits)


def test_x_counts_from_the_whole_model_and_needs_one():
    limit = parse_budget("macs<=0.5x")[0]
    assert limit.bound({"macs": 10.0}) == 5.0
    with pytest.raises(UserError, match="no whole model is known"):
        limit.bound(None)
    with pytest.raises(UserError, match="has macs 0"):
        limit.bound({"macs": 0.0})


@settings(deadline=None)
@given(_CANDIDATES, st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
def test_the_front_is_what_was_measured_and_is_not_dominated(candidates, quantities):
    front = pareto_front(candidates, quantities)
    known = [one for one in candidates if one.metric is not None]
    assert bool(front) == bool(known) and all(one.metric is not None for one in front)
    for one in known:
        better = [other for other in candidates if dominates(other, one, quantities)]
        assert (one in front) == (not better)
        # Dominated by something on the front, so that the front alone has all that is worth having.
        assert one in front or any(other in front for other in better)


@settings(deadline=None)
@given(_CANDIDATES, _BOUNDS)
def test_the_chosen_one_fits_has_the_best_metric_and_is_the_cheapest_of_equals(candidates, bounds):
    allowed = [one for one in candidates if fits(one, bounds)]
    choice = choose(candidates, bounds)
    if choice is None:
        assert not allowed
        return
    taken, measured = choice.candidate, [one for one in allowed if one.metric is not None]
    assert taken in allowed
    if not measured:
        assert (
            all(one.costs["macs"] <= taken.costs["macs"] for one in allowed)
            and "none of them is known" in choice.reason
        )
        return
    assert taken.metric == max(one.metric for one in measured)
    first = next(iter(bounds))
    assert all(one.costs[first] >= taken.costs[first] for one in measured if one.metric == taken.metric)
    # So the choice lies on the front of what fits and was measured.
    assert taken in pareto_front(measured, list(bounds))


def test_of_equal_metrics_the_cheapest_in_the_first_condition_is_taken_and_dominates():
    """In the order of the budget, not of the alphabet; a point without metric neither dominates nor is dominated."""
    one, other = (
        Candidate("one", {"macs": 1.0, "latency_ms": 5.0}, 0.5),
        Candidate("other", {"macs": 2.0, "latency_ms": 4.0}, 0.5),
    )
    for order, name in ((("macs", "latency_ms"), "one"), (("latency_ms", "macs"), "other")):
        choice = choose([one, other], dict.fromkeys(order, 9.0))
        assert choice is not None and choice.candidate.name == name
    assert dominates(one, other, ["macs"]) and dominates(other, one, ["latency_ms"])
    assert not dominates(one, other, ["macs", "latency_ms"]) and not dominates(one, one, ["macs"])
    unknown = Candidate("unknown", {"macs": 1.0, "latency_ms": 1.0})
    assert pareto_front([one, other, unknown], ["macs"]) == [one]
    assert pareto_front([unknown], ["macs"]) == []


def test_without_any_metric_the_largest_that_fits_is_taken():
    candidates = [Candidate(str(i), {"macs": float(i)}) for i in range(4)]
    choice = choose(candidates, {"macs": 2.0})
    assert choice is not None and choice.candidate.name == "2"


def test_the_reason_names_ties_and_what_was_left_out():
    costs = [{"macs": float(i)} for i in range(4)]
    candidates = [
        Candidate(f"p{i}", row, metric)
        for i, (row, metric) in enumerate(zip(costs, (0.5, 0.5, None, 0.9), strict=True))
    ]
    choice = choose(candidates, {"macs": 2.0})
    assert choice is not None and choice.candidate.name == "p0"
    assert choice.reason == (
        "3 of 4 points fit the budget, and p0 has the best development metric of them (as has 1 other, which costs "
        "more); 1 of unknown metric was left out"
    )
