"""How an objective is spread over the processes: replicated by DDP, or divided among them by FSDP2.

A third engine, BMTrain, which needs a GPU and a library of its own, is in `utils.engine.bmtrain_engine`.
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from utils.engine.names import EngineName, OptimizerName
from utils.engine.optimisation import build_optimizer

#: Attribute of a parameter that is divided by other means than a DTensor: its `Division`.
_DIVISION = "_division"


class Engine:
    """One process, or several that hold the whole model each and share their gradients (DDP).

    Attributes:
        module: the objective; its trainable parameters are those of the optimizer.
        is_divided: whether a process has only a part of each parameter.
    """

    is_divided = False

    def __init__(self, accelerator: Accelerator, objective: nn.Module) -> None:
        self.accelerator, self.module = accelerator, objective
        self._wrapped: Any = None

    def start(self) -> None:
        """To be called once, after a checkpoint has been loaded and before the first `forward`."""
        self._wrapped = self.accelerator.prepare(self.module)

    def forward(self, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective, in the run's precision."""
        result: tuple[Tensor, dict[str, Tensor]] = self._wrapped(*arguments)
        return result

    def exchange(self, now: bool) -> AbstractContextManager[Any]:
        """Around a forward and backward pass: whether its gradients and those summed up before are exchanged."""
        return nullcontext() if now else self.accelerator.no_sync(self._wrapped)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, a process's share of the whole, to those of the parameters."""
        self.accelerator.backward(loss)

    def optimizer(self, lr: float, weight_decay: float, name: OptimizerName) -> torch.optim.Optimizer:
        """The optimizer of the trained parameters; see `build_optimizer`."""
        return build_optimizer(self.module, lr, weight_decay, name, self.accelerator.mixed_precision == "fp16")

    def stepper(self, optimizer: torch.optim.Optimizer) -> Any:
        """What makes the optimizer's steps (`step`, `zero_grad`); in fp16, `step_was_skipped` says of the last one
        that it changed nothing, as its gradients were not finite.
        """
        # In fp16 the optimizer must undo the loss scaling and skip overflows: Accelerate's wrapper does.
        fp16 = self.accelerator.mixed_precision == "fp16"
        return self.accelerator.prepare_optimizer(optimizer) if fp16 else optimizer

    @property
    def waits_for_all(self) -> bool:
        """Whether processes wait for the gradient of every trained parameter, even of one that nothing depends on."""
        return self.accelerator.num_processes > 1 and not self.is_divided

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Clip the gradients by their common norm, and give it."""
        return cast(Tensor, self.accelerator.clip_grad_norm_(parameters, max_norm))

    def whole(self) -> AbstractContextManager[Any]:
        """Inside, on every process, the model has all its parameters: for evaluation and for saving."""
        return nullcontext()

    def finish(self) -> None:
        """Leave the model whole, and let go of it: a process may train several, and Accelerate holds on to each."""
        self.accelerator.free_memory()


class DividedEngine(Engine):
    """An engine whose processes each hold a part of the parameters.

    A copy of the objective is divided and trained. The objective itself, to which evaluators and savers hold on, has
    empty parameters meanwhile and gets the present ones inside `whole`: neither of them calls for all processes at the
    same time, as a forward pass of divided parameters has to. Subclasses divide `module` and then call `_empty`.
    """

    is_divided = True

    def __init__(self, accelerator: Accelerator, objective: nn.Module) -> None:
        super().__init__(accelerator, copy_of(objective))
        self._original = objective

    def start(self) -> None:
        """See `Engine`."""
        self._wrapped = self.module

    def forward(self, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Engine`."""
        with self.accelerator.autocast():
            return super().forward(*arguments)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """See `Engine`."""
        self._fill()
        try:
            yield
        finally:
            self._empty()

    def finish(self) -> None:
        """See `Engine`."""
        self._fill()
        super().finish()

    def _fill(self) -> None:
        with torch.no_grad():
            present = dict(self.module.named_parameters())
            for name, parameter in self._original.named_parameters():
                parameter.data = full(present[name].detach(), present[name]).to(self.accelerator.device)

    def _empty(self) -> None:
        for parameter in self._original.parameters():
            parameter.data = parameter.new_empty(0)


class ShardedEngine(DividedEngine):
    """FSDP2: each process holds its share of every parameter, frozen ones included, of gradients and optimizer state.

    Args:
        cpu_offload: the shares lie in the machine's memory, where the optimizer runs too; see `offload_policy`.
    """

    def __init__(self, accelerator: Accelerator, objective: nn.Module, cpu_offload: bool = False) -> None:
        super().__init__(accelerator, objective)
        divide(self.module, offload_policy(accelerator.device) if cpu_offload else None)
        # T5's layers give their attention bias as a view, which nothing changes in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        self._empty()

    @contextmanager
    def exchange(self, now: bool) -> Iterator[None]:
        """See `Engine`."""
        cast(FSDPModule, self.module).set_requires_gradient_sync(now)
        yield

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """See `Engine`."""
        self.accelerator.unscale_gradients()
        norm = full(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm


def engine_for(name: EngineName, accelerator: Accelerator, objective: nn.Module, cpu_offload: bool = False) -> Engine:
    """The engine of that name; one process needs neither `ddp` nor `fsdp`.

    Args:
        cpu_offload: see `ShardedEngine` and `BMTrainEngine`; of no other engine.
    """
    if name == "bmtrain":
        from utils.engine.bmtrain_engine import BMTrainEngine  # which imports this file

        return BMTrainEngine(accelerator, objective, cpu_offload)
    if name == "fsdp" and accelerator.num_processes > 1:
        return ShardedEngine(accelerator, objective, cpu_offload)
    return Engine(accelerator, objective)


def copy_of(objective: nn.Module) -> nn.Module:
    """A copy with the same buffers and with parameters of its own, whose numbers still lie where those of the original
    do: to divide a model should not take the memory of two.
    """
    own = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in objective.parameters()}
    made = copy.deepcopy(objective, cast(dict[int, Any], own))
    for mine, theirs in zip(made.modules(), objective.modules(), strict=True):
        mine._buffers = theirs._buffers
    return made


def offload_policy(device: torch.device) -> OffloadPolicy:
    """Shares in the machine's memory, pinned where a GPU fetches them; for processes on CPUs that is where they are."""
    return CPUOffloadPolicy(pin_memory=device.type != "cpu")


def divide(module: nn.Module, policy: OffloadPolicy | None = None) -> None:
    """Divide all parameters among the processes, in place: layer by layer, then the rest."""
    kept = policy or OffloadPolicy()
    for layer in own_layers(module):
        fully_shard(layer, offload_policy=kept)
    fully_shard(module, offload_policy=kept)


def own_layers(module: nn.Module) -> list[nn.Module]:
    """The layers whose parameters are gathered together, each when it runs; the rest of `module` is one group more.

    Layers that share a parameter with something outside them, as those of a matrix bank, belong to the rest: two groups
    would make two parameters of it.
    """
    homes: dict[int, set[int]] = defaultdict(set)
    layers = _layers(module)
    inside = {id(part): number for number, layer in enumerate(layers) for part in layer.modules()}
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            homes[id(parameter)].add(inside.get(id(part), -1))
    return [layer for layer in layers if all(len(homes[id(parameter)]) == 1 for parameter in layer.parameters())]


def _layers(module: nn.Module) -> list[nn.Module]:
    """Transformer layers of the models inside, each once, by the names that the library gives them."""
    names = {name for m in module.modules() if isinstance(m, PreTrainedModel) for name in m._no_split_modules or ()}
    return [part for part in module.modules() if type(part).__name__ in names]


class Division(Protocol):
    """How a parameter lies among the processes, and whatever is as large as it, as the optimizer's state is."""

    #: Of the whole parameter.
    shape: torch.Size

    def whole(self, part: Tensor) -> Tensor:
        """All of a tensor of which this process has `part`; all processes have to call together."""
        ...

    def part(self, whole: Tensor) -> Tensor:
        """This process's part of a tensor that each of them has."""
        ...


def mark_divided(parameter: nn.Parameter, division: Division) -> None:
    """From here on `full`, `divided_like` and `whole_shape` know that a process has a part of `parameter`."""
    setattr(parameter, _DIVISION, division)


def is_divided(parameter: nn.Parameter) -> bool:
    """Whether a process has only a part of `parameter`."""
    return isinstance(parameter, DTensor) or hasattr(parameter, _DIVISION)


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """Shape of all of a parameter, divided or not."""
    division: Division | None = getattr(parameter, _DIVISION, None)
    return parameter.shape if division is None else division.shape


def full(tensor: Tensor, parameter: nn.Parameter | None = None) -> Tensor:
    """All of a divided tensor, on every process, which have to ask for it together; any other tensor as it is.

    Args:
        parameter: that it is, or whose optimizer state it is.
    """
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    division: Division | None = getattr(parameter, _DIVISION, None)
    return tensor if division is None or tensor.dim() == 0 else division.whole(tensor)


def divided_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """`tensor` on the device of `parameter` and divided like it, if it is; every process gives the same one."""
    division: Division | None = getattr(parameter, _DIVISION, None)
    if division is not None:
        return division.part(tensor.to(parameter.device))
    if not isinstance(parameter, DTensor):
        return tensor.to(parameter.device)
    mesh = parameter.device_mesh
    divided = distribute_tensor(tensor.to(mesh.device_type), mesh, parameter.placements, src_data_rank=None)
    return divided.to(parameter.device)  # with `--cpu_offload`, shares of a GPU's tensors lie elsewhere
