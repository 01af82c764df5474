"""T5's span corruption (Raffel et al. 2020, section 3.1.4): which spans are hidden, and what that gives.

A document of L tokens loses ``density * L`` tokens in spans of ``mean_span`` tokens on average. Each span is
replaced by one sentinel; the target is every sentinel followed by its span, then one more sentinel. Pure
functions on lists of ids.
"""

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypedDict

from dataset.errors import DataError
from dataset.features import DECODER_START, IGNORED, Feature
from dataset.prompts import num_sentinels, sentinel_id
from dataset.sources import Line
from dataset.tokenisation import beginning, token_ids


class Corrupted(TypedDict):
    """Encoder input, decoder input and labels of one document; the last two are of equal length."""

    input_ids: list[int]
    decoder_input_ids: list[int]
    labels: list[int]


def span_counts(length: int, density: float = 0.15, mean_span: float = 3.0) -> tuple[int, int]:
    """Number of hidden tokens and number of spans in a document of ``length`` >= 2 tokens.

    Halves are rounded to even, as in the original. At least one token is hidden and at least one is kept.
    """
    if length < 2:
        raise DataError(f"a document of {length} tokens cannot be corrupted, expected at least 2")
    num_noise = min(max(round(length * density), 1), length - 1)
    num_spans = max(round(num_noise / mean_span), 1)
    return num_noise, min(num_spans, num_noise, length - num_noise)


def random_spans(
    length: int, rng: random.Random, density: float = 0.15, mean_span: float = 3.0
) -> list[tuple[int, int]]:
    """Spans to hide as (start, end): the text starts with a kept token and ends inside a span.

    Every way to cut hidden and kept tokens into that many non-empty pieces is equally likely. A document of
    fewer than two tokens has no spans.
    """
    if length < 2:
        return []
    num_noise, num_spans = span_counts(length, density, mean_span)
    spans = []
    at = 0
    kept = _random_pieces(length - num_noise, num_spans, rng)
    for keep, hide in zip(kept, _random_pieces(num_noise, num_spans, rng), strict=True):
        spans.append((at + keep, at + keep + hide))
        at += keep + hide
    return spans


def _random_pieces(total: int, pieces: int, rng: random.Random) -> list[int]:
    """``total`` as a sum of ``pieces`` positive numbers."""
    cuts = [0, *sorted(rng.sample(range(1, total), pieces - 1)), total]
    return [end - start for start, end in pairwise(cuts)]


def corrupt(
    doc_ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    sentinel_ids: Sequence[int],
    eos_id: int,
    decoder_length: int | None = None,
) -> Corrupted:
    """Hides ``spans`` of a document.

    Args:
        doc_ids: the document, without end token.
        spans: (start, end) pairs, ascending, not touching each other.
        sentinel_ids: ids of ``<extra_id_0>``, ``<extra_id_1>``, … (one more than there are spans).
        eos_id: appended to the encoder input.
        decoder_length: cuts the decoder side to this many tokens (the original: 32, which loses the spans
            after it); None keeps everything.

    Raises:
        DataError: more spans than sentinels.
    """
    if len(spans) + 1 > len(sentinel_ids):
        raise DataError(f"{len(spans)} spans need {len(spans) + 1} sentinels, the tokenizer has {len(sentinel_ids)}")
    inputs: list[int] = []
    target = [DECODER_START]
    at = 0
    for sentinel, (start, end) in zip(sentinel_ids, spans, strict=False):
        inputs += [*doc_ids[at:start], sentinel]
        target += [sentinel, *doc_ids[start:end]]
        at = end
    inputs += [*doc_ids[at:], eos_id]
    target = [*target, sentinel_ids[len(spans)]][:decoder_length]
    return {"input_ids": inputs, "decoder_input_ids": target, "labels": [*target[1:], IGNORED]}


@dataclass
class SpanCorruptionEncoder:
    """Turns lines of text into features; what is hidden depends on (seed, epoch, file, line number) alone.

    Attributes:
        tokenizer: a T5 tokenizer.
        max_length: most tokens of the encoder input: a line is cut to ``max_length - 1`` tokens, plus the
            end token.
        seed: of the run.
        decoder_length: see ``corrupt``.
        density, mean_span: see ``span_counts``.
    """

    tokenizer: Any
    max_length: int
    seed: int = 0
    decoder_length: int | None = None
    density: float = 0.15
    mean_span: float = 3.0
    sentinel_ids: list[int] = field(init=False)

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise DataError(f"--max_seq_length {self.max_length} leaves no text, expected at least 3")
        needed = self._sentinels_for(self.max_length)
        sentinel_id(self.tokenizer, 0)  # tells a vocabulary without any
        if (there := num_sentinels(self.tokenizer, needed)) < needed:
            fits = next((n for n in range(self.max_length - 1, 2, -1) if self._sentinels_for(n) <= there), 2)
            most = f"the largest length possible is {fits}" if fits > 2 else "that is too few for any length"
            raise DataError(
                f"--max_seq_length {self.max_length} hides up to {needed - 1} spans, which needs {needed} sentinels, "
                f"and the tokenizer has {there}: {most}"
            )
        self.sentinel_ids = [sentinel_id(self.tokenizer, i) for i in range(needed)]

    def _sentinels_for(self, max_length: int) -> int:
        return span_counts(max_length - 1, self.density, self.mean_span)[1] + 1

    def __call__(self, lines: Sequence[Line], epoch: int) -> list[Feature]:
        """One feature per line, in order; ``Feature.index`` is the line's number in its file."""
        texts = [beginning(self.tokenizer, line.text, self.max_length) for line in lines]
        return [
            self._encode(line, ids[: self.max_length - 1], epoch)
            for line, ids in zip(lines, token_ids(self.tokenizer, texts), strict=True)
        ]

    def _encode(self, line: Line, ids: list[int], epoch: int) -> Feature:
        rng = random.Random(f"{self.seed}/{epoch}/{line.file}/{line.number}")
        spans = random_spans(len(ids), rng, self.density, self.mean_span)
        made = corrupt(ids, spans, self.sentinel_ids, self.tokenizer.eos_token_id, self.decoder_length)
        return Feature(
            line.number,
            array("i", made["input_ids"]),
            decoder_input_ids=array("i", made["decoder_input_ids"]),
            labels=array("i", made["labels"]),
        )
