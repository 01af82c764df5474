"""Weights of one process's losses in the whole step's, from what every process has of each batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.losses import IGNORE
from model.shares import Unit, share_key
from utils.engine.runtime import Runtime

Batch = dict[str, Tensor]


def add_shares(runtime: Runtime, group: Sequence[Batch]) -> None:
    """Put into each batch, in place, the factors that `model.shares` describes; one small message for all of them.

    Does nothing in one process, nor to batches that do not say how many of their rows count.
    """
    if runtime.world_size == 1 or not all("num_global_rows" in batch for batch in group):
        return
    everyones = runtime.gather_numbers([number for batch in group for number in _counts(batch)])
    for batch, counts_PN in zip(group, everyones.chunk(len(group), dim=1), strict=True):
        rows, tokens, labels, length, decoder_length = counts_PN.unbind(1)
        factors: dict[Unit, Tensor] = {
            "tokens": _relative(tokens, rows),
            "labels": _relative(labels, rows),
            # Each process pads to its own longest row, one process alone would pad all rows to the longest of all.
            "positions": length / length.max(),
            "decoder_positions": decoder_length / decoder_length.max().clamp(min=1),
        }
        for unit, factor in factors.items():
            batch[share_key(unit)] = factor[runtime.rank].float()


def _counts(batch: Batch) -> list[int]:
    """Rows, tokens, labels and padded lengths; a row that does not count has none but its length."""
    rows = int(batch["num_rows"])
    labels, decoder = batch.get("labels"), batch.get("decoder_input_ids")
    num_labels = 0 if labels is None else int((labels[:rows] != IGNORE).sum())
    length, decoder_length = batch["attention_mask"].shape[1], 0 if decoder is None else decoder.shape[1]
    return [rows, int(batch["attention_mask"][:rows].sum()), num_labels, length, decoder_length]


def _relative(counts_P: Tensor, rows_P: Tensor) -> Tensor:
    """Share of the counts over share of the rows, by process; 0 where there is nothing."""
    shares = counts_P / counts_P.sum().clamp(min=1)
    return torch.where(rows_P > 0, shares * rows_P.sum() / rows_P.clamp(min=1), torch.zeros_like(shares))
