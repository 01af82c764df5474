"""Points as models that can be run: what several points share is loaded once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from dataset import Task
from model import use_ratio
from model.backbone import T5, family_of
from model.plugin import PluginConfig
from utils.errors import UserError
from utils.loading import load_t5
from utils.opening.files import architecture
from utils.opening.weights import open_delta
from utils.plan.cuts import cut
from utils.plan.files import family_in
from utils.plan.point import Point, Source
from utils.tucker.loading import load_classifier, load_saved, read_config

#: What the name of a saved model's class ends in -> how it is loaded; anything else is loaded without a head.
_HEADS = {
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForQuestionAnswering": AutoModelForQuestionAnswering,
    "ForMaskedLM": AutoModelForMaskedLM,
    "ForPreTraining": AutoModelForPreTraining,
}
#: Tokens that a T5's decoder reads in the cost figures, as in `train_t5.py --mode valid`.
_DECODER_TOKENS = 2


@dataclass(frozen=True)
class Opened:
    """A point and the model that computes it, which other ratios of the same source share."""

    point: Point
    model: Any

    @property
    def family(self) -> str:
        """The backbone's."""
        return family_of(self.model.config)

    def selected(self) -> AbstractContextManager[None]:
        """Inside, the model computes this point."""
        if self.point.axis != "ratio":
            return nullcontext()
        return use_ratio(self.model, int(self.point.value), self.point.source.plugin_task)

    def forward(self, rows: int, length: int) -> Any:
        """One forward of `rows` x `length` tokens."""
        ids = torch.ones((rows, length), dtype=torch.int64, device=self.model.device)
        if self.family == T5.family and self.model.config.is_encoder_decoder:
            return self.model(input_ids=ids, decoder_input_ids=ids.new_zeros((rows, _DECODER_TOKENS)), use_cache=False)
        return self.model(input_ids=ids)


def open_points(points: Sequence[Point], device: torch.device, task: Task | None = None) -> list[Opened]:
    """The models of `points`, in evaluation mode and without gradients.

    Args:
        task: load classifiers as models of this task, which is to be evaluated.

    Raises:
        UserError, ModelError: one cannot be loaded.
    """
    loaded: dict[Source, Any] = {}
    opened = []
    for point in points:
        if point.source not in loaded:
            loaded[point.source] = load_source(point.source, task).to(device).eval().requires_grad_(False)
        model = loaded[point.source]
        opened.append(Opened(point, cut(model, point) if point.is_cut else model))
    return opened


def load_source(source: Source, task: Task | None = None) -> Any:
    """The model of a source with all of its plugins."""
    directory = source.directory
    if family_in(directory) == T5.family:
        model = load_t5(str(directory), None, tokenizer=False).model
    elif task is not None:
        model = load_classifier(str(directory), task, trained=True)
    else:
        model = _as_saved(directory)
    if source.plugins is not None:
        open_delta(model, PluginConfig.kind, source.plugins)
    return model


def check_length(opened: Opened, length: int) -> None:
    """Refuse a length that a model has no positions for.

    Raises:
        UserError: with both numbers.
    """
    most = getattr(opened.model.config, "max_position_embeddings", None)  # T5 has relative positions
    if most is not None and length > most:
        raise UserError(f"--length {length}: {opened.point.name} has {most} positions.")


def _as_saved(directory: Path) -> Any:
    config = read_config(str(directory), classifier=True)
    name = architecture(config)
    auto: Any = next((auto for ending, auto in _HEADS.items() if name.endswith(ending)), AutoModel)
    return load_saved(auto, str(directory), config)
