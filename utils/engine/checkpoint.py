"""Training checkpoints: safetensors + JSON in `checkpoints/step-NNNNNNNN/`, complete or not there at all.

model.safetensors      trained parameters (the frozen backbone is not repeated)
optimizer.safetensors  optimizer state by parameter name
random.safetensors     random states of every process, with the JSON part in trainer.json
trainer.json           position, best value, number of processes, format version
checksums.json         SHA-256 of all of these, written last
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.weights import read_json, read_safetensors
from utils.engine import random_state
from utils.engine.engines import divided_like, full, whole_shape
from utils.engine.optimisation import trainable_parameters
from utils.engine.random_state import RandomState
from utils.engine.run_files import MODEL_FILES, first_other
from utils.engine.trainer_file import problem_in
from utils.errors import UserError
from utils.writing import atomic_directory, recover_directory

FORMAT_VERSION = 2
TENSOR_FILES = ("model.safetensors", "optimizer.safetensors", "random.safetensors")
_NAME = re.compile(r"^step-(\d{8})$")


@runtime_checkable
class Remembers(Protocol):
    """An objective with more to remember than its parameters, in JSON values."""

    def progress_state(self) -> dict[str, Any]:
        """What a checkpoint is to hold."""
        ...

    def load_progress_state(self, values: dict[str, Any]) -> None:
        """Inverse of `progress_state`."""
        ...


@dataclass
class Progress:
    """Where a run stands, and the best that it has seen.

    Attributes:
        step: optimizer steps done.
        epoch: epochs done.
        batch: batches of the present epoch done.
        best_value: best value of the selection metric so far, None before the first evaluation.
        best_step: the step that reached it.
        evaluated_step: the step of the last evaluation.
        evaluations_without_gain: for early stopping.
        finished: whether the run came to its end.
        tokens: real input tokens seen.
        seconds: training time so far.
        skipped: steps that changed nothing, as their loss or gradients were not finite.
        skipped_in_a_row: the last ones of all steps.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best_value: float | None = None
    best_step: int = 0
    evaluated_step: int = 0
    evaluations_without_gain: int = 0
    finished: bool = False
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0

    @property
    def epoch_of_last_step(self) -> int:
        """The epoch that the last step belongs to, from 0: behind the last one of an epoch, not yet the next."""
        return self.epoch - 1 if self.batch == 0 and self.epoch > 0 else self.epoch


class TrainingState(NamedTuple):
    """What is trained, on the CPU: trained parameters by name, and the optimizer's state as `parameter|state`.

    The state's numbers are JSON values, its tensors lie apart.
    """

    weights: dict[str, Tensor]
    optimizer_values: dict[str, Any]
    optimizer_tensors: dict[str, Tensor]


def training_state(module: nn.Module, optimizer: torch.optim.Optimizer, kept: bool = True) -> TrainingState:
    """The same for any engine: divided tensors are put together, for which all processes have to call at once.

    Args:
        kept: whether this process wants the state; the others take part, tensor by tensor, and get an empty one.
    """
    state = TrainingState({}, {}, {})
    for name, parameter in trainable_parameters(module).items():
        _put(state.weights, name, parameter, parameter, kept)
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                _put(state.optimizer_tensors, f"{name}|{key}", value, parameter, kept)
            elif kept:
                state.optimizer_values[f"{name}|{key}"] = value
    return state


def checkpoint_path(run_directory: Path, step: int) -> Path:
    """Where the checkpoint of `step` lives."""
    return run_directory / "checkpoints" / f"step-{step:08d}"


def list_checkpoints(run_directory: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    folder = run_directory / "checkpoints"
    return sorted(p for p in folder.iterdir() if _NAME.match(p.name)) if folder.is_dir() else []


def recover_checkpoints(run_directory: Path) -> None:
    """Put back what a kill took away while a checkpoint of the same step was replaced."""
    for old in (run_directory / "checkpoints").glob(".step-*.old"):
        recover_directory(old.with_name(old.name.removeprefix(".").removesuffix(".old")))


def save_checkpoint(
    run_directory: Path,
    progress: Progress,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    keep: int,
    random_states: Sequence[RandomState] | None = None,
    state: TrainingState | None = None,
) -> Path:
    """Write a checkpoint, then delete all but the newest `keep`.

    Args:
        random_states: of every process, by rank; None for that of a run of one process.
        state: `training_state`, which several processes have to ask for together; None to ask for it here.

    Raises:
        UserError: the disk is full or not writable; the checkpoints of before stay.
    """
    weights, optimizer_values, optimizer_tensors = state or training_state(module, optimizer)
    if random_states is None:
        random_states = [random_state.capture(_device(trainable_parameters(module)))]
    random_tensors = {f"{i}.{k}": t for i, state in enumerate(random_states) for k, t in state.tensors.items()}
    target = checkpoint_path(run_directory, progress.step)
    with atomic_directory(target) as partial:
        save_file(weights, partial / "model.safetensors")
        save_file(optimizer_tensors, partial / "optimizer.safetensors")
        save_file(random_tensors, partial / "random.safetensors")
        content = {
            "format_version": FORMAT_VERSION,
            "progress": asdict(progress),
            "optimizer": optimizer_values,
            "world_size": len(random_states),
            "random": [state.values for state in random_states],
            "objective": module.progress_state() if isinstance(module, Remembers) else {},
        }
        (partial / "trainer.json").write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
        if (run_directory / "arguments.json").is_file():
            shutil.copyfile(run_directory / "arguments.json", partial / "arguments.json")
    for path in list_checkpoints(run_directory)[:-keep]:
        if first_other(path, MODEL_FILES) is None:  # what somebody has put there stays, with the checkpoint around it
            shutil.rmtree(path, ignore_errors=True)
    return target


def load_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, rank: int = 0) -> Progress:
    """Restore parameters, optimizer and this process's random state from `path`.

    A process that the saved run did not have keeps the random state that it has.

    Raises:
        UserError, ModelError: the checkpoint is of another version, damaged, or does not fit the model.
    """
    content = read_trainer_file(path)
    parameters = trainable_parameters(module)
    weights = read_safetensors(path / "model.safetensors")
    if set(weights) != set(parameters):
        differing = sorted(set(weights) ^ set(parameters))
        raise UserError(
            f"{path} holds other parameters than this run trains, {differing[0]} for one: were flags changed?"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            if (shape := whole_shape(parameter)) != weights[name].shape:
                raise UserError(f"{path}: {name} has shape {tuple(weights[name].shape)}, the model has {tuple(shape)}.")
            parameter.copy_(divided_like(weights[name], parameter))
    if isinstance(module, Remembers):
        module.load_progress_state(content["objective"])
    optimizer_tensors = read_safetensors(path / "optimizer.safetensors")
    _check_optimizer(parameters, content["optimizer"], optimizer_tensors, path)
    _restore_optimizer(parameters, optimizer, content["optimizer"], optimizer_tensors)
    tensors = read_safetensors(path / "random.safetensors")
    if rank < content["world_size"]:
        own = {key.removeprefix(f"{rank}."): value for key, value in tensors.items() if key.startswith(f"{rank}.")}
        try:
            random_state.restore(RandomState(content["random"][rank], own), _device(parameters))
        except (ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:  # whatever the generators say
            raise UserError(f"{path}: the random state of process {rank} is damaged ({error}).") from error
    return Progress(**content["progress"])


def read_trainer_file(path: Path) -> dict[str, Any]:
    """trainer.json of a checkpoint.

    Raises:
        UserError, ModelError: it is of another version or damaged.
    """
    content = read_json(path / "trainer.json")
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}/trainer.json has format version {content.get('format_version')!r}, "
            f"this toolkit reads {FORMAT_VERSION}."
        )
    if missing := {"progress", "optimizer", "world_size", "random", "objective"} - set(content):
        raise UserError(f"{path}/trainer.json has no entry {sorted(missing)[0]!r}.")
    if problem := problem_in(content, Progress):
        raise UserError(f"{path}/trainer.json is damaged: {problem}.")
    return content


def _device(parameters: dict[str, nn.Parameter]) -> torch.device:
    return next(iter(parameters.values())).device


def _put(tensors: dict[str, Tensor], key: str, tensor: Tensor, parameter: nn.Parameter, kept: bool) -> None:
    """Put all of a tensor, on the CPU, into `tensors`, or only take part in putting it together."""
    whole = full(tensor.detach(), parameter)
    if kept:
        tensors[key] = whole.cpu().contiguous()


def _check_optimizer(
    parameters: dict[str, nn.Parameter], values: dict[str, Any], tensors: dict[str, Tensor], path: Path
) -> None:
    """Refuse a state of other parameters, or of other shapes."""
    for combined in (*values, *tensors):
        name, _, key = combined.rpartition("|")
        if name not in parameters:
            raise UserError(f"{path}: the optimizer's state {combined!r} belongs to no parameter of this run.")
        if combined in tensors:
            expected = () if key == "step" else tuple(whole_shape(parameters[name]))
            if (found := tuple(tensors[combined].shape)) != expected:
                raise UserError(f"{path}: the optimizer's state {combined!r} has shape {found}, expected {expected}.")


def _restore_optimizer(
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    values: dict[str, Any],
    tensors: dict[str, Tensor],
) -> None:
    for combined, value in [*values.items(), *tensors.items()]:
        name, key = combined.rsplit("|", 1)
        parameter = parameters[name]
        if isinstance(value, Tensor):  # of the step count, every process has the whole
            value = divided_like(value, parameter) if key != "step" else value.to(parameter.device)
        optimizer.state[parameter][key] = value
