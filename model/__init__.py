"""Models and the edits that compress them. Importing this package registers the compressed model types."""

from model import quiet as _quiet  # noqa: F401  # before anything that imports Transformers
from model.auto import register
from model.compression import EditConfig, apply_edit, edits_of, find_edit, undo_edit
from model.decomposition import DecompositionConfig, RankAxis, optimize_for_inference, relative_errors, sort_components
from model.decomposition.embeddings import EmbeddingConfig
from model.enct5 import EncT5Config, EncT5ForSequenceClassification, EncT5ForTokenClassification, enct5_from_t5
from model.errors import ModelError
from model.gradient_checkpointing import enable_gradient_checkpointing
from model.lora import LoraConfig
from model.plugin import PluginConfig, RatioAxis, available_ratios, current_ratio, set_ratio, use_ratio
from model.pruning import (
    Importance,
    LayerDropConfig,
    LayersAxis,
    NestedWidths,
    PruningConfig,
    SparsityAxis,
    committed,
    first_layers,
    measure_importance,
    sparsify,
    sparsity_of,
)
from model.quantization import QuantizationConfig

register()

__all__ = [
    "DecompositionConfig",
    "EditConfig",
    "EmbeddingConfig",
    "EncT5Config",
    "EncT5ForSequenceClassification",
    "EncT5ForTokenClassification",
    "Importance",
    "LayerDropConfig",
    "LayersAxis",
    "LoraConfig",
    "ModelError",
    "NestedWidths",
    "PluginConfig",
    "PruningConfig",
    "QuantizationConfig",
    "RankAxis",
    "RatioAxis",
    "SparsityAxis",
    "apply_edit",
    "available_ratios",
    "committed",
    "current_ratio",
    "edits_of",
    "enable_gradient_checkpointing",
    "enct5_from_t5",
    "find_edit",
    "first_layers",
    "measure_importance",
    "optimize_for_inference",
    "relative_errors",
    "set_ratio",
    "sort_components",
    "sparsify",
    "sparsity_of",
    "undo_edit",
    "use_ratio",
]
