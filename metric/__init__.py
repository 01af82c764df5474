"""Measures of quality (fractions in [0, 1], except correlations in [-1, 1]) and of cost, as pure functions.

Nothing here knows of models, tasks or files of this toolkit: arrays, strings and callables in, numbers out.
"""

from metric.errors import MetricError

__all__ = ["MetricError"]
