"""The one training and evaluation loop, its checkpoints, logs and processes."""

from utils.engine.checkpoint import Progress
from utils.engine.config import NO_STEP_LIMIT, TrainerConfig
from utils.engine.files import atomic_directory, write_json
from utils.engine.logs import RunLog
from utils.engine.precision import AskedPrecision, Precision, PrecisionChoice, choose_precision
from utils.engine.run_directory import RunDirectory, environment
from utils.engine.runtime import Runtime, seed_everything
from utils.engine.trainer import Trainer

__all__ = [
    "NO_STEP_LIMIT",
    "AskedPrecision",
    "Precision",
    "PrecisionChoice",
    "Progress",
    "RunDirectory",
    "RunLog",
    "Runtime",
    "Trainer",
    "TrainerConfig",
    "atomic_directory",
    "choose_precision",
    "environment",
    "seed_everything",
    "write_json",
]
