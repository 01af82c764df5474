"""MiniDisc's pruning: whole heads and neurons by importance, nested widths, real shrink; and dropping layers."""

from model.pruning.axis import SparsityAxis
from model.pruning.commit import committed, sparsify, sparsity_of
from model.pruning.config import PruningConfig
from model.pruning.importance import Importance, measure_importance
from model.pruning.layer_drop import LayerDropConfig, first_layers
from model.pruning.layers_axis import LayersAxis, with_layers
from model.pruning.nested import NestedWidths
from model.pruning.places import Places, places_of
from model.pruning.widths import Widths, widths_at

__all__ = [
    "Importance",
    "LayerDropConfig",
    "LayersAxis",
    "NestedWidths",
    "Places",
    "PruningConfig",
    "SparsityAxis",
    "Widths",
    "committed",
    "first_layers",
    "measure_importance",
    "places_of",
    "sparsify",
    "sparsity_of",
    "widths_at",
    "with_layers",
]
