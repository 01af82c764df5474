"""Devices, precision, processes and seeds: the thin layer over Accelerate that every entry script shares."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object, parse_flag_from_env
from torch import Tensor

from utils.engine.launch import adopt_ranks
from utils.engine.names import AskedPrecision, EngineName, Precision
from utils.engine.precision import PrecisionChoice, choose_precision
from utils.engine.watch import DEFAULT_TIMEOUT_S, group_timeout, watch_ranks
from utils.errors import USER_ERROR_CODE, UserError, mark_own
from utils.installation import load_bmtrain

T = TypeVar("T")

#: Families that `--engine bmtrain` can divide.
_BMTRAIN_FAMILIES = ("t5",)
#: Families whose activations overflow half precision, with the reason that the user reads.
_NO_FP16 = {"t5": "T5's residual stream overflows in fp16"}


class Runtime:
    """One process's view of the run: device, rank, precision.

    Args:
        precision: `bf16` and `fp16` mean autocast over float32 parameters; `auto` is what this machine is good at.
        family: the backbone's family; some cannot run in fp16.
        seed: seeds Python, NumPy and torch, the same on all processes.
        cpu: leave GPUs alone.
        engine: how several processes train; see `utils.engine.engines`.
        rank_timeout_s: longest wait for another process; the one that waited ends then, see `utils.engine.watch`.
        cpu_offload: FSDP's shares, or BMTrain's optimizer state, lie in the machine's memory instead of the GPU's.
        gradient_checkpointing: trained models run their layers again in the backward pass.
        kept: the precision that `auto` stands for in a run that goes on.

    Attributes:
        choice: the precision in use, the same on all processes, and why it is this one.

    Raises:
        UserError: the precision or the engine cannot work with this backbone or device, or there is nothing to offload.
    """

    def __init__(
        self,
        precision: AskedPrecision = "fp32",
        family: str = "",
        seed: int = 0,
        cpu: bool = False,
        engine: EngineName = "ddp",
        rank_timeout_s: float = DEFAULT_TIMEOUT_S,
        cpu_offload: bool = False,
        gradient_checkpointing: bool = False,
        kept: Precision | None = None,
    ) -> None:
        if precision == "fp16":
            if family in _NO_FP16:
                raise UserError(f"--precision fp16 is refused: {_NO_FP16[family]}; use bf16 or fp32.")
            if cpu or not torch.cuda.is_available():
                raise UserError("--precision fp16 needs a GPU; on a CPU use bf16 or fp32.")
        adopt_ranks()
        _check_engine(engine, family)
        # Accelerate takes several processes without GPUs for as many runs of one process, unless it is told of the CPU.
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if cpu_offload:
            _check_offload(engine, several, precision)
        cpu = cpu or (several and not torch.cuda.is_available()) or parse_flag_from_env("ACCELERATE_USE_CPU")
        group = _process_group(engine, several, rank_timeout_s, cpu_offload and torch.cuda.is_available() and not cpu)
        self.choice = _agreed_choice(PartialState(cpu, **group.to_kwargs()), precision, kept)
        self.precision = self.choice.precision
        mixed = "no" if self.precision == "fp32" else self.precision
        if AcceleratorState._shared_state.get("_mixed_precision", mixed) != mixed:
            AcceleratorState._reset_state()  # of an earlier stage in this process, which went on in another precision
        self.accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=mixed,
            dataloader_config=DataLoaderConfiguration(),
            kwargs_handlers=[group],
        )
        self._watch = watch_ranks(self.rank, self.world_size, rank_timeout_s, lambda own: list(gather_object(own)))
        if engine == "bmtrain":
            from utils.engine.bmtrain_engine import start_bmtrain  # for those who have chosen it

            start_bmtrain(seed)
        self.engine = engine
        self.cpu_offload, self.gradient_checkpointing = cpu_offload, gradient_checkpointing
        self.seed = seed
        seed_everything(seed)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.accelerator.device

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return int(self.accelerator.process_index)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return bool(self.accelerator.is_main_process)

    def tick(self) -> None:
        """Say that this process passes a place that all of them pass."""
        if self._watch is not None:
            self._watch.tick()

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch's tensors on the device."""
        return {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}

    def gather_rows(self, rows: list[Any]) -> list[Any]:
        """All processes' rows, concatenated, on every process."""
        self.tick()
        return list(gather_object(rows)) if self.world_size > 1 else rows

    def barrier(self) -> None:
        """Wait for the other processes."""
        if self.engine == "bmtrain":
            self.gather_numbers([0.0])
            return
        self.tick()
        self.accelerator.wait_for_everyone()

    def separate_randomness(self) -> None:
        """From here on each process draws numbers of its own, as for dropout; the main one goes on undisturbed."""
        if self.rank:
            seed_everything(self.seed + self.rank)

    def gather_numbers(self, numbers: Sequence[float]) -> Tensor:
        """All processes' numbers, a row each: float64 (processes, n) on the CPU, the same on every process."""
        self.tick()
        own = torch.tensor([list(numbers)], dtype=torch.float64)
        if self.engine != "bmtrain":
            own = own.to(self.device)
        return self.accelerator.gather(own).cpu() if self.world_size > 1 else own

    def together(self, work: Callable[[], T]) -> T:
        """Do `work` on every process and go on when all have done it; where it fails on one, all stop.

        Otherwise the others would wait for a process that is gone, for example because its disk is full. `work`
        may differ between the processes, but must not speak to the others itself.

        Raises:
            Exception: what `work` raised, on the first process where it did.
            SystemExit: on the others.
        """
        error, result = None, None
        try:
            result = work()
        except Exception as caught:
            error = caught
        failed = self.gather_numbers([error is not None])[:, 0].nonzero()
        if error is not None and int(failed[0]) == self.rank:
            raise mark_own(error)
        if len(failed):
            raise SystemExit(USER_ERROR_CODE)
        return cast(T, result)

    def by_main(self, work: Callable[[], None]) -> None:
        """Do `work` on the main process while the others wait; where it fails, all stop."""
        self.together(lambda: work() if self.is_main else None)

    def stop_together(self, error: Exception) -> NoReturn:
        """Raise an error that every process has found: the main one tells it, the others end silently."""
        if self.is_main:
            raise error
        raise SystemExit(getattr(error, "exit_code", USER_ERROR_CODE))


def _agreed_choice(state: PartialState, asked: AskedPrecision, kept: Precision | None) -> PrecisionChoice:
    """The precision of all processes: the main one decides, as each would time a product of its own.

    Raises:
        UserError: on the main process.
        SystemExit: on the others.
    """
    chosen: PrecisionChoice | UserError | None = None
    if state.is_main_process:
        try:
            chosen = choose_precision(asked, state.device, kept)
        except UserError as error:
            chosen = error
    if state.num_processes > 1:
        (chosen,) = broadcast_object_list([chosen])
    if isinstance(chosen, UserError) and state.is_main_process:
        raise chosen
    if not isinstance(chosen, PrecisionChoice):
        raise SystemExit(USER_ERROR_CODE)
    return chosen


def _check_engine(engine: EngineName, family: str) -> None:
    """What would fail later is told before anything is loaded."""
    if engine == "bmtrain":
        if family not in _BMTRAIN_FAMILIES:
            raise UserError("--engine bmtrain trains T5 alone, with train_t5.py; use --engine ddp or fsdp here.")
        load_bmtrain()


def _check_offload(engine: EngineName, several: bool, precision: AskedPrecision) -> None:
    """Refuse what `--cpu_offload` cannot work with."""
    if engine == "bmtrain":
        return
    if engine != "fsdp" or not several:
        found = f"--engine {engine} in {'several processes' if several else 'one process'}"
        raise UserError(f"--cpu_offload needs --engine fsdp in several processes, or --engine bmtrain; found {found}.")
    if precision == "fp16":
        raise UserError(
            "--cpu_offload is refused with fp16, whose loss scaling needs gradients on the GPU: use --precision bf16."
        )


def _process_group(engine: EngineName, several: bool, rank_timeout_s: float, both: bool) -> InitProcessGroupKwargs:
    """How processes talk: NCCL or gloo as the device wants it; both where GPUs compute and the CPUs hold the shares."""
    timeout, backend = group_timeout(rank_timeout_s), None
    if engine == "bmtrain":  # which wants the GPUs' messages for itself: the loop's own few numbers go by the CPU
        backend = "gloo" if several else None
    elif both:
        backend = "cpu:gloo,cuda:nccl"
    return InitProcessGroupKwargs(backend=backend, timeout=timeout)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
