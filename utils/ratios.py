"""Metrics of a model with plugins at several ratios, and their means: what selects the best plugins."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def over_ratios(ratios: Sequence[int], at_ratio: Callable[[int], dict[str, float]]) -> dict[str, float]:
    """The means over the ratios (`accuracy`) and, of several, the metrics at each (`accuracy_k4`); at least one."""
    per_ratio = {k: at_ratio(k) for k in ratios}
    means = {name: sum(v[name] for v in per_ratio.values()) / len(ratios) for name in per_ratio[ratios[0]]}
    if len(ratios) == 1:
        return means
    return means | {f"{name}_k{k}": value for k, values in per_ratio.items() for name, value in values.items()}
