"""What all benchmarks share: settings, the interleaved comparison, the table and the JSON file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metric.cost import PairedTiming, interleaved_ratio
from utils.engine.precision import choose_precision
from utils.measured import environment
from utils.outputs import check_file, json_with
from utils.pages import write_measured
from utils.writing import write_json

#: One of these is in every row of what a benchmark writes.
_OWN = ("wall_ratio", "time_ratio")


@dataclass(frozen=True)
class Settings:
    """What the flags that all have ask for."""

    json: Path | None
    page: Path | None
    threads: int
    repeats: int
    device: torch.device


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Apply the common flags to this process and return them; `--precision auto` becomes what it stands for."""
    if arguments.json is not None:
        check_file("--json", arguments.json, lambda path: any(json_with(key)(path) for key in _OWN))
    torch.set_num_threads(arguments.threads)
    if hasattr(arguments, "precision"):
        choice = choose_precision(arguments.precision, arguments.device)
        print("\n".join(choice.lines), file=sys.stderr)
        arguments.precision = choice.precision
    return Settings(
        arguments.json, arguments.page, arguments.threads, arguments.repeats, torch.device(arguments.device)
    )


def sizes_from(arguments: argparse.Namespace, base: Mapping[str, int]) -> dict[str, int]:
    """The sizes that were asked for, by the names of `base`."""
    return {name: getattr(arguments, name) for name in base}


def compare(
    name: str,
    batch: int,
    length: int,
    dense: Callable[[], object],
    compressed: Callable[[], object],
    macs_ratio: float,
    settings: Settings,
    **extra: Any,
) -> dict[str, Any]:
    """Time both sides in turns (A B A B …) and give one row; `quotient` is wall-clock ratio / MACs ratio."""
    timing: PairedTiming = interleaved_ratio(dense, compressed, repeats=settings.repeats, device=settings.device)
    return {
        "name": name,
        "batch": batch,
        "length": length,
        "wall_ratio": timing.ratio,
        "macs_ratio": macs_ratio,
        "quotient": timing.ratio / macs_ratio,
        "wall_ratio_p25": timing.ratio_p25,
        "wall_ratio_p75": timing.ratio_p75,
        "dense_ms": timing.first_ms,
        "compressed_ms": timing.second_ms,
        "pairs": timing.pairs,
        **extra,
    }


def report(rows: Sequence[dict[str, Any]], settings: Settings, block: str = "") -> None:
    """Print the table and write the JSON; the page's table goes into its block of that name."""
    head = f"{'name':<20} {'batch':>5} {'length':>6} {'wall ratio':>10} {'quartiles':>13}"
    head += f" {'MACs ratio':>10} {'quotient':>8}"
    print(head)
    print("-" * len(head))
    for row in rows:
        quartiles = f"{row['wall_ratio_p25']:.2f} - {row['wall_ratio_p75']:.2f}"
        print(
            f"{row['name']:<20} {row['batch']:>5} {row['length']:>6} {row['wall_ratio']:>10.3f} {quartiles:>13} "
            f"{row['macs_ratio']:>10.3f} {row['quotient']:>8.3f}"
        )
    versions = environment()["versions"]
    note = f"{settings.threads} threads on {settings.device}, torch {versions['torch']}; medians over pairs A B A B …"
    print(note)
    if settings.page is not None:
        write_measured(settings.page, [*markdown_table(rows), "", note], block)
        print(f"made: {settings.page}")
    if settings.json is not None:
        write_json(settings.json, list(rows))
        print(f"made: {settings.json}")


def markdown_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows of a comparison as Markdown lines."""
    lines = [
        "| | batch x length | dense ms | compressed ms | wall-clock ratio (quartiles) | MACs ratio | quotient |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['name']} | {row['batch']} x {row['length']} | {row['dense_ms']:.1f} | "
            f"{row['compressed_ms']:.1f} | "
            f"{row['wall_ratio']:.2f} ({row['wall_ratio_p25']:.2f} - {row['wall_ratio_p75']:.2f}) | "
            f"{row['macs_ratio']:.2f} | {row['quotient']:.2f} |"
        )
    return lines
