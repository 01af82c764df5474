"""What a user should know of rows that are read without an error: one warning each, never a reason to stop."""

import logging
from collections.abc import Sequence

from dataset.errors import counted
from dataset.features import Feature
from dataset.tasks import Task

logger = logging.getLogger(__name__)

#: With fewer rows than this a metric is a matter of luck.
FEW_ROWS = 5


def warn_cut(features: Sequence[Feature], where: str, flag: str, max_length: int) -> None:
    """Count the rows that lost text to the length limit.

    Args:
        where: whose rows they are, such as `sst2, train`.
        flag: the option that sets the limit, and max_length its value.
    """
    warn_cut_rows(sum(feature.is_cut for feature in features), len(features), where, flag, max_length)


def warn_cut_rows(cut: int, num_rows: int, where: str, flag: str, max_length: int) -> None:
    """As `warn_cut`, of rows that are counted already."""
    if cut:
        rows = f"{cut:,} of {counted(num_rows, 'row')}"
        are = "is longer than {} and is cut" if cut == 1 else "are longer than {} and are cut"
        logger.warning("%s: %s %s", where, rows, are.format(f"{flag} {max_length} tokens"))


def warn_little_told(task: Task, labels: Sequence[int | float | None], where: str) -> None:
    """Say where a development set cannot tell a good model from a bad one.

    Args:
        labels: those of its rows, class ids or scores.
        where: its file or folder.
    """
    if len(set(labels)) > 1 or len(labels) < 2 or (one := labels[0]) is None:
        warn_few_rows(task, len(labels), where)
        return
    if task.kind == "regression":
        reason = f"all {len(labels):,} rows have the score {one:g}, and nothing correlates with that"
    else:
        reason = f"all {len(labels):,} rows have the label {task.labels[int(one)]}, and a constant answer is perfect"
    logger.warning("%s: the development set of %s tells nothing: %s", where, task.name, reason)


def warn_few_rows(task: Task, num_rows: int, where: str) -> None:
    """Say where a development set is so small that its metrics are a matter of luck."""
    if num_rows < FEW_ROWS:
        rows = counted(num_rows, "row")
        logger.warning("%s: the development set of %s tells little: it has %s", where, task.name, rows)
