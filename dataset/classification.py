"""An encoder's input for sentence and sentence-pair classification.

A BERT reads ``[CLS] a [SEP]`` or ``[CLS] a [SEP] b [SEP]``, a T5 ``a </s>`` or ``a </s> b </s>``.

Shapes: B rows, L length.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dataset.chunking import chunked
from dataset.collate import Batch, Collator
from dataset.errors import DataError
from dataset.features import Feature
from dataset.glue import GlueExample
from dataset.tokenisation import beginning, token_ids

_CHUNK = 2048  # rows tokenised at once


@dataclass(frozen=True, slots=True)
class PairFeature(Feature):
    """A feature whose ``input_ids`` belong to the second segment (token type 1) from ``second_at`` on."""

    second_at: int = 0


@dataclass(frozen=True)
class PairCollator:
    """Pads ``PairFeature`` rows as ``collate`` does, and adds ``token_type_ids`` (B, L) int64, 0 at padding."""

    collate: Collator

    def __call__(self, rows: Sequence[Feature], reference: Sequence[Feature] | None = None) -> Batch:
        """See ``Collator``; all rows are ``PairFeature``."""
        batch = self.collate(rows, reference)
        position = torch.arange(batch["input_ids"].shape[1])
        starts = torch.tensor([row.second_at for row in rows if isinstance(row, PairFeature)])
        second = (position >= starts[:, None]).long()
        return {**batch, "token_type_ids": second * batch["attention_mask"]}


def truncate_pair(first: Sequence[int], second: Sequence[int], budget: int) -> tuple[Sequence[int], Sequence[int]]:
    """Both sequences cut at their ends to ``budget`` tokens together: the longer side loses, on a tie the second."""
    lengths = [len(first), len(second)]
    while sum(lengths) > budget:
        lengths[0 if lengths[0] > lengths[1] else 1] -= 1
    return first[: lengths[0]], second[: lengths[1]]


def marks_of(tokenizer: Any, max_length: int) -> tuple[list[int], int]:
    """What stands before a row and what ends each of its texts: [CLS] and [SEP] of a BERT, nothing and </s> of a T5.

    Raises:
        DataError: the tokenizer has neither, or ``max_length`` leaves no room for text.
    """
    if max_length < 4:
        raise DataError(f"--max_seq_length {max_length} leaves no room for text, expected at least 4")
    cls, sep, end = (getattr(tokenizer, f"{name}_token_id", None) for name in ("cls", "sep", "eos"))
    if cls is not None and sep is not None:
        return [cls], sep
    if end is None:
        raise DataError("the tokenizer has neither [CLS] and [SEP] nor </s>: a vocabulary of a BERT or T5 is needed")
    return [], end


def encode_pairs(examples: Iterable[GlueExample], tokenizer: Any, max_length: int) -> Iterator[PairFeature]:
    """Features of single sentences and of pairs, in order.

    An empty second text, or one without a single token, makes a single sentence.

    Args:
        examples: rows of a task.
        tokenizer: a BERT's or T5's; see ``marks_of``.
        max_length: most tokens of a row, special ones included.

    Raises:
        DataError: the tokenizer has no such tokens, or ``max_length`` leaves no room for text.
    """
    marks = marks_of(tokenizer, max_length)
    for rows in chunked(examples, _CHUNK):
        firsts = token_ids(tokenizer, [beginning(tokenizer, row.text_a, max_length) for row in rows])
        seconds = token_ids(tokenizer, [beginning(tokenizer, row.text_b or "", max_length) for row in rows])
        for row, first, second in zip(rows, firsts, seconds, strict=True):
            yield _feature(row, first, second, marks, max_length)


def _feature(
    row: GlueExample, first: list[int], second: list[int], marks: tuple[list[int], int], max_length: int
) -> PairFeature:
    before, end = marks
    budget = max_length - len(before) - 1
    if row.text_b:  # as the original does, also where its text has no tokens
        kept_first, kept_second = truncate_pair(first, second, budget - 1)
    else:
        kept_first, kept_second = first[:budget], []
    ids = [*before, *kept_first, end]
    second_at = len(ids)
    if kept_second:
        ids += [*kept_second, end]
    is_cut = len(kept_first) + len(kept_second) < len(first) + (len(second) if row.text_b else 0)
    return PairFeature(row.index, array("i", ids), row.label, is_cut=is_cut, second_at=second_at)
