"""Which precision the products run in: the one that was asked for, or with `auto` the one that this machine is good at.

`auto` takes bf16 where the device has instructions for it and a timed product confirms it, and fp32 elsewhere. Emulated
bf16 is far slower than fp32, and a flag does not always tell emulation from instructions: so the timing decides.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from utils.engine.names import AskedPrecision, Precision
from utils.errors import UserError

#: `auto` takes bf16 from this gain over fp32 on: less would not pay for the digits that are lost.
LEAST_GAIN = 1.5
#: What torch calls bf16 instructions, on Intel and AMD, then on ARM.
_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
#: Seconds of the timing, and rows, summands and columns of the product: the faster the device, the larger it must be
#: to show its speed, and emulated bf16 takes 30 ms for the smallest.
_BUDGET_S = 0.02
#: Where instructions are there and the timing says that they do not pay, another process may have had the processor:
#: the timing goes on for so many seconds before it is believed.
_DOUBT_S = 0.5
_EMULATED_SHAPE, _CPU_SHAPE, _GPU_SHAPE = (128, 256, 256), (256, 512, 512), (2048, 2048, 2048)


@dataclass(frozen=True)
class Rates:
    """Speed of one product on a device, in GFLOP/s."""

    fp32: float
    bf16: float

    def __str__(self) -> str:
        return f"{_short(self.bf16)} GFLOP/s in bf16, {_short(self.fp32)} in fp32"


@dataclass(frozen=True)
class PrecisionChoice:
    """The precision in use, what was asked for, and why it is this one."""

    precision: Precision
    asked: AskedPrecision
    why: str
    warning: str | None = None

    @property
    def lines(self) -> list[str]:
        """What a log says of it."""
        lines = [f"precision: {self.precision} ({self.why})"]
        return [*lines, f"warning: {self.warning}"] if self.warning else lines

    @property
    def fields(self) -> dict[str, str]:
        """What a result says of it."""
        return {"precision": self.precision, "precision_why": self.why}


def choose_precision(
    asked: AskedPrecision, device: torch.device | str = "cpu", kept: Precision | None = None
) -> PrecisionChoice:
    """The precision to compute in, for a given `--precision`.

    Args:
        asked: what the user wants; anything but `auto` is obeyed, with a warning where it is slow here.
        device: where the products run.
        kept: with `auto`, the precision that a run began in and goes on with.

    Raises:
        UserError: the run that goes on needs a GPU.
    """
    place = torch.device(device)
    if asked == "auto" and kept is None:
        return _best_for(place)
    chosen = kept if asked == "auto" and kept is not None else asked
    assert chosen != "auto"
    is_kept = asked == "auto"
    if is_kept and chosen == "fp16" and place.type == "cpu":
        raise UserError("This run began in fp16, which needs a GPU: go on with --precision bf16 or fp32.")
    why = "auto: the run began in it" if is_kept else "asked for"
    return PrecisionChoice(chosen, asked, why, _slow(place, is_kept) if chosen == "bf16" else None)


def _best_for(place: torch.device) -> PrecisionChoice:
    if not has_bf16(place):
        lacks = "GPU has no bf16" if place.type == "cuda" else "processor has no bf16 (AMX or AVX512-BF16)"
        return PrecisionChoice("fp32", "auto", f"auto: this {lacks}")
    rates = product_rates(place)
    best: Precision = "bf16" if rates.bf16 >= LEAST_GAIN * rates.fp32 else "fp32"
    return PrecisionChoice(best, "auto", f"auto: a product runs at {rates}")


def _slow(place: torch.device, is_kept: bool) -> str | None:
    """The warning that bf16 is slower than fp32 on a device, if it is."""
    rates = product_rates(place)
    if rates.bf16 >= rates.fp32:
        return None
    what, cure = "--precision bf16", "fp32 or auto"
    if is_kept:
        what, cure = "this run began in bf16, which", "fp32"
    return f"{what} is slow here: a product runs at {rates}; --precision {cure} is faster."


def has_bf16(place: torch.device) -> bool:
    """Whether a device has instructions for bf16, as torch sees it."""
    if place.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found: Mapping[str, Any] = torch.cpu.get_capabilities()
    return any(found.get(name) for name in _BF16_FLAGS)


def product_rates(place: torch.device) -> Rates:
    """The speed of one product in fp32 and in bf16, on a GPU or on one core; timed once per process and device."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, a product of several threads waits for the one that is held up
    try:
        return _timed(place.type)
    finally:
        torch.set_num_threads(threads)


@lru_cache
def _timed(device: str) -> Rates:
    fast_flag = has_bf16(torch.device(device))
    on_cpu = _CPU_SHAPE if fast_flag else _EMULATED_SHAPE
    rows, inner, columns = _GPU_SHAPE if device == "cuda" else on_cpu
    operations = 2 * rows * inner * columns
    with torch.inference_mode(), torch.autocast(device, enabled=False):
        pairs = [
            (torch.ones((rows, inner), dtype=t, device=device), torch.ones((inner, columns), dtype=t, device=device))
            for t in (torch.float32, torch.bfloat16)
        ]

        def doubtful(best: list[float]) -> bool:
            return fast_flag and best[1] * LEAST_GAIN > best[0]

        for pair in pairs:
            _seconds(pair)  # the first call also loads and compiles kernels
        best = [_seconds(pair) for pair in pairs]
        started = time.perf_counter()
        while time.perf_counter() - started + sum(best) < (_DOUBT_S if doubtful(best) else _BUDGET_S):
            # In turns, as the machine may be shared.
            best = [min(least, _seconds(pair)) for pair, least in zip(pairs, best, strict=True)]
    return Rates(*(operations / seconds / 1e9 for seconds in best))


def _seconds(pair: tuple[torch.Tensor, torch.Tensor]) -> float:
    first, second = pair
    started = time.perf_counter()
    product = first @ second
    if product.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
