"""A training step with tensors that have shapes and no numbers: what it keeps, and what it computes.

The step is that of the training loop (`utils.engine.trainer`), up to the optimizer. It costs no memory, so that models
of any size can be looked at; on tensors with numbers the same code measures.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from utils.engine.engines import own_layers

Batch = Mapping[str, Tensor]
#: A tensor without numbers that is asked for one (whether all rows are full, say) says yes.
_QUESTIONS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


#: Operation -> its FLOPs; torch leaves out the attention kernel of CPUs.
_FLOPS: Mapping[Any, Callable[..., int]] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@dataclass(frozen=True)
class Trace:
    """One micro-batch forwards and backwards, of all pieces of the loss.

    Attributes:
        activation_bytes: largest amount of memory in use at once beside parameters and their gradients.
        gather_bytes: parameters that FSDP2 gathers, each time that it does.
        macs: multiply-accumulates, as `metric.cost.count_macs` counts them; of layers that run again too.
    """

    activation_bytes: float
    gather_bytes: float
    macs: float


class Meter(TorchDispatchMode):
    """Counts what happens inside the block: bytes of the tensors that come into being, while they live, and FLOPs.

    (torch's `FlopCounterMode` keeps tensors alive that gradient checkpointing would let go.)

    Args:
        known: tensors that were there before and do not count.
        without_numbers: whether questions for numbers are answered by 1.

    Attributes:
        live: bytes in use now.
        peak: the most so far.
        flops: of matrix products and attention; two per multiply-accumulate.
    """

    def __init__(self, known: Iterable[Tensor], without_numbers: bool = False) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._sizes: dict[int, int] = {}
        self._known = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in known)}
        self._without_numbers = without_numbers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every operation."""
        if self._without_numbers and func in _QUESTIONS:
            return args[0].dtype is torch.bool or 1
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if (count := _FLOPS.get(func.overloadpacket)) is not None:
            self.flops += count(*args, **kwargs, out_val=made)
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._sizes and key not in self._known:
            self._sizes[key] = storage.nbytes()
            self.live += self._sizes[key]
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def trace_step(objective: nn.Module, batch: Batch, bf16: bool = False) -> Trace:
    """Go through a step of `objective`; hooks stay on it."""
    objective.train()
    pieces, gathered = int(getattr(objective, "pieces", 1)), 0

    def gather(layer: nn.Module, args: Any) -> None:
        nonlocal gathered
        gathered += size_of(layer.parameters()) * (2 if torch.is_grad_enabled() else 1)  # once more on the way back

    layers = own_layers(objective)
    for layer in layers:
        layer.register_forward_pre_hook(gather)
    known = [*objective.parameters(), *objective.buffers(), *batch.values()]
    fake = any(isinstance(tensor, FakeTensor) for tensor in known)
    with Meter(known, without_numbers=fake) as meter:
        for piece in range(pieces):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = (objective(batch, piece) if pieces > 1 else objective(batch))[0]
            loss.backward()
            del loss
        peak, flops = meter.peak, meter.flops
    gradients = size_of(p.grad for p in objective.parameters() if p.grad is not None)
    objective.zero_grad(set_to_none=True)
    rest = size_of(objective.parameters()) - sum(size_of(layer.parameters()) for layer in layers)
    return Trace(max(peak - gradients, 0), gathered + pieces * rest, flops / 2)


def extrapolated(few: Trace, more: Trace, steps: float) -> Trace:
    """The trace of `steps` times as many layers beyond `few` as `more` has: all numbers grow evenly with the layers."""
    pairs = zip(astuple(few), astuple(more), strict=True)
    return Trace(*(a + steps * (b - a) for a, b in pairs))


def without_numbers(objective: nn.Module, batch: Batch, bf16: bool = False) -> Trace:
    """`trace_step` of a model on the meta device, whose tensors claim to lie on a CPU then; all lose their numbers.

    Precisions are those of a CPU's autocast.
    """
    with FakeTensorMode():
        replace_tensors(objective, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
        shapes = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in batch.items()}
        return trace_step(objective, shapes, bf16)


def replace_tensors(module: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
    """Put `make(tensor)` in the place of every parameter and buffer; tied parameters stay tied."""
    made: dict[int, nn.Parameter] = {}
    kept = list(module.parameters())  # as long as they live, their ids are theirs
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = nn.Parameter(make(parameter), parameter.requires_grad)
                part._parameters[name] = made[id(parameter)]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = make(buffer)
    del kept


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
