"""What compression plugins make of MACs: wall-clock of a t5-base encoder, dense against k = 2, 4, 8.

python -m benchmarks.plugin_speed --json plugin_speed.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.arguments import T5_BASE, parse_plugin_speed

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse_plugin_speed)  # before the libraries load

import torch
from transformers import T5Config, T5EncoderModel

from benchmarks.common import compare, report, settings_from, sizes_from
from metric.cost import count_macs, t5_encoder_macs
from model import PluginConfig, apply_edit, set_ratio
from utils.errors import run_as_script


def build(ratios: tuple[int, ...], sizes: dict[str, int]) -> Any:
    """A T5 encoder of the given sizes with plugins for all ratios."""
    torch.manual_seed(0)
    model = T5EncoderModel(T5Config(vocab_size=1000, dropout_rate=0.0, **sizes)).eval()
    apply_edit(model, PluginConfig(ratios))
    return model


def run(model: Any, ids: torch.Tensor, mask: torch.Tensor, precision: str, ratio: int) -> Any:
    """One forward at `ratio`, without gradients."""
    set_ratio(model, ratio)
    with torch.inference_mode(), torch.autocast(ids.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return model(input_ids=ids, attention_mask=mask)


def macs(sizes: dict[str, int], length: int, ratio: int) -> int:
    """The published accounting of one encoder pass (the adapter's first half counted per token)."""
    return t5_encoder_macs(
        d_model=sizes["d_model"],
        inner=sizes["num_heads"] * sizes["d_kv"],
        d_ff=sizes["d_ff"],
        num_layers=sizes["num_layers"],
        length=length,
        ratio=ratio,
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    given = parse_plugin_speed(arguments)
    settings = settings_from(given)
    sizes = sizes_from(given, T5_BASE)
    model = build(tuple(given.ratios), sizes).to(settings.device)
    rows = []
    for batch, length in given.shapes:
        ids = torch.randint(2, 1000, (batch, length), device=settings.device)
        forward: Callable[[int], Any] = partial(run, model, ids, torch.ones_like(ids), given.precision)
        counted = count_macs(partial(forward, 1))
        for ratio in given.ratios:
            row = compare(
                f"k={ratio}",
                batch,
                length,
                partial(forward, 1),
                partial(forward, ratio),
                macs(sizes, length, 1) / macs(sizes, length, ratio),
                settings,
                counted_macs_ratio=counted / count_macs(partial(forward, ratio)),
                precision=given.precision,
            )
            rows.append(row)
    report(rows, settings)


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
