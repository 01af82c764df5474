"""What the toolkit uses of BMTrain 1.0.1, on CPUs: the same calls, divided parameters, and traps.

Written from BMTrain's documentation and from what was observed of it. It stands in for the real thing in tests, where
it is put into `sys.modules`; processes talk by torch.distributed where it is in use. What it copies on purpose:

- a parameter is a flat part of itself but while its Block runs; a Block divides the numbers of all its parameters of a
  kind as one, so that a process may have nothing of some;
- a Block takes no named arguments (it drops them), only divided parameters, and no other Block inside;
- a Block with trained parameters of which no argument requires a gradient cannot give several outputs;
- all outputs of a Block require a gradient if one of its arguments does;
- a Block adds to the gradients of the passes before, wherever the parameters' own `grad` point to.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

#: What was called, in order, for tests that look at it.
calls: list[str] = []
_started = False


def install() -> ModuleType:
    """Make `import bmtrain` find this module, not yet initialised."""
    global _started
    _started = False
    calls.clear()
    module = sys.modules[__name__]
    sys.modules["bmtrain"] = module
    return module


def init_distributed(seed: int = 0, **_: Any) -> None:
    """As the original: reads what a launcher sets, and seeds."""
    global _started
    import os

    assert {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ)
    _started = True
    calls.append("init_distributed")
    random.seed(seed)
    torch.manual_seed(seed)


def rank() -> int:
    """This process's number."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def _all_reduce(tensor: Tensor, op: str = "sum") -> Tensor:
    """A new tensor; the operations of the original have names."""
    assert op in ("sum", "max")
    total = tensor.clone()
    if dist.is_initialized():
        dist.all_reduce(total, dist.ReduceOp.SUM if op == "sum" else dist.ReduceOp.MAX)
    return total


distributed = SimpleNamespace(all_reduce=_all_reduce)


class DistributedParameter(nn.Parameter):
    """A parameter of which each process has a stretch."""

    _original_shape: torch.Size

    def __new__(cls, data: Tensor, requires_grad: bool = True) -> DistributedParameter:
        """Keep this process's stretch of `data`."""
        if not _started:
            raise RuntimeError("BMTrain is not initialized")
        size = math.ceil(data.numel() / world_size())
        own = data.view(-1)[rank() * size : (rank() + 1) * size].clone()
        made = torch.Tensor._make_subclass(cls, own, requires_grad)
        made._original_shape = data.size()
        return made


class _Kind:
    """All parameters of a Block that are frozen, or trained, in one row, and the part that a process has of it."""

    def __init__(self, parameters: list[DistributedParameter]) -> None:
        self.parameters = parameters
        sizes = [parameter._original_shape.numel() for parameter in parameters]
        self.begins = [sum(sizes[:i]) for i in range(len(sizes))]
        self.ends = [begin + size for begin, size in zip(self.begins, sizes, strict=True)]
        self.part = math.ceil(self.ends[-1] / world_size())
        self.gradient: Tensor | None = None
        whole = torch.zeros(self.part * world_size())
        for parameter, begin, end in zip(parameters, self.begins, self.ends, strict=True):
            size = math.ceil((end - begin) / world_size())
            row = torch.zeros(size * world_size())
            row[rank() * size : rank() * size + parameter.numel()] = parameter.detach()
            whole[begin:end] = _all_reduce(row)[: end - begin]
        self.own = whole[rank() * self.part : (rank() + 1) * self.part].clone()
        self.close()

    def open(self, gradients: bool) -> None:
        """Give the parameters all their numbers, and gradients to add to."""
        whole = torch.zeros(self.part * world_size())
        whole[rank() * self.part : (rank() + 1) * self.part] = self.own
        whole = _all_reduce(whole)
        self.row = torch.zeros_like(whole)
        for parameter, begin, end in zip(self.parameters, self.begins, self.ends, strict=True):
            parameter.grad = None
            parameter.data = whole[begin:end].view(parameter._original_shape)
            if gradients and parameter.requires_grad:
                parameter.grad = self.row[begin:end].view(parameter._original_shape)

    def reduce(self) -> None:
        """Add the gradients of all processes to this one's part of those of before."""
        if self.parameters[0].requires_grad:
            own = _all_reduce(self.row)[rank() * self.part : (rank() + 1) * self.part]
            self.gradient = own if self.gradient is None else self.gradient.add_(own)

    def close(self) -> None:
        """Leave the parameters a part of their numbers."""
        first = rank() * self.part
        for parameter, begin, end in zip(self.parameters, self.begins, self.ends, strict=True):
            start, stop = (min(max(place - first, 0), self.part) for place in (begin, end))
            parameter.grad = None
            parameter.data = self.own[start:stop]
            if self.gradient is not None:
                parameter.grad = self.gradient[start:stop]


class _Before(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: Block, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.block = block
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        for kind in ctx.block.kinds:
            kind.reduce()
        ctx.block.close()
        return (None, *gradients)


class _After(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: Block, *outputs: Any) -> tuple[Any, ...]:
        ctx.block = block
        block.close()
        return tuple(value.view_as(value) if isinstance(value, Tensor) else value for value in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        ctx.block.open(gradients=True)
        return (None, *gradients)


class Block(nn.Module):
    """ZeRO-3 around a module."""

    def __init__(self, inner_module: nn.Module, zero_level: int = 3, use_checkpoint: bool = True) -> None:
        super().__init__()
        assert not any(isinstance(part, Block) for part in inner_module.modules()), "a Block in a Block"
        assert zero_level == 3 and not use_checkpoint, "recomputation is not imitated here"
        self.inner = inner_module
        parameters = list(dict.fromkeys(inner_module.parameters()))
        for parameter in parameters:
            if not isinstance(parameter, DistributedParameter):
                raise ValueError("All parameters in checkpoint block must be DistributedParameter.")
        by_kind = [[p for p in parameters if p.requires_grad is trained] for trained in (True, False)]
        self.kinds = [_Kind(kind) for kind in by_kind if kind]  # type: ignore[arg-type]
        self.is_open = False
        calls.append("Block")

    def open(self, gradients: bool = False) -> None:
        """Gather."""
        assert not self.is_open, "a Block is gathered already"
        self.is_open = True
        for kind in self.kinds:
            kind.open(gradients)

    def close(self) -> None:
        """Let go."""
        self.is_open = False
        for kind in self.kinds:
            kind.close()

    def forward(self, *arguments: Any, **dropped: Any) -> Any:
        """The inner module, with its parameters gathered."""
        indices = [i for i, value in enumerate(arguments) if isinstance(value, Tensor) and value.requires_grad]
        given = list(arguments)
        trained = any(kind.parameters[0].requires_grad for kind in self.kinds)
        self.open()
        if indices:
            tensors = _Before.apply(self, *(given[i] for i in indices))
            for i, tensor in zip(indices, tensors, strict=True):
                given[i] = tensor
        outputs = self.inner(*given)
        if not indices and trained and torch.is_grad_enabled() and isinstance(outputs, tuple):
            raise TypeError("OneStepNoGradFunc.backward() takes 2 positional arguments but 4 were given")
        row = outputs if isinstance(outputs, tuple) else (outputs,)
        row = _After.apply(self, *row)
        return row if isinstance(outputs, tuple) else row[0]

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Nobody may depend on the names that a Block gives."""
        raise AssertionError("names inside a Block are BMTrain's own business")


class _OptimManager:
    """Scales the loss, and steps over overflows."""

    def __init__(self, loss_scale: float | None = None, loss_scale_factor: float = 2.0) -> None:
        self.loss_scale_enabled = loss_scale is not None
        self.loss_scale = loss_scale if loss_scale is not None else 1.0
        self.factor = loss_scale_factor
        self.optimizers: list[Any] = []

    def add_optimizer(self, optimizer: Any, lr_scheduler: Any = None) -> None:
        """One more to step."""
        self.optimizers.append(optimizer)

    def backward(self, loss: Tensor) -> None:
        """Scaled, and divided by the number of processes."""
        (loss * (self.loss_scale / world_size())).backward()

    def zero_grad(self) -> None:
        """In place."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=False)

    def step(self) -> None:
        """One step, or a lower scale."""
        calls.append("step")
        gradients = [p.grad for p in self._parameters() if p.grad is not None]
        if self.loss_scale_enabled:
            bad = torch.tensor(float(any(not bool(g.isfinite().all()) for g in gradients)))
            if float(_all_reduce(bad, "max")):
                self.loss_scale /= self.factor
                self.zero_grad()
                return
            for gradient in gradients:
                gradient /= self.loss_scale
        for optimizer in self.optimizers:
            optimizer.step()

    def _parameters(self) -> Iterator[Tensor]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                yield from group["params"]


class _AdamOffloadOptimizer(torch.optim.Optimizer):
    """Works on copies of its own; of float32 parameters the decay is a part of the gradient."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None, scale: float = 1.0) -> None:  # type: ignore[override]
        """One step of Adam."""
        calls.append("offloaded step")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, scale)

    def _update(self, parameter: Tensor, group: dict[str, Any], scale: float) -> None:
        state = self.state[parameter]
        if not state:
            zeros = {name: torch.zeros(parameter.shape) for name in ("exp_avg", "exp_avg_sq", "_grad_fp32")}
            state.update(step=0, _param_fp32=parameter.detach().clone(), **zeros)
        master, (b1, b2) = state["_param_fp32"], group["betas"]
        state["step"] += 1
        gradient = parameter.grad / scale + group["weight_decay"] * master  # type: ignore[operator]
        state["exp_avg"].lerp_(gradient, 1 - b1)
        state["exp_avg_sq"].mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        mean, square = state["exp_avg"] / (1 - b1 ** state["step"]), state["exp_avg_sq"] / (1 - b2 ** state["step"])
        master.sub_(group["lr"] * mean / (square.sqrt() + group["eps"]))
        parameter.copy_(master)


optim = SimpleNamespace(OptimManager=_OptimManager, AdamOffloadOptimizer=_AdamOffloadOptimizer)
