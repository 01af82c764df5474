"""A training worked out for several numbers of GPUs, as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.gradient_checkpointing import enable_for_trained
from utils.engine.engines import EngineName
from utils.scaling.memory import Links, Sizes, memory, sent_bytes, sizes_of, step_seconds
from utils.scaling.setups import Setup
from utils.scaling.trace import Trace, extrapolated, without_numbers

#: Numbers of layers that are looked at; one more costs what any one more does.
_FEW, _MORE = 2, 3
#: Engine, and whether the shares lie in the machine's memory.
_KINDS: tuple[tuple[EngineName, bool], ...] = (("ddp", False), ("fsdp", False), ("fsdp", True))
_HEAD = (
    "| GPUs | engine | parameters | gradients, AdamW | gathered, buffers | activations (checkpointing) | "
    "GiB per GPU (checkpointing) | host | sent, GB | messages, s | step, s (checkpointing) |"
)


@dataclass(frozen=True)
class Rate:
    """How fast one device is: tokens of the training's input, or MACs, per second; neither where it is not known.

    Attributes:
        told: the same in words.
    """

    tokens: float | None = None
    macs: float = 0.0
    told: str = ""

    def seconds(self, setup: Setup, macs: float, more: float) -> float | None:
        """Of a micro-batch on one device; None if the rate is not known.

        Args:
            macs: multiply-accumulates of the step whose tokens were counted.
            more: those of the step that is asked for.
        """
        if self.tokens is not None:
            return setup.tokens / self.tokens * more / macs
        return more / self.macs if self.macs else None


@dataclass(frozen=True)
class Worked:
    """A training's traces at its full depth: as it is, and with gradient checkpointing."""

    setup: Setup
    sizes: Sizes
    plain: Trace
    checkpointing: Trace


def work_out(setup: Setup, bf16: bool) -> Worked:
    """Look at two small numbers of layers and go on evenly from there."""
    sizes = sizes_of(setup.objective(setup.layers))
    return Worked(setup, sizes, _whole(setup, bf16, False), _whole(setup, bf16, True))


def _whole(setup: Setup, bf16: bool, checkpointing: bool) -> Trace:
    traces: list[Trace] = []
    for layers in (_FEW, _MORE):
        objective = setup.objective(layers)
        if checkpointing:
            enable_for_trained(objective)
        traces.append(without_numbers(objective, setup.batch(), bf16))
    return extrapolated(traces[0], traces[1], (setup.layers - _FEW) / (_MORE - _FEW))


def table(worked: Worked, gpus: Sequence[int], rate: Rate, links: Links) -> list[str]:
    """A row for one GPU, and for every number of GPUs one per engine; GiB are 2^30 bytes, GB 10^9."""
    lines = [_HEAD, "|---|---|---|---|---|---|---|---|---|---|---|"]
    for number in dict.fromkeys((1, *gpus)):
        for engine, offload in _KINDS if number > 1 else _KINDS[:1]:
            lines.append(_row(worked, number, engine, offload, rate, links))
    return lines


def _row(worked: Worked, gpus: int, engine: EngineName, offload: bool, rate: Rate, links: Links) -> str:
    traces = worked.plain, worked.checkpointing
    plain, again = (memory(worked.sizes, t.activation_bytes, engine, gpus, offload) for t in traces)
    sent = sent_bytes(worked.sizes, worked.plain, engine, gpus) if gpus > 1 else 0.0
    name = "none" if gpus == 1 else f"{engine}, --cpu_offload" if offload else engine
    cells = [
        *(str(gpus), name, _gib(plain.frozen + plain.trained), _gib(plain.gradients + plain.optimizer)),
        *(_gib(plain.gathered), _both(plain.activations, again.activations), _both(plain.total, again.total)),
        *(_gib(plain.host), f"{sent / 1e9:.2f}", f"{sent / links.rate(gpus):.2g}"),
        _times(worked, sent, gpus, rate, links),
    ]
    return f"| {' | '.join(cells)} |"


def _times(worked: Worked, sent: float, gpus: int, rate: Rate, links: Links) -> str:
    texts = []
    for trace in (worked.plain, worked.checkpointing):
        compute = rate.seconds(worked.setup, worked.plain.macs, trace.macs)
        if compute is None:
            return "not known"
        low, high = step_seconds(compute, sent, gpus, links)
        texts.append(" - ".join(dict.fromkeys((_seconds(low), _seconds(high)))))
    return f"{texts[0]} ({texts[1]})"


def _seconds(time: float) -> str:
    return f"{time:.3g}" if time < 100 else f"{time:,.0f}"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"


def _both(plain: float, again: float) -> str:
    return f"{_gib(plain)} ({_gib(again)})"
