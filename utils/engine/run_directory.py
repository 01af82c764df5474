"""The output directory of a run: who may write into it, and what stands beside the weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from model.errors import ModelError
from model.weights import read_json
from utils.addresses import as_recorded
from utils.engine.checkpoint import list_checkpoints, recover_checkpoints
from utils.engine.data_record import DATA_FILE, Fingerprints, check_data
from utils.engine.precision import Precision
from utils.engine.resume import Resume, prepare_resume
from utils.engine.run_files import (
    ARGUMENTS_FILE,
    LOCK_FILE,
    foreign_below,
    foreign_records,
    is_left_by_others,
    is_marked,
    is_model,
    is_run,
    own_files,
)
from utils.engine.same_run import differences, models_in
from utils.errors import UserError, writing
from utils.lock import lock_directory, note_owner
from utils.measured import environment
from utils.writing import recover_directory, write_json


class RunDirectory:
    """`--output_dir`. Holds arguments.json, metrics.jsonl, log.log, tensorboard/, checkpoints/, best/, result.json.

    Args:
        path: the directory; made if it is not there.
        arguments: JSON values of the run's arguments, written beside the weights with versions and seed; addresses in
            them without passwords and tokens.
        resume: go on where the newest checkpoint stands; `"auto"`: the newest that is whole.
        overwrite: delete what an earlier run left here.
        write: whether this process writes (one of all does).
        world_size: number of processes. A resumed run may have another, with the batch size that gives the same rows
            per batch over all processes: data order and position are counted in such batches.
        allow_changed_data: go on although the data are others than those that the run began with.
        facts: what else arguments.json is to say of the run, as the precision that `auto` stands for.

    Attributes:
        arguments: as given.
        remarks: what the user should know of the directory; the engine tells it in the run's log.

    Raises:
        UserError: another run lives here, or resuming does not fit.
    """

    def __init__(
        self,
        path: Path,
        arguments: dict[str, Any],
        resume: Resume = False,
        overwrite: bool = False,
        write: bool = True,
        world_size: int = 1,
        allow_changed_data: bool = False,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        arguments = as_recorded(arguments)
        self._facts = dict(facts or {})
        self.arguments = arguments
        self.path, self._world_size, self._allow_changed_data = path, world_size, allow_changed_data
        self.remarks: list[str] = []
        self._changed: list[str] = []
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

    def check_data(self, fingerprints: Fingerprints, resumed: bool) -> None:
        """Record the data of a run, or compare them with the record; see `utils.engine.data_record.check_data`."""
        if remark := check_data(self.path, fingerprints, resumed, self._allow_changed_data):
            self.remarks.append(remark)

    def _claim(self, arguments: dict[str, Any], resume: Resume, overwrite: bool) -> None:
        recorded = self.path / ARGUMENTS_FILE
        try:
            is_there = recorded.exists() and (is_marked(self.path) or is_model(self.path))
            if not is_there:
                self._check_free()
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Cannot make --output_dir {self.path}: {error.strerror}.") from error
        if is_there:
            self._check_run()
        lock_directory(self.path)
        if is_there and overwrite:
            with writing(f"--output_dir {self.path}"):
                self._empty()
        elif is_there and not resume:
            held, cure = "another run", "go on with --resume"
            if (self.path / "result.json").is_file():
                held, cure = "a run that is complete", "name another directory"
            raise UserError(f"--output_dir {self.path} holds {held}: {cure}, or replace it with --overwrite.")
        elif is_there:
            self._check_same(read_json(recorded), arguments)
            with writing(self.path):
                recover_directory(self.best)
                recover_checkpoints(self.path)
            self.remarks += prepare_resume(self.path, resume)
        note_owner(self.path)
        content = {"arguments": arguments, **environment(), "world_size": self._world_size, **self._facts}
        if models := models_in(arguments):
            content["models"] = models
        if self._changed:
            content["changed"] = self._changed
        write_json(recorded, {**content, "seed": arguments.get("random_seed")})

    def _check_free(self) -> None:
        """Before anything is written: a directory without a run has to be empty, but for what others leave there."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--output_dir {self.path} is a file, expected a directory.")
        own = (f".{ARGUMENTS_FILE}", LOCK_FILE)
        found = sorted(self.path.iterdir()) if self.path.is_dir() else []
        others = [path.name for path in found if not path.name.startswith(own) and not is_left_by_others(path.name)]
        if others:
            raise UserError(
                f"--output_dir {self.path} is not empty and holds no run of this toolkit (there is {others[0]}): "
                "name another one."
            )

    def _check_run(self) -> None:
        """Refuse the model or the checkpoint of a run, which have its arguments too."""
        if not is_run(self.path):
            raise UserError(
                f"--output_dir {self.path} holds a model or a checkpoint, not a run: name another directory."
            )

    def _empty(self) -> None:
        """Delete what the run of before has written; what lies beside it stays.

        What lies within it, or has the name of a record that the next run writes, is a reason to refuse.
        """
        own = own_files(self.path)
        foreign = foreign_records(self.path)
        foreign += [path for path in map(foreign_below, filter(Path.is_dir, own)) if path is not None]
        if foreign:
            raise UserError(
                f"--overwrite would delete {', '.join(map(str, foreign))}, which no run has written: move it away, or "
                "name another --output_dir."
            )
        for path in sorted(own, key=lambda path: path.name == ARGUMENTS_FILE):  # last: it says whose the others are
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        left = [path.name for path in sorted(self.path.iterdir()) if path.name != LOCK_FILE]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            self.remarks.append(f"--overwrite leaves what no run has written: {left[0]}{more}")

    def _check_same(self, recorded: dict[str, Any], now: dict[str, Any]) -> None:
        before, processes = recorded.get("arguments", {}), recorded.get("world_size", 1)
        if not isinstance(before, dict) or type(processes) is not int or processes < 1:
            raise UserError(f"{self.path / ARGUMENTS_FILE} is damaged: --overwrite deletes this run and begins anew.")
        if "precision" in now:  # what `auto` stands for is compared
            before = {**before, "precision": _precision_in(recorded)}
            now = {**now, "precision": self._facts.get("precision", now["precision"])}
        if processes != self._world_size:
            self._check_same_batches(before, now, processes)
            before = {**before, "batch_size": now.get("batch_size")}
        models = recorded.get("models")
        has_fingerprints = not list_checkpoints(self.path) or (self.path / DATA_FILE).is_file()
        known = models if isinstance(models, dict) else {}
        found = list(differences(before, now, known, models_in(now), has_fingerprints))
        refused = [one for one in found if not one.may_be and not (one.contents and self._allow_changed_data)]
        if refused:
            hint = "" if any(not one.contents for one in refused) else " (--allow_changed_data goes on with these)"
            told = ", ".join(one.text for one in refused)
            raise UserError(f"--resume in {self.path} with other flags than the run began with: {told}{hint}.")
        self.remarks += [f"the run goes on with {one.text}" for one in found]
        self._changed = [*recorded.get("changed", []), *(one.text for one in found)]

    def _check_same_batches(self, before: dict[str, Any], now: dict[str, Any], processes: int) -> None:
        if not isinstance(before.get("batch_size"), int) or "batch_size" not in now:
            return
        rows, rows_now = before["batch_size"] * processes, now["batch_size"] * self._world_size
        if rows != rows_now:
            fitting = f", or --train_batch_size {rows // self._world_size}" if rows % self._world_size == 0 else ""
            raise UserError(
                f"--resume in {self.path}: the run began with batches of {rows} rows ({processes} processes of "
                f"--train_batch_size {before['batch_size']}), now there are {rows_now} ({self._world_size} of "
                f"{now['batch_size']}) and its place in the data would be lost: take {processes} processes{fitting}."
            )


def recorded_precision(run_directory: Path) -> Precision | None:
    """The precision that a run was begun in; None where there is no run, or its record does not say it."""
    try:
        found = _precision_in(read_json(run_directory / ARGUMENTS_FILE))
    except ModelError:
        return None  # no run, or a damaged one, of which `RunDirectory` tells
    return found if found in get_args(Precision) else None


def recorded_arguments(folder: Path) -> dict[str, Any]:
    """What the flags of the run were that made a folder; nothing where it has no record of them.

    Raises:
        ModelError: the record is damaged.
    """
    path = folder / ARGUMENTS_FILE
    return _arguments_in(read_json(path)) if path.is_file() else {}


def _arguments_in(recorded: Mapping[str, Any]) -> dict[str, Any]:
    arguments = recorded.get("arguments")
    return arguments if isinstance(arguments, dict) else {}


def _precision_in(recorded: Mapping[str, Any]) -> Any:
    """What a record says that `--precision` stood for."""
    return recorded.get("precision") or _arguments_in(recorded).get("precision")
