"""From the tokenised lines of a document to training instances (Devlin et al. 2018, section 3.1 and appendix A).

An instance has one segment or two (next-sentence prediction), and some of its tokens are hidden (masked language
modelling). Pure functions on lists of tokens; everything random comes from `rng`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, TypedDict

Tokens = list[str]
#: Tokens of another document, segment by segment, from a random place on.
SampleOther = Callable[[], Iterable[Sequence[str]]]


class Instance(TypedDict):
    """One line of an epoch file; the keys and their order are the original's."""

    tokens: Tokens
    segment_ids: list[int]
    is_random_next: bool
    masked_lm_positions: list[int]
    masked_lm_labels: Tokens


class Masked(NamedTuple):
    """Tokens with some hidden, the positions of these in ascending order, and what stood there."""

    tokens: Tokens
    positions: list[int]
    labels: Tokens


class SpecialTokens(NamedTuple):
    """How the vocabulary spells them."""

    start: str = "[CLS]"
    end: str = "[SEP]"
    mask: str = "[MASK]"


BERT_TOKENS = SpecialTokens()


@dataclass(frozen=True)
class InstanceSettings:
    """What an instance looks like.

    Attributes:
        max_seq_len: most tokens, special ones included.
        short_seq_prob: share of instances that aim at a random shorter length.
        masked_lm_prob: share of tokens to hide; 0 hides none.
        max_predictions_per_seq: hides at most this many.
        whole_word: hides all pieces of a word or none.
        one_seq: one segment instead of two.
    """

    max_seq_len: int = 128
    short_seq_prob: float = 0.1
    masked_lm_prob: float = 0.15
    max_predictions_per_seq: int = 20
    whole_word: bool = False
    one_seq: bool = False

    @property
    def max_text_tokens(self) -> int:
        """Tokens that special ones leave room for."""
        return self.max_seq_len - (2 if self.one_seq else 3)


def truncate_seq_pair(tokens_a: Tokens, tokens_b: Tokens, max_tokens: int, rng: random.Random) -> None:
    """Shorten the pair in place to `max_tokens` together: always the longer side (the second on a tie), one token
    at a time, at its beginning or its end with equal chance."""
    spans = [[0, len(tokens_a)], [0, len(tokens_b)]]
    lengths = [len(tokens_a), len(tokens_b)]
    for _ in range(sum(lengths) - max_tokens):
        longer = 0 if lengths[0] > lengths[1] else 1
        lengths[longer] -= 1
        if rng.random() < 0.5:
            spans[longer][0] += 1
        else:
            spans[longer][1] -= 1
    for tokens, (start, end) in zip((tokens_a, tokens_b), spans, strict=True):
        tokens[:] = tokens[start:end]


def mask_tokens(
    tokens: Sequence[str],
    probability: float,
    max_predictions: int,
    whole_word: bool,
    vocabulary: Sequence[str],
    rng: random.Random,
    special: SpecialTokens = BERT_TOKENS,
) -> Masked:
    """Hide tokens: 80 % become the mask, 10 % stay as they are, 10 % become a random word of `vocabulary`.

    `round(len(tokens) * probability)` positions are chosen, special tokens counted in that length but never
    hidden; at least 1, at most `max_predictions`. With `whole_word`, words whose pieces do not all fit are left.
    """
    candidates: list[list[int]] = []
    for position, token in enumerate(tokens):
        if token in (special.start, special.end):
            continue
        if whole_word and candidates and token.startswith("##"):
            candidates[-1].append(position)
        else:
            candidates.append([position])
    wanted = min(max_predictions, max(1, round(len(tokens) * probability)))
    rng.shuffle(candidates)
    hidden = list(tokens)
    positions: list[int] = []
    for word in candidates:
        if len(positions) >= wanted:
            break
        if len(positions) + len(word) > wanted:
            continue
        for position in word:
            hidden[position] = _replacement(tokens[position], special.mask, vocabulary, rng)
        positions += word
    positions.sort()
    return Masked(hidden, positions, [tokens[position] for position in positions])


def _replacement(token: str, mask: str, vocabulary: Sequence[str], rng: random.Random) -> str:
    if rng.random() < 0.8:
        return mask
    return token if rng.random() < 0.5 else rng.choice(vocabulary)


class InstanceMaker:
    """Makes the instances of a document.

    Args:
        settings: see there.
        vocabulary: words that may replace a hidden token.
        special: the special tokens.
    """

    def __init__(
        self, settings: InstanceSettings, vocabulary: Sequence[str], special: SpecialTokens = BERT_TOKENS
    ) -> None:
        self._settings, self._vocabulary, self._special = settings, vocabulary, special

    def __call__(
        self, segments: Sequence[Sequence[str]], sample_other: SampleOther, rng: random.Random
    ) -> Iterator[Instance]:
        """Instances that use all of a document's segments in order.

        Args:
            segments: tokens of its lines or sentences, none empty.
            sample_other: where a random second segment comes from; not called for single segments.
            rng: of this document.
        """
        if self._settings.one_seq:
            yield from (self._finish(tokens, [], False, rng) for tokens in self._single(segments, rng))
            return
        for tokens_a, tokens_b, random_next in self._pairs(segments, sample_other, rng):
            yield self._finish(tokens_a, tokens_b, random_next, rng)

    def _target(self, rng: random.Random) -> int:
        longest = self._settings.max_text_tokens
        return rng.randint(2, longest) if rng.random() < self._settings.short_seq_prob else longest

    def _single(self, segments: Sequence[Sequence[str]], rng: random.Random) -> Iterator[Tokens]:
        """The document cut into pieces; no token is lost."""
        text = list(chain.from_iterable(segments))
        at = 0
        while at < len(text):
            target = self._target(rng)
            yield text[at : at + target]
            at += target

    def _pairs(
        self, segments: Sequence[Sequence[str]], sample_other: SampleOther, rng: random.Random
    ) -> Iterator[tuple[Tokens, Tokens, bool]]:
        """Two segments each: what follows in the document in half of the cases, else text of another document."""
        at = 0
        while at < len(segments):
            target = self._target(rng)
            end, length = at, 0
            while end < len(segments) and length < target:
                length += len(segments[end])
                end += 1
            cut = rng.randrange(at + 1, end) if end - at >= 2 else end
            tokens_a = list(chain.from_iterable(segments[at:cut]))
            random_next = cut == end or rng.random() < 0.5
            if random_next:
                # What was meant to follow is used by the next instance.
                tokens_b, end = _up_to(sample_other(), target - len(tokens_a)), cut
            else:
                tokens_b = list(chain.from_iterable(segments[cut:end]))
            truncate_seq_pair(tokens_a, tokens_b, self._settings.max_text_tokens, rng)
            yield tokens_a, tokens_b, random_next
            at = end

    def _finish(self, tokens_a: Tokens, tokens_b: Tokens, random_next: bool, rng: random.Random) -> Instance:
        settings, special = self._settings, self._special
        tokens = [special.start, *tokens_a, special.end]
        segment_ids = [0] * len(tokens)
        if tokens_b:
            tokens += [*tokens_b, special.end]
            segment_ids += [1] * (len(tokens_b) + 1)
        masked = Masked(tokens, [], [])
        if settings.masked_lm_prob > 0:
            masked = mask_tokens(
                tokens,
                settings.masked_lm_prob,
                settings.max_predictions_per_seq,
                settings.whole_word,
                self._vocabulary,
                rng,
                special,
            )
        return {
            "tokens": masked.tokens,
            "segment_ids": segment_ids,
            "is_random_next": random_next,
            "masked_lm_positions": masked.positions,
            "masked_lm_labels": masked.labels,
        }


def _up_to(segments: Iterable[Sequence[str]], wanted: int) -> Tokens:
    """Tokens of the first segments (one at least) until there are `wanted`."""
    tokens: Tokens = []
    for segment in segments:
        tokens += segment
        if len(tokens) >= wanted:
            break
    return tokens
