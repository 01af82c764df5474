"""What compression plugins make of MACs: wall-clock of a t5-base encoder, dense against k = 2, 4, 8.

python -m benchmarks.plugin_speed --json plugin_speed.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import T5Config, T5EncoderModel

from benchmarks.common import add_shape_flags, compare, parser, report, settings_from, sizes_from
from metric.cost import count_macs, t5_encoder_macs
from model import PluginConfig, apply_edit, set_ratio
from utils.errors import run_as_script

#: t5-base (weights are random: speed does not depend on them).
BASE = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
RATIOS = (2, 4, 8)


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
    flags = parser("plugin_speed", "Wall-clock of a T5 encoder with plugins against the dense one.", repeats=15)
    add_shape_flags(flags, BASE)
    flags.add_argument("--ratios", nargs="+", type=int, default=list(RATIOS), help="default: 2 4 8")
    given = flags.parse_args(arguments)
    settings = settings_from(given)
    sizes = sizes_from(given, BASE)
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
