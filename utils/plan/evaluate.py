"""The development metric of points whose runs have recorded none: evaluated now, as the entry scripts do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from dataset import Task
from model.backbone import T5
from utils.engine import Runtime
from utils.errors import UserError
from utils.loading import load_tokenizer, read_task_file
from utils.opening.tokenizers import open_tokenizer
from utils.plan.load import Opened
from utils.plan.point import Point
from utils.plan.recorded import Metric
from utils.tucker.data import DataRequest, validation_sets
from utils.tucker.evaluation import evaluator_for
from utils.variator.data import DataRequest as T5DataRequest
from utils.variator.data import build_data
from utils.variator.evaluation import Evaluator

_ORIGIN = "measured now"


def evaluate(opened: Sequence[Opened], task: Task, data: str, length: int, batch: int, runtime: Runtime) -> list[Point]:
    """The points with the metric that selects models of `task`, on its development rows in `data`.

    Raises:
        UserError, DataError: the rows are not there, or a model is none for this task.
    """
    found = []
    for one in opened:
        method = _of_t5 if one.family == T5.family else _of_classifier
        with _with_settings(one):
            values = method(one, task, data, length, batch, runtime)
        metric = Metric(task.selection_metric, values[task.selection_metric], task.name, _ORIGIN)
        found.append(replace(one.point, metric=metric))
    return found


@contextmanager
def _with_settings(one: Opened) -> Iterator[None]:
    if one.point.source.plugin_task:
        raise UserError(
            f"{one.point.name}: plugins of a named task are not evaluated here; leave --data_dir out, and name a run "
            "that recorded its metric."
        )
    with one.selected():
        yield


def _of_classifier(one: Opened, task: Task, data: str, length: int, batch: int, runtime: Runtime) -> dict[str, float]:
    tokenizer = open_tokenizer(one.point.source.directory, models=[one.model])
    sets = validation_sets(DataRequest(task, data, length, batch, batch), tokenizer, runtime)
    return evaluator_for(task)(runtime, one.model, sets)()


def _of_t5(one: Opened, task: Task, data: str, length: int, batch: int, runtime: Runtime) -> dict[str, float]:
    directory = one.point.source.directory
    trained = read_task_file(directory, one.model)
    ratio = int(one.point.value) if one.point.axis == "ratio" else 1
    request = T5DataRequest(
        task.name,
        data,
        length,
        batch,
        trained.get("decoder_start") or 0,
        trained.get("logit_scale") or "hf",
        train=False,
    )
    tokenizer = load_tokenizer(directory, models=[one.model])
    rows = build_data(request, tokenizer, one.model.config, runtime)
    return Evaluator(runtime, one.model, tokenizer, rows).at_ratio(ratio)
