"""Speed and quality of the Tucker decomposition beside `tensorly.decomposition.tucker` with its defaults.

python -m benchmarks.decomposition --json decomposition.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.arguments import parse_decomposition

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse_decomposition)  # before the libraries load

import tensorly
import tensorly.decomposition
import torch
from torch import Tensor

from benchmarks.common import Settings, settings_from
from metric.cost import interleaved_ratio
from model.decomposition.tucker import Ranks, relative_error, tucker
from utils.errors import run_as_script
from utils.measured import environment
from utils.pages import write_measured
from utils.writing import write_json

#: How fast the singular values of each unfolding fall in the made-up weights, and the size of their entries.
_DECAY, _SPREAD = (0.2, 0.3, 0.3), 0.04


def made_up_weights(shape: Sequence[int], seed: int = 0) -> Tensor:
    """Random matrices whose spectra fall as a power of the index, in random orthonormal bases."""
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(*shape, generator=generator)
    for mode, (size, power) in enumerate(zip(shape, _DECAY, strict=True)):
        basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator))
        scaled = basis * torch.arange(1, size + 1) ** -power
        tensor = torch.tensordot(tensor, scaled, dims=([0], [1]))  # the new mode comes last: after three, all are back
        assert tensor.shape[-1] == shape[mode]
    return (tensor * (_SPREAD / tensor.std())).contiguous()


class Timed:
    """A decomposition that keeps the relative error of its last call."""

    def __init__(self, function: Callable[[], float]) -> None:
        self._function = function
        self.error = float("nan")

    def __call__(self) -> None:
        """Run it."""
        self.error = self._function()


def by_tensorly(tensor: Tensor, ranks: Ranks) -> float:
    """Relative error of tensorly's result; NumPy arrays and its default settings."""
    core, factors = tensorly.decomposition.tucker(tensor.cpu().numpy(), rank=list(ranks))
    return relative_error(tensor.cpu(), torch.from_numpy(tensorly.tucker_to_tensor((core, factors))))


def by_gram_matrices(tensor: Tensor, ranks: Ranks) -> float:
    """Relative error of this toolkit's result."""
    return tucker(tensor, ranks).relative_error


def measure(tensor: Tensor, ranks: Ranks, settings: Settings) -> dict[str, Any]:
    """Both in turns; `time_ratio` is tensorly's time over ours, `error_ratio` our error over tensorly's."""
    theirs, ours = Timed(partial(by_tensorly, tensor, ranks)), Timed(partial(by_gram_matrices, tensor, ranks))
    timing = interleaved_ratio(theirs, ours, warmup=0, repeats=settings.repeats, device=settings.device)
    return {
        "ranks": list(ranks),
        "tensorly_s": timing.first_ms / 1e3,
        "ours_s": timing.second_ms / 1e3,
        "time_ratio": timing.ratio,
        "tensorly_error": theirs.error,
        "our_error": ours.error,
        "error_ratio": ours.error / theirs.error,
        "pairs": timing.pairs,
    }


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as Markdown lines."""
    lines = [
        "| ranks | tensorly, s | here, s | times faster | error of tensorly | error here | error ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ranks = ", ".join(map(str, row["ranks"]))
        lines.append(
            f"| {ranks} | {row['tensorly_s']:.1f} | {row['ours_s']:.1f} | {row['time_ratio']:.1f} | "
            f"{row['tensorly_error']:.4f} | {row['our_error']:.4f} | {row['error_ratio']:.5f} |"
        )
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    given = parse_decomposition(arguments)
    settings = settings_from(given)
    tensor = made_up_weights(given.shape).to(settings.device)
    rows = [measure(tensor, Ranks(*ranks), settings) for ranks in given.ranks]
    lines, versions = table(rows), environment()["versions"]
    note = (
        f"{' x '.join(map(str, given.shape))}, {settings.threads} threads on {settings.device}, "
        f"torch {versions['torch']}, tensorly {tensorly.__version__}; median of {settings.repeats} pair(s)"
    )
    print("\n".join([*lines, note]))
    if settings.page is not None:
        write_measured(settings.page, [*lines, "", note])
        print(f"made: {settings.page}")
    if settings.json is not None:
        write_json(settings.json, rows)
        print(f"made: {settings.json}")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
