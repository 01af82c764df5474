"""The measures of the GLUE benchmark (Wang et al., 2019, section 3), on class ids or regression scores.

Shapes: N examples; every function takes two array-likes of shape (N,), predictions first. Where a measure is
undefined (0/0: no positive class at all, or a constant input to a correlation) it is 0.0, never NaN: a NaN
never compares as better and would silently switch best-model selection off.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn import metrics as sk

from metric.errors import MetricError

Scores = NDArray[np.float64]
Classes = NDArray[np.int64]


def _pair(predictions: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Both arguments as arrays of one equal shape (N,), N > 0."""
    predicted, expected = np.asarray(predictions), np.asarray(labels)
    for name, array in (("predictions", predicted), ("labels", expected)):
        if array.ndim != 1:
            raise MetricError(f"{name} have shape {array.shape}, expected one number per example: shape (N,)")
    if len(predicted) != len(expected):
        raise MetricError(f"{len(predicted)} predictions for {len(expected)} labels, expected one each")
    if len(predicted) == 0:
        raise MetricError("no examples to score, expected at least one")
    return predicted, expected


def _classes(predictions: ArrayLike, labels: ArrayLike) -> tuple[Classes, Classes]:
    """Both arguments as class ids."""

    def whole(name: str, array: NDArray[np.generic]) -> Classes:
        numbers = _numbers(name, array)
        rounded = numbers.astype(np.int64)
        if not np.array_equal(rounded, numbers):
            raise MetricError(f"{name} hold {numbers[rounded != numbers][0]}, expected whole class ids")
        return rounded

    predicted, expected = _pair(predictions, labels)
    return whole("predictions", predicted), whole("labels", expected)


def _numbers(name: str, array: NDArray[np.generic]) -> Scores:
    """The array as finite floats."""
    try:
        numbers = array.astype(np.float64)
    except (TypeError, ValueError):
        raise MetricError(f"{name} hold {array[0]!r}, expected numbers") from None
    if not np.isfinite(numbers).all():
        raise MetricError(f"{name} hold {numbers[~np.isfinite(numbers)][0]}, expected finite numbers")
    return numbers


def _binary(predictions: ArrayLike, labels: ArrayLike) -> tuple[Classes, Classes]:
    """Both arguments as class ids 0 and 1."""
    predicted, expected = _classes(predictions, labels)
    for name, array in (("predictions", predicted), ("labels", expected)):
        if not np.isin(array, (0, 1)).all():
            other = array[~np.isin(array, (0, 1))][0]
            raise MetricError(f"{name} hold class {other}, expected only 0 and 1 for the binary F1")
    return predicted, expected


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The fraction of predictions (N,) that equal their label (N,)."""
    predicted, expected = _classes(predictions, labels)
    return float(sk.accuracy_score(expected, predicted))


def f1(predictions: ArrayLike, labels: ArrayLike) -> float:
    """F1 of class 1, on class ids 0 and 1 (N,); 0.0 where no positive class is predicted or labelled."""
    predicted, expected = _binary(predictions, labels)
    return float(sk.f1_score(expected, predicted, pos_label=1, zero_division=0.0))


def macro_f1(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The mean of the classes' F1 over every class id that occurs in predictions (N,) or labels (N,)."""
    predicted, expected = _classes(predictions, labels)
    return float(sk.f1_score(expected, predicted, average="macro", zero_division=0.0))


def matthews(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Matthews correlation in [-1, 1] of class ids (N,); 0.0 where either side is constant."""
    predicted, expected = _classes(predictions, labels)
    if np.ptp(predicted) == 0 or np.ptp(expected) == 0:
        return 0.0
    return float(sk.matthews_corrcoef(expected, predicted))


def _correlation(
    measure: Callable[[Scores, Scores], tuple[float, float]], predictions: ArrayLike, labels: ArrayLike
) -> float:
    predicted, expected = _pair(predictions, labels)
    first, second = _numbers("predictions", predicted), _numbers("labels", expected)
    if np.ptp(first) == 0.0 or np.ptp(second) == 0.0:
        return 0.0
    return float(measure(first, second)[0])


def pearson(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Pearson's linear correlation in [-1, 1] of scores (N,); 0.0 where either side is constant."""
    return _correlation(stats.pearsonr, predictions, labels)


def spearman(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Spearman's rank correlation in [-1, 1] of scores (N,), ties averaged; 0.0 where a side is constant."""
    return _correlation(stats.spearmanr, predictions, labels)


def pearson_spearman(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The mean of the two correlations, the number that GLUE reports for STS-B."""
    return (pearson(predictions, labels) + spearman(predictions, labels)) / 2


def accuracy_f1(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The mean of accuracy and F1 of class 1, by which MiniDisc's release selects on MRPC and QQP."""
    return (accuracy(predictions, labels) + f1(predictions, labels)) / 2


METRICS: Mapping[str, Callable[[ArrayLike, ArrayLike], float]] = MappingProxyType(
    {
        "accuracy": accuracy,
        "f1": f1,
        "macro_f1": macro_f1,
        "acc_and_f1": accuracy_f1,
        "matthews": matthews,
        "pearson": pearson,
        "spearman": spearman,
        "pearson_spearman": pearson_spearman,
    }
)

GLUE_METRICS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cola": ("matthews", "accuracy"),
        "sst2": ("accuracy",),
        "mrpc": ("f1", "accuracy"),
        "stsb": ("pearson_spearman", "pearson", "spearman"),
        "qqp": ("accuracy", "f1"),
        "mnli": ("accuracy",),
        "mnlimm": ("accuracy",),
        "qnli": ("accuracy",),
        "rte": ("accuracy",),
        "wnli": ("accuracy",),
    }
)


def compute(names: str | Sequence[str], predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Several measures of the same predictions.

    Args:
        names: a GLUE task (a key of `GLUE_METRICS`), one metric, or several metrics (keys of `METRICS`).
        predictions: class ids or scores, shape (N,).
        labels: class ids or scores, shape (N,).

    Returns:
        metric name -> value, in the order of the names.

    Raises:
        MetricError: an unknown name, sizes that differ, no examples, or values of the wrong kind.
    """
    wanted = GLUE_METRICS.get(names, (names,)) if isinstance(names, str) else tuple(names)
    unknown = [name for name in wanted if name not in METRICS]
    if unknown:
        raise MetricError(
            f"unknown metric {unknown[0]!r}, expected one of {', '.join(METRICS)}"
            f" or a task out of {', '.join(GLUE_METRICS)}"
        )
    return {name: METRICS[name](predictions, labels) for name in wanted}
