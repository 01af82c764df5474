"""What a model costs: parameters, bytes on disk, multiply-accumulates, time and memory.

Units are in the names: `_bytes`, `_ms`; MACs are multiply-accumulates (half of what torch calls FLOPs).
"""

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, mm_flop, sdpa_flop_count

from metric.errors import MetricError
from metric.formulas import t5_decoder_macs, t5_encoder_macs

__all__ = [
    "Latency",
    "PairedTiming",
    "ParameterCounts",
    "count_macs",
    "delta_bytes",
    "interleaved_ratio",
    "latency_ms",
    "macs_at_lengths",
    "parameter_counts",
    "peak_memory_bytes",
    "t5_decoder_macs",
    "t5_encoder_macs",
]


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters; a tensor that several modules share counts once."""

    total: int
    trainable: int

    @property
    def trainable_share(self) -> float:
        """Trainable parameters as a fraction of all of them; 0.0 for a model without parameters."""
        return self.trainable / self.total if self.total else 0.0


def parameter_counts(model: torch.nn.Module) -> ParameterCounts:
    """All parameters of the model, and those that are trained (`requires_grad`)."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterCounts(
        total=sum(size for size, _ in sizes), trainable=sum(size for size, trained in sizes if trained)
    )


def delta_bytes(path: str | Path) -> int:
    """The size on disk of a saved delta: of one file, or of all files in a folder and below it.

    Raises:
        MetricError: there is nothing at `path`, or no file in it.
    """
    place = Path(path)
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    if not files:
        raise MetricError(f"{place} {'holds no files' if place.is_dir() else 'does not exist'}")
    return sum(file.stat().st_size for file in files)


def _cpu_attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    # Called by torch's counter with the shapes of the tensors.
    return sdpa_flop_count(query, key, value)


def _integer_product_flops(first: Any, second: Any, *_: Any, **__: Any) -> int:
    return mm_flop(first, second)


# torch's counter knows the fused attention kernels of GPUs but not the one that a CPU uses without gradients:
# left alone, attention would count on a GPU and in training, and be missing on a CPU in evaluation. Nor does it know
# products of integers, which a quantised model's are.
_UNKNOWN = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops,
    torch.ops.aten._int_mm: _integer_product_flops,
}


def count_macs(function: Callable[[], object]) -> int:
    """The multiply-accumulates of one call of `function`, counted by torch's FlopCounterMode (its FLOPs / 2).

    Matrix products, convolutions and attention count, whether attention is fused or not; element-wise work
    (softmax, norms, activations, sums) does not. The call runs without gradients, on whatever device its
    tensors are: on the meta device nothing is computed and the count is the same, which makes large models
    cheap to count (Hugging Face models then need to be called without an attention mask). Compiled graphs are
    not seen.

    The function is run as it is: what it pads is counted, so pass real, unpadded lengths (`macs_at_lengths`).
    """
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_UNKNOWN) as counter:
        function()
    return counter.get_total_flops() // 2


def macs_at_lengths(forward: Callable[[int], object], lengths: Iterable[int]) -> float:
    """The mean multiply-accumulates per example at the examples' real lengths.

    Args:
        forward: runs one example of the given number of tokens (batch of one, no padding).
        lengths: the length in tokens of every example. Each distinct length is run once.

    Raises:
        MetricError: no lengths, or one below 1.
    """
    occurrences = Counter(lengths)
    if not occurrences:
        raise MetricError("no lengths to count at, expected at least one")
    if min(occurrences) < 1:
        raise MetricError(f"found the length {min(occurrences)}, expected at least 1 token")
    total = sum(count_macs(partial(forward, length)) * times for length, times in occurrences.items())
    return total / occurrences.total()


@dataclass(frozen=True)
class Latency:
    """Wall-clock milliseconds per call: the median and the 95th percentile over `repeats` calls."""

    p50_ms: float
    p95_ms: float
    repeats: int


@dataclass(frozen=True)
class PairedTiming:
    """Two functions timed in turns.

    `ratio` is the median over pairs of first / second, above 1 where the second is faster; its quartiles say
    how far the pairs scatter. `first_ms` and `second_ms` are the medians of either side.
    """

    ratio: float
    ratio_p25: float
    ratio_p75: float
    first_ms: float
    second_ms: float
    pairs: int


def _timed_ms(function: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call, with everything that was queued on the device before and by it finished."""
    _synchronize(device)
    start = time.perf_counter()
    function()
    _synchronize(device)
    return (time.perf_counter() - start) * 1e3


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _check_counts(warmup: int, repeats: int) -> None:
    if warmup < 0 or repeats < 1:
        raise MetricError(f"warmup is {warmup} and repeats is {repeats}, expected at least 0 and at least 1")


def latency_ms(
    function: Callable[[], object],
    *,
    warmup: int = 5,
    repeats: int = 30,
    device: str | torch.device = "cpu",
) -> Latency:
    """Times `repeats` calls after `warmup` untimed ones, waiting for the device around each.

    The caller decides on gradients and threads (`torch.inference_mode`, `torch.set_num_threads`).

    Raises:
        MetricError: fewer than 0 warm-up calls or than 1 repeat.
    """
    _check_counts(warmup, repeats)
    place = torch.device(device)
    for _ in range(warmup):
        function()
    times = [_timed_ms(function, place) for _ in range(repeats)]
    p50, p95 = np.percentile(times, (50, 95))
    return Latency(p50_ms=float(p50), p95_ms=float(p95), repeats=repeats)


def interleaved_ratio(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    warmup: int = 3,
    repeats: int = 30,
    device: str | torch.device = "cpu",
) -> PairedTiming:
    """Times two functions in turns, A B A B …, and compares each call with its neighbour.

    A shared machine drifts by tens of percent within minutes; neighbours drift together, so the median of
    their ratios holds still where the ratio of two separate measurements does not.

    Args:
        first: usually the dense model.
        second: usually the compressed one.
        warmup: untimed pairs.
        repeats: timed pairs.
        device: where both run.

    Raises:
        MetricError: fewer than 0 warm-up pairs or than 1 repeat.
    """
    _check_counts(warmup, repeats)
    place = torch.device(device)
    for _ in range(warmup):
        first()
        second()
    pairs = np.array([(_timed_ms(first, place), _timed_ms(second, place)) for _ in range(repeats)])
    p25, p50, p75 = np.percentile(pairs[:, 0] / pairs[:, 1], (25, 50, 75))
    first_ms, second_ms = np.median(pairs, axis=0)
    return PairedTiming(
        ratio=float(p50),
        ratio_p25=float(p25),
        ratio_p75=float(p75),
        first_ms=float(first_ms),
        second_ms=float(second_ms),
        pairs=repeats,
    )


def peak_memory_bytes(function: Callable[[], object], *, device: str | torch.device = "cpu") -> int:
    """The peak memory while `function` runs once, what was there before included.

    On a GPU: bytes that torch had allocated on it. On a CPU: the resident set of the whole process, its peak
    reset before the call where Linux allows it; elsewhere the peak of the process's life so far, which can
    only be larger.
    """
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.synchronize(place)
        torch.cuda.reset_peak_memory_stats(place)
        function()
        torch.cuda.synchronize(place)
        return torch.cuda.max_memory_allocated(place)
    resettable = _reset_peak_resident_set()
    function()
    return _peak_resident_set(since_reset=resettable)


def _reset_peak_resident_set() -> bool:
    """Whether the kernel took the request (proc(5): writing 5 to clear_refs resets VmHWM)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak_resident_set(since_reset: bool) -> int:
    if since_reset:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
