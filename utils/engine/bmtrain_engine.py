"""BMTrain, the engine of the original Variator, for machines with NVIDIA GPUs that have it installed.

Used of its documented interface: `init_distributed`, `rank`, `Block` and `DistributedParameter` (ZeRO-3),
`optim.OptimManager` (scale of the loss, overflows, waiting for messages), `optim.AdamOffloadOptimizer`,
`distributed.all_reduce`. AdamW and clipping are those of the other engines, so that runs and checkpoints are theirs.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from utils.engine.bmtrain_blocks import put_into_blocks
from utils.engine.bmtrain_offload import OffloadedAdamW
from utils.engine.engines import DividedEngine, is_divided
from utils.engine.optimisation import OptimizerName, trainable_parameters
from utils.errors import UserError
from utils.installation import load_bmtrain

#: As Accelerate's; BMTrain itself would begin with 2^20 in the original.
FIRST_SCALE = 2.0**16


def start_bmtrain(seed: int) -> None:
    """Connect BMTrain's processes; to be called once, after torch's are connected and on all of them.

    Raises:
        UserError: see `load_bmtrain`.
    """
    bmt = load_bmtrain()
    with _variables_of_one_process():
        bmt.init_distributed(seed=seed)


class BMTrainEngine(DividedEngine):
    """ZeRO-3: each process holds its share of the T5 layers' parameters, frozen ones included, and of all that belongs
    to them; embeddings, final norms and plugins it holds whole.

    Args:
        offload: whether the optimizer's state lies in the CPU's memory, where BMTrain's own optimizer keeps it.

    Raises:
        UserError: BMTrain is missing, or there is no T5 layer to divide.
    """

    def __init__(self, accelerator: Accelerator, objective: nn.Module, offload: bool = False) -> None:
        super().__init__(accelerator, objective)
        self._bmt: Any = load_bmtrain()
        self._offload = offload
        named = put_into_blocks(self.module, self._bmt, self._add_up)
        # Blocks put a word of their own, or none, into the names of what is inside.
        self.module.named_parameters = partial(_named, named)  # type: ignore[method-assign]
        self._replicated = [p for p in trainable_parameters(self.module).values() if not is_divided(p)]
        if not any(is_divided(p) for p in named.values()):
            raise UserError("--engine bmtrain found no T5 layer in this model to divide; use --engine ddp or fsdp.")
        fp16 = accelerator.mixed_precision == "fp16"
        self._manager = self._bmt.optim.OptimManager(loss_scale=FIRST_SCALE if fp16 else None)
        self.norm_is_finite = True
        self._empty()

    def exchange(self, now: bool) -> AbstractContextManager[Any]:
        """See `Engine`; Blocks exchange the gradients of every pass."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """See `Engine`. BMTrain divides by the number of processes, over which it adds gradients up."""
        self._manager.backward(loss)

    def optimizer(self, lr: float, weight_decay: float, name: OptimizerName) -> torch.optim.Optimizer:
        """See `Engine`: torch's, which works on any part of a tensor.

        BMTrain's own Adam decays float32 parameters through the gradient (L2); ours has to be decoupled.
        """
        if name != "adamw":
            raise UserError(
                f"--optimizer {name} needs the norm of each tensor's gradient, of which --engine bmtrain gives a "
                "process a part only; use adamw."
            )
        if self._offload:
            return OffloadedAdamW(list(trainable_parameters(self.module).values()), self._bmt, lr, weight_decay)
        return super().optimizer(lr, weight_decay, name)

    def stepper(self, optimizer: torch.optim.Optimizer) -> _Stepper:
        """See `Engine`."""
        self._manager.add_optimizer(optimizer)
        return _Stepper(self, self._manager)

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """See `Engine`. In fp16 the gradients stay multiplied by the scale of the loss."""
        self._exchange_replicated()
        divided = _sum_of_squares([p for p in parameters if is_divided(p)], self.accelerator.device)
        replicated = _sum_of_squares(self._replicated, self.accelerator.device)
        norm = (self._add_up(divided) + replicated).sqrt() / self._manager.loss_scale
        self.norm_is_finite = bool(norm.isfinite())
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.norm_is_finite:
            nn.utils.clip_grads_with_norm_([p for p in parameters if p.grad is not None], max_norm, norm)
        else:  # one that is infinite on one process alone must stop the step on all
            for gradient in gradients:
                gradient.fill_(math.nan)
        return norm

    def _add_up(self, tensor: Tensor) -> Tensor:
        with torch.no_grad():
            total: Tensor = self._bmt.distributed.all_reduce(tensor.contiguous(), "sum")
        return total

    def _exchange_replicated(self) -> None:
        """Add up the gradients of what no Block exchanges, in one message."""
        if not self._replicated:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._replicated]
        total = self._add_up(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = total.split([gradient.numel() for gradient in gradients])
        for parameter, part in zip(self._replicated, parts, strict=True):
            parameter.grad = part.view_as(parameter)


class _Stepper:
    """The optimizer's steps through BMTrain's manager, which knows the scale of the loss."""

    def __init__(self, engine: BMTrainEngine, manager: Any) -> None:
        self._engine, self._manager = engine, manager
        self.step_was_skipped = False

    def step(self) -> None:
        """One step; with gradients that are not finite, the manager lowers its scale instead."""
        self._manager.step()
        self.step_was_skipped = not self._engine.norm_is_finite

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set them to 0 in place, whatever is asked for: Blocks add to what is there, and hold it by themselves."""
        self._manager.zero_grad()


def _named(named: dict[str, nn.Parameter], *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
    return iter(named.items())


def _sum_of_squares(parameters: Sequence[nn.Parameter], device: torch.device) -> Tensor:
    """() float32."""
    total = torch.zeros((), device=device)
    for parameter in parameters:
        if parameter.grad is not None:
            total += parameter.grad.float().square().sum()
    return total


@contextmanager
def _variables_of_one_process() -> Iterator[None]:
    """What a launcher sets, inside, where there was none: a single process meets itself at a free port."""
    if "RANK" in os.environ:
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1"}
    before = dict(os.environ)
    os.environ.update({name: str(value) for name, value in own.items()} | {"MASTER_PORT": str(port)})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
