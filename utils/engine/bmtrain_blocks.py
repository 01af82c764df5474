"""Hugging Face's T5 in BMTrain's Blocks: what goes into them, what stays outside, and how they are called.

A Block divides its parameters among the processes (ZeRO-3) and has all of them only while it runs. BMTrain's own
wrapper would make Blocks of every list of modules, inside of each other in a T5, and several parameters of a tied one.
So each T5 layer is put into one Block here, and the rest stays as it is, in every process: embeddings, final norms, and
plugins, which the FFNs inside call through an attribute that is no module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from model.plugin.bank import PluginFFN
from utils.engine.engines import mark_divided, own_layers

#: Adds up a tensor over the processes.
Sum = Callable[[Tensor], Tensor]
#: Positions of the arguments of a T5 layer that come back beside the hidden states, changed or not.
_BIASES = (2, 5)


class _Body(nn.Module):
    """What a Block holds: a layer that takes its named arguments as a dictionary, as a Block drops named ones."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *arguments: Any) -> Any:
        """The layer's outputs."""
        *positional, named = arguments
        return self.layer(*positional, **named)


class BlockLayer(nn.Module):
    """Stands where the layer stood, and calls its Block.

    A Block of which no argument requires a gradient, but something inside does, runs its backward pass in a way of its
    own that takes a single output, where a T5 layer gives three; it would neither see a plugin that it calls. So the
    first layer's hidden states are made to require one. On the other hand a Block makes all its outputs require one:
    attention biases that are not trained are cut off again.
    """

    def __init__(self, block: nn.Module, is_trained: bool) -> None:
        super().__init__()
        self.block = block
        self.is_trained = is_trained

    def forward(self, hidden_states: Tensor, *others: Any, **named: Any) -> tuple[Any, ...]:
        """As a T5 layer: hidden states and the attention biases that the next one uses again."""
        if torch.is_grad_enabled() and not any(_requires_grad(value) for value in (hidden_states, *others)):
            hidden_states = hidden_states.detach().requires_grad_()
        given = (hidden_states, *others)
        hidden, *biases = self.block(*given, named)
        if not self.is_trained and not any(_requires_grad(value) for i, value in enumerate(given) if i in _BIASES):
            biases = [bias.detach() if isinstance(bias, Tensor) else bias for bias in biases]
        return (hidden, *biases)


class Shard:
    """`Division` of a parameter in a Block: each process has a stretch of its numbers, in the order of processes."""

    def __init__(self, shape: torch.Size, start: int, parameter: nn.Parameter, add_up: Sum) -> None:
        self.shape, self.start, self.length = shape, start, parameter.numel()
        self._device, self._add_up = parameter.device, add_up

    def whole(self, part: Tensor) -> Tensor:
        """See `Division`: everyone's stretch in a tensor of zeros, added up."""
        # Offloaded state lies in the CPU's memory, where BMTrain sends nothing from.
        own = torch.zeros(self.shape.numel(), dtype=part.dtype, device=self._device)
        own[self.start : self.start + self.length] = part.flatten().to(self._device)
        return self._add_up(own).view(self.shape)

    def part(self, whole: Tensor) -> Tensor:
        """See `Division`."""
        return whole.flatten()[self.start : self.start + self.length].clone()


def put_into_blocks(objective: nn.Module, bmt: Any, add_up: Sum) -> dict[str, nn.Parameter]:
    """Put the T5 layers of `objective` into Blocks, in place.

    Args:
        bmt: the module `bmtrain`.
        add_up: see `Sum`.

    Returns:
        All its parameters by the names that they had; those in Blocks are divided (`mark_divided`).
    """
    before = dict(objective.named_parameters())
    ffns = [part for part in objective.modules() if isinstance(part, PluginFFN)]
    # Somewhere they have to be modules, for `train` and `eval`.
    objective.add_module("plugins_outside_blocks", nn.ModuleList([_leave_out(ffn) for ffn in ffns]))
    layers = {id(layer) for layer in own_layers(objective)}
    made: dict[int, nn.Parameter] = {}
    for owner, name, layer in [place for place in _places(objective) if id(place[2]) in layers]:
        made |= _divide_parameters(layer, bmt)
        is_trained = any(parameter.requires_grad for parameter in layer.parameters())
        # Recomputing a layer on the way back would find another plugin switched on than on the way there.
        block = bmt.Block(_Body(layer), zero_level=3, use_checkpoint=False)
        setattr(owner, name, BlockLayer(block, is_trained))
    present = {name: made.get(id(parameter), parameter) for name, parameter in before.items()}
    divided = {name: parameter for name, parameter in present.items() if parameter is not before[name]}
    starts = _starts([parameter.numel() for parameter in divided.values()], bmt.rank())
    for (name, parameter), start in zip(divided.items(), starts, strict=True):
        mark_divided(parameter, Shard(before[name].shape, start, parameter, add_up))
    return present


def _leave_out(ffn: PluginFFN) -> nn.Module:
    """Plugins stay an attribute of their FFN, but no module of it: a Block takes all modules below its own."""
    bank = ffn.bank
    del ffn.bank
    object.__setattr__(ffn, "bank", bank)
    return bank


def _places(objective: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for owner in list(objective.modules()):
        for name, child in list(owner.named_children()):
            yield owner, name, child


def _divide_parameters(layer: nn.Module, bmt: Any) -> dict[int, nn.Parameter]:
    """Replace each parameter inside by one that BMTrain divides; former id -> new parameter."""
    made: dict[int, nn.Parameter] = {}
    for part in layer.modules():
        for name, parameter in part._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                values = parameter.data.contiguous()
                made[id(parameter)] = bmt.DistributedParameter(values, requires_grad=parameter.requires_grad)
            part._parameters[name] = made[id(parameter)]
    return made


def _starts(lengths: list[int], rank: int) -> list[int]:
    """Where this process's stretch of each parameter begins: behind those of the processes before it."""
    everyones: list[list[int]] = gather_object([lengths])
    return [sum(before) for before in zip(*everyones[:rank], strict=True)] if rank else [0] * len(lengths)


def _requires_grad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
