"""Devices, precision, processes and seeds: the thin layer over Accelerate that every entry script shares."""

from __future__ import annotations

import random
import sys
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import gather_object
from torch import Tensor
from transformers.utils import logging

from utils.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]

#: Families whose activations overflow half precision, with the reason that the user reads.
_NO_FP16 = {"t5": "T5's residual stream overflows in fp16"}


class Runtime:
    """One process's view of the run: device, rank, precision.

    Args:
        precision: `bf16` and `fp16` mean autocast over float32 parameters.
        family: the backbone's family; some cannot run in fp16.
        seed: seeds Python, NumPy and torch, the same on all processes.

    Raises:
        UserError: the precision cannot work with this backbone or device.
    """

    def __init__(self, precision: Precision = "fp32", family: str = "", seed: int = 0) -> None:
        if precision == "fp16":
            if family in _NO_FP16:
                raise UserError(f"--precision fp16 is refused: {_NO_FP16[family]}; use bf16 or fp32.")
            if not torch.cuda.is_available():
                raise UserError("--precision fp16 needs a GPU; on a CPU use bf16 or fp32.")
        quiet_libraries()
        mixed = "no" if precision == "fp32" else precision
        self.accelerator = Accelerator(mixed_precision=mixed, dataloader_config=DataLoaderConfiguration())
        self.precision = precision
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

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch's tensors on the device."""
        return {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}

    def gather_rows(self, rows: list[Any]) -> list[Any]:
        """All processes' rows, concatenated, on every process."""
        return list(gather_object(rows)) if self.world_size > 1 else rows

    def barrier(self) -> None:
        """Wait for the other processes."""
        self.accelerator.wait_for_everyone()


def quiet_libraries() -> None:
    """Without a terminal, the libraries' own progress bars would only litter the log."""
    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
