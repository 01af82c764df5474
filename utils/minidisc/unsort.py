"""A sorted teacher as the dense model that it was, for students that lose layers instead of heads and neurons."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING

from dataset import Task
from model import PruningConfig, find_edit
from model.backbone import family_of
from model.pretrained import new_model
from model.pruning import places_of
from model.pruning.surgery import reorder
from utils.tucker.loading import classifier_class


def unsorted(model: Any, task: Task) -> Any:
    """A dense copy that computes what a sorted `model` does; any other model itself.

    Its heads are in their original order, as T5's position biases have it; neurons stay sorted, which changes nothing.
    """
    edit = find_edit(model, PruningConfig)
    if edit is None or edit.sparsity:
        return model
    places = places_of(model)
    heads, widths = edit.resolved(places)
    back = [torch.tensor(ids).argsort() for ids in heads]
    reorder(places, back, [torch.arange(count) for count in widths.neurons])
    values = {key: value for key, value in model.config.to_dict().items() if key not in ("compression", "model_type")}
    dense = new_model(classifier_class(task), CONFIG_MAPPING[family_of(model.config)].from_dict(values))
    wanted = dense.state_dict().keys()
    dense.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name in wanted})
    return dense
