"""Pads features into tensors.

Shapes: B rows, L encoder length, T decoder length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dataset.features import IGNORED, Feature

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Collator:
    """Pads to the longest row; what the groups of plugins need beyond that, the model adds.

    Attributes:
        pad_id: fills ``input_ids`` and ``decoder_input_ids``.
    """

    pad_id: int

    def __call__(self, rows: Sequence[Feature], reference: Sequence[Feature] | None = None) -> Batch:
        """Tensors of ``rows``.

        Args:
            rows: B features, all with or all without a decoder side.
            reference: rows whose longest sets the lengths (default ``rows``): with the whole global batch,
                every process pads alike.

        Returns:
            int64 ``input_ids`` and ``attention_mask`` (B, L) and ``index`` (B,); for generation int64
            ``decoder_input_ids``, ``decoder_attention_mask`` and ``labels`` (B, T); for classification int64
            ``labels`` (B,), for regression float32 ``labels`` (B,); no ``labels`` where they are hidden.
        """
        reference = rows if reference is None else reference
        length = max(len(row.input_ids) for row in reference)
        input_ids, mask = _padded([row.input_ids for row in rows], length, self.pad_id)
        batch = {"input_ids": input_ids, "attention_mask": mask}
        if rows[0].decoder_input_ids is not None:
            batch |= self._decoder(rows, reference)
        elif rows[0].label is not None:
            kind = torch.float32 if isinstance(rows[0].label, float) else torch.int64
            batch["labels"] = torch.tensor([row.label for row in rows], dtype=kind)
        batch["index"] = torch.tensor([row.index for row in rows], dtype=torch.int64)
        return batch

    def _decoder(self, rows: Sequence[Feature], reference: Sequence[Feature]) -> Batch:
        length = max(len(row.decoder_input_ids or ()) for row in reference)
        decoder_ids, mask = _padded([row.decoder_input_ids or () for row in rows], length, self.pad_id)
        labels, _ = _padded([row.labels or () for row in rows], length, IGNORED)
        return {"decoder_input_ids": decoder_ids, "decoder_attention_mask": mask, "labels": labels}


def _padded(rows: Sequence[Sequence[int]], length: int, fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows filled up on the right, and the mask of their real positions; both int64 (B, length)."""
    values = np.full((len(rows), length), fill, dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for at, row in enumerate(rows):
        values[at, : len(row)] = row
        mask[at, : len(row)] = 1
    return torch.from_numpy(values), torch.from_numpy(mask)
