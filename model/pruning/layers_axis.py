"""Depth as an axis of scales for the schedules of `model.schedule`: the first layers of an encoder."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel

from model.backbone import describe_stacks, spec_for
from model.compression import edits_of, find_edit, record_edit
from model.errors import ModelError
from model.pruning.layer_drop import LayerDropConfig, first_layers

Model = TypeVar("Model", bound=PreTrainedModel)

#: A number of layers from a fraction may be this far from a whole one.
_WHOLE = 1e-6


class NestedLayers(nn.ModuleList):
    """A list of layers of which the first `used` are there for who goes through it; all stay registered in it.

    So an encoder runs, and shows, the first layers alone, while parameters, state dict and their names are those of
    all layers.
    """

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self._modules = layers._modules
        self.training = layers.training
        self.used = len(self._modules)

    def __len__(self) -> int:
        return self.used

    def __iter__(self) -> Iterator[nn.Module]:
        return islice(iter(self._modules.values()), self.used)

    def plain(self) -> nn.ModuleList:
        """The list as it was."""
        return nn.ModuleList(self._modules.values()).train(self.training)


class LayersAxis:
    """The first layers of a model's encoder, at a grid of scales.

    A scale is the fraction of the encoder's layers that are gone, counted from the original depth. Like every edit of
    the depth it comes first: the model carries none but dropped layers.

    Args:
        model: runs the layers of the scale selected last until `close`.
        grid: rising; each scale stands for a whole number of layers, which the model has.

    Raises:
        ModelError: a scale does not, the grid does not rise, or the model carries other edits.
    """

    name = "layers"

    def __init__(self, model: PreTrainedModel, grid: Sequence[float]) -> None:
        self.grid = tuple(grid)
        if not self.grid or any(low >= high for low, high in pairwise(self.grid)):
            raise ModelError(f"A grid of layers rises in what is gone, found {list(self.grid)}.")
        _check_edits(model)
        self._slot = spec_for(model).layer_list(model)
        layers: Any = self._slot.module
        if isinstance(layers, NestedLayers):
            raise ModelError(f"{type(model).__name__} has nested layers already: close those first.")
        self.model, self._depth = model, len(layers)
        for scale in self.grid:
            self._count(scale)
        self.layers = NestedLayers(layers)
        self._slot.replace(self.layers)
        self.select(self.grid[0])

    def select(self, scale: float) -> None:
        """Make the encoder end behind the last layer of `scale`; nothing is copied.

        Raises:
            ModelError: it stands for no number of layers that the model has.
        """
        self.layers.used = self._count(scale)

    def commit(self, scale: float) -> PreTrainedModel:
        """A new model with the layers of `scale` alone; the present one goes on as it is."""
        return with_layers(self.model, self._count(scale))

    def close(self) -> None:
        """Give the plain model back, with all its layers."""
        self._slot.replace(self.layers.plain())

    def _count(self, scale: float) -> int:
        whole = spec_for(self.model).sizes(self.model.config).layers
        count = round((1 - scale) * whole)
        if abs((1 - scale) * whole - count) > _WHOLE or not 1 <= count <= self._depth:
            raise ModelError(
                f"At scale {scale:g} of {whole} layers {(1 - scale) * whole:g} are left, expected 1 to {self._depth}."
            )
        return count


def with_layers(model: Model, count: int) -> Model:
    """A copy of `model` with the first `count` of the layers that it has, and nothing else of them.

    Raises:
        ModelError: it has fewer, or carries an edit that is stacked on its depth.
    """
    _check_edits(model)
    before = find_edit(model, LayerDropConfig)
    twin = copy.deepcopy(model)
    twin.zero_grad(set_to_none=True)
    slot = spec_for(twin).layer_list(twin)
    if isinstance(slot.module, NestedLayers):
        slot.replace(slot.module.plain())
    edit = first_layers(count)
    edit.apply(twin)
    record_edit(twin, edit if before is None else replace(before, layers=before.layers[:count]))
    return twin


def _check_edits(model: PreTrainedModel) -> None:
    kinds = [edit.kind for edit in edits_of(model)]
    if beyond := [kind for kind in kinds if kind != LayerDropConfig.kind]:
        raise ModelError(f"Layers go before any other edit, and the model carries {beyond[0]!r}.")
    if not spec_for(model).encoder_layers(model):
        raise ModelError(f"No encoder layer was found: {describe_stacks(model)}.")
