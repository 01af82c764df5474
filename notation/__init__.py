"""How scales and model types are written, on command lines and in files: `80,90S`, `sparsebert_cls`.

Nothing here needs a library, so that a mistake is told before any is loaded.
"""

from notation.errors import NotationError
from notation.model_types import MODEL_TYPES, ModelType, get_model_type
from notation.scales import SCALE_TOLERANCE, Step, parse_grid, parse_path, parse_paths, parse_step
from notation.units import UNITS, Axis, Unit

__all__ = [
    "MODEL_TYPES",
    "SCALE_TOLERANCE",
    "UNITS",
    "Axis",
    "ModelType",
    "NotationError",
    "Step",
    "Unit",
    "get_model_type",
    "parse_grid",
    "parse_path",
    "parse_paths",
    "parse_step",
]
