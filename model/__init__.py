"""Models and the edits that compress them. Importing this package registers the compressed model types."""

from model.auto import register
from model.compression import EditConfig, apply_edit, edits_of, find_edit, undo_edit
from model.decomposition import DecompositionConfig, optimize_for_inference, relative_errors
from model.decomposition.embeddings import EmbeddingConfig
from model.errors import ModelError
from model.lora import LoraConfig
from model.plugin import PluginConfig, available_ratios, current_ratio, set_ratio, use_ratio

register()

__all__ = [
    "DecompositionConfig",
    "EditConfig",
    "EmbeddingConfig",
    "LoraConfig",
    "ModelError",
    "PluginConfig",
    "apply_edit",
    "available_ratios",
    "current_ratio",
    "edits_of",
    "find_edit",
    "optimize_for_inference",
    "relative_errors",
    "set_ratio",
    "undo_edit",
    "use_ratio",
]
