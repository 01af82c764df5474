"""The output directory of a run: who may write into it, and what stands beside the weights."""

from __future__ import annotations

import platform
import shutil
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from model.weights import read_json
from utils.engine.checkpoint import list_checkpoints, recover_checkpoints
from utils.engine.files import recover_directory, write_json
from utils.errors import UserError

#: Arguments that may differ between a run and its resumption.
_MAY_CHANGE = {
    "resume",
    "overwrite",
    "debug",
    "inspect_step",
    "num_workers",
    "keep_checkpoints",
    "epochs",
    "training_step",
}
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy", "safetensors")


#: Arguments, versions and seed of the run.
ARGUMENTS_FILE = "arguments.json"


class RunDirectory:
    """`--output-path`. Holds arguments.json, metrics.jsonl, log.log, tensorboard/, checkpoints/, best/, result.json.

    Args:
        path: the directory; made if it is not there.
        arguments: JSON values of the run's arguments, written beside the weights with versions and seed.
        resume: go on where the newest checkpoint stands.
        overwrite: delete what an earlier run left here.
        write: whether this process writes (one of all does).

    Raises:
        UserError: another run lives here, or resuming does not fit.
    """

    def __init__(
        self,
        path: Path,
        arguments: dict[str, Any],
        resume: bool = False,
        overwrite: bool = False,
        write: bool = True,
    ) -> None:
        self.path = path
        if resume and overwrite:
            raise UserError("--resume and --overwrite exclude each other: choose one.")
        if write:
            self._claim(arguments, resume, overwrite)

    @property
    def best(self) -> Path:
        """Where the best model is kept."""
        return self.path / "best"

    def copy_arguments(self, target: Path) -> None:
        """Put arguments, versions and seed beside saved weights."""
        shutil.copyfile(self.path / ARGUMENTS_FILE, target / ARGUMENTS_FILE)

    def newest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, if any."""
        return next(reversed(list_checkpoints(self.path)), None)

    def _claim(self, arguments: dict[str, Any], resume: bool, overwrite: bool) -> None:
        recorded = self.path / ARGUMENTS_FILE
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--output-path {self.path} is a file, expected a directory.")
        if recorded.exists() and overwrite:
            shutil.rmtree(self.path)
        elif recorded.exists() and not resume:
            raise UserError(
                f"--output-path {self.path} holds another run: go on with --resume, or replace it with --overwrite."
            )
        elif recorded.exists():
            self._check_same(read_json(recorded).get("arguments", {}), arguments)
            recover_directory(self.best)
            recover_checkpoints(self.path)
        elif self.path.is_dir() and any(not p.name.startswith(".arguments.json") for p in self.path.iterdir()):
            raise UserError(
                f"--output-path {self.path} is not empty and holds no run of this toolkit: name another one."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Cannot make --output-path {self.path}: {error.strerror}.") from error
        write_json(recorded, {"arguments": arguments, **environment(), "seed": arguments.get("random_seed")})

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        changed = [k for k in now if k not in _MAY_CHANGE and before.get(k, now[k]) != now[k]]
        if changed:
            details = ", ".join(f"--{k.replace('_', '-')} {now[k]!r} (was {before[k]!r})" for k in changed)
            raise UserError(f"--resume in {self.path} with other flags than the run began with: {details}.")


def environment() -> dict[str, Any]:
    """Versions of what a result depends on."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
