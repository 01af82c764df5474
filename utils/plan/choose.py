"""Which points are worth having, and which one is taken. Pure functions on numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: quantity of `utils.plan.budget.QUANTITIES` -> value; less is better.
Costs = Mapping[str, float]


@dataclass(frozen=True)
class Candidate:
    """A point with what it costs and what it reaches.

    Attributes:
        metric: on the development set, more is better; None where it was not measured.
    """

    name: str
    costs: Costs
    metric: float | None = None


@dataclass(frozen=True)
class Choice:
    """The candidate that was taken, and the reason in a sentence."""

    candidate: Candidate
    reason: str


def dominates(one: Candidate, other: Candidate, quantities: Sequence[str]) -> bool:
    """Whether `one` is nowhere worse than `other` and somewhere better.

    Where a metric is missing it is unknown which of the two is better, so neither dominates.
    """
    if one.metric is None or other.metric is None:
        return False
    pairs = [(one.costs[name], other.costs[name]) for name in quantities]
    no_worse = one.metric >= other.metric and all(own <= theirs for own, theirs in pairs)
    return no_worse and (one.metric > other.metric or any(own < theirs for own, theirs in pairs))


def pareto_front(candidates: Sequence[Candidate], quantities: Sequence[str]) -> list[Candidate]:
    """The candidates of known metric that no other one dominates, in the given order: of one that nobody has measured
    it cannot be said that it is worth having."""
    known = [one for one in candidates if one.metric is not None]
    return [one for one in known if not any(dominates(other, one, quantities) for other in known)]


def fits(candidate: Candidate, bounds: Mapping[str, float]) -> bool:
    """Whether all conditions hold."""
    return all(candidate.costs[name] <= bound for name, bound in bounds.items())


def choose(candidates: Sequence[Candidate], bounds: Mapping[str, float]) -> Choice | None:
    """The candidate with the best metric of those that fit; of equal ones the cheapest. None if none fits.

    Where nothing that fits has a metric, the largest one is taken: of one model's points the less compressed one is
    the better guess.

    Args:
        bounds: quantity -> the most that is allowed, in the order in which ties are broken.
    """
    allowed = [candidate for candidate in candidates if fits(candidate, bounds)]
    if not allowed:
        return None
    order = list(bounds)
    measured = [candidate for candidate in allowed if candidate.metric is not None]
    if not measured:
        taken = max(allowed, key=lambda one: [one.costs[name] for name in ("macs", *order) if name in one.costs])
        return Choice(taken, _by_cost(taken, len(allowed), len(candidates)))

    def rank(one: Candidate) -> list[float]:
        assert one.metric is not None
        return [-one.metric, *(one.costs[name] for name in order), *(one.costs[name] for name in sorted(one.costs))]

    taken = min(measured, key=rank)
    return Choice(taken, _by_metric(taken, measured, len(allowed), len(candidates)))


def _by_cost(taken: Candidate, allowed: int, total: int) -> str:
    return (
        f"{_how_many(allowed, total)}, and the development metric of none of them is known: {taken.name} has the most "
        "multiply-accumulates of them, which is no promise of quality"
    )


def _by_metric(taken: Candidate, measured: Sequence[Candidate], allowed: int, total: int) -> str:
    equal = sum(one.metric == taken.metric for one in measured) - 1
    tie = f" (as has {equal} other, which costs more)" if equal == 1 else f" (as have {equal} others)" if equal else ""
    unknown = allowed - len(measured)
    left_out = f"; {unknown} of unknown metric {'was' if unknown == 1 else 'were'} left out" if unknown else ""
    best = "the only known" if len(measured) == 1 else "the best"
    return f"{_how_many(allowed, total)}, and {taken.name} has {best} development metric of them{tie}{left_out}"


def _how_many(allowed: int, total: int) -> str:
    return f"{allowed} of {total} points {'fits' if allowed == 1 else 'fit'} the budget"
