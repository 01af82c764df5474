"""The one training and evaluation loop, its checkpoints, logs and processes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utils.engine.checkpoint import Progress
    from utils.engine.config import TrainerConfig
    from utils.engine.logs import RunLog
    from utils.engine.names import NO_STEP_LIMIT, AskedPrecision, Precision
    from utils.engine.precision import PrecisionChoice, choose_precision
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
    "choose_precision",
    "environment",
    "seed_everything",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """A public name, when it is first asked for: most need torch, which takes seconds to load."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from utils.engine import names

        modules: list[Any] = [names]
        if name not in vars(names):
            from utils.engine import (
                checkpoint,
                config,
                logs,
                precision,
                run_directory,
                runtime,
                trainer,
            )

            modules = [checkpoint, config, logs, precision, run_directory, runtime, trainer]
        globals()[name] = found = next(vars(module)[name] for module in modules if name in vars(module))
        return found
