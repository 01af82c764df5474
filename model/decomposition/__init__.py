"""Tucker decomposition of a BERT encoder's matrices."""

from model.decomposition.axis import RankAxis, at_ranks, ranks_at
from model.decomposition.config import DecompositionConfig
from model.decomposition.inference import ChosenPlan, optimize_for_inference
from model.decomposition.ordering import sort_components
from model.decomposition.originals import asked_in_config, edit_from_original_config, is_original, load_original
from model.decomposition.report import BlockErrors
from model.decomposition.surgery import matrix_bank, relative_errors

__all__ = [
    "BlockErrors",
    "ChosenPlan",
    "DecompositionConfig",
    "RankAxis",
    "asked_in_config",
    "at_ranks",
    "edit_from_original_config",
    "is_original",
    "load_original",
    "matrix_bank",
    "optimize_for_inference",
    "ranks_at",
    "relative_errors",
    "sort_components",
]
