"""What one process's mean counts for in the mean over all processes.

The training loop weighs a process's loss by its rows, so a mean over rows is the same for any number of processes. A
mean over something else, such as tokens, of which the processes have unlike numbers per row, is multiplied by `share`:

    mean over all processes' n = 1/P · Σ over processes p of (rows_p · P / rows) · share_p · (mean over p's own n_p)
    share_p = (n_p / n) / (rows_p / rows)
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

#: What a mean may be over: real tokens; labels that are not -100; padded positions of the encoder and the decoder.
Unit = Literal["tokens", "labels", "positions", "decoder_positions"]


def share(batch: dict[str, Tensor], unit: Unit) -> Tensor | float:
    """The factor of a mean over `unit`: a scalar that the training loop put into the batch; 1 in a run of one process.

    Of a process without a row that counts it is 0.
    """
    return batch.get(share_key(unit), 1.0)


def share_key(unit: Unit) -> str:
    """The name under which a batch has it."""
    return f"share_of_{unit}"
