"""Memory, messages and time of one GPU, from a step's trace and the number of GPUs.

Parameters, gradients and AdamW's two states are float32 (4 bytes a number); bf16 is autocast over them. W GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from utils.engine.engines import EngineName, own_layers
from utils.scaling.trace import Trace, size_of

#: Of AdamW, beside the parameter: both moments.
_STATES = 2


@dataclass(frozen=True)
class Sizes:
    """Parameters of an objective, in bytes.

    Attributes:
        frozen, trained: all of them.
        rest: outside the layers; FSDP2 holds it gathered from the first layer's run to the end of the backward pass.
        layer, layer_trained: the largest layer, and the largest trained part of one.
        layers: number of layers, a teacher's included.
    """

    frozen: int
    trained: int
    rest: int
    layer: int
    layer_trained: int
    layers: int


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU (`host`: of the machine's memory, per GPU).

    Attributes:
        activations: what the backward pass needs, and temporaries.
        gathered: FSDP2's whole layers; under DDP the buffers in which gradients are exchanged.
    """

    frozen: float
    trained: float
    gradients: float
    optimizer: float
    activations: float
    gathered: float
    host: float = 0.0

    @property
    def total(self) -> float:
        """Bytes of the GPU."""
        parts = (self.frozen, self.trained, self.gradients, self.optimizer, self.activations, self.gathered)
        return sum(parts)


@dataclass(frozen=True)
class Links:
    """Assumed rates in bytes per second and GPU, of a ring of all GPUs: inside a machine, and between machines."""

    inside: float
    between: float
    gpus_per_machine: int

    def rate(self, gpus: int) -> float:
        """Of the slowest link."""
        return self.inside if gpus <= self.gpus_per_machine else self.between


def sizes_of(objective: nn.Module) -> Sizes:
    """Of an objective, also on the meta device."""
    layers = own_layers(objective)
    trained = size_of(p for p in objective.parameters() if p.requires_grad)
    inside = [size_of(layer.parameters()) for layer in layers]
    whole = size_of(objective.parameters())
    most = max((size_of(p for p in layer.parameters() if p.requires_grad) for layer in layers), default=0)
    return Sizes(whole - trained, trained, whole - sum(inside), max(inside, default=0), most, len(layers))


def memory(sizes: Sizes, used: float, engine: EngineName, gpus: int, offload: bool = False) -> Memory:
    """Bytes per GPU.

    Args:
        used: by activations, see `Trace`.
    """
    if gpus == 1:
        return Memory(sizes.frozen, sizes.trained, sizes.trained, _STATES * sizes.trained, used, 0)
    if engine == "ddp":
        return Memory(sizes.frozen, sizes.trained, sizes.trained, _STATES * sizes.trained, used, sizes.trained)
    frozen, trained = sizes.frozen / gpus, sizes.trained / gpus
    # The layer that runs, the next one on its way, and the gradients of one until they are divided.
    gathered = sizes.rest + 2 * sizes.layer + sizes.layer_trained
    if offload:
        return Memory(0, 0, 0, 0, used, gathered, host=frozen + (2 + _STATES) * trained)
    return Memory(frozen, trained, trained, _STATES * trained, used, gathered)


def sent_bytes(sizes: Sizes, trace: Trace, engine: EngineName, gpus: int) -> float:
    """Bytes that a GPU sends per step: in a ring, each of W processes passes on (W - 1) / W of what is exchanged.

    FSDP2 fetches layers ahead, and behind the student's first one the last of the teacher's pass, in vain.
    """
    share = (gpus - 1) / gpus
    if engine == "ddp":
        return 2 * share * sizes.trained
    return share * (trace.gather_bytes + sizes.layer + sizes.trained)


def step_seconds(compute: float, sent: float, gpus: int, links: Links) -> tuple[float, float]:
    """Shortest and longest time of a step: messages hidden behind the computation, or none of them."""
    messages = sent / links.rate(gpus)
    return max(compute, messages), compute + messages
