"""From sentences to candidates for each of their words, and from those to new sentences.

Source: Jiao et al. 2020, "TinyBERT" (arXiv:1909.10351), algorithm 1.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dataset.tokenisation import token_ids
from utils.augmentation.masked_lm import MaskedLm, Request
from utils.augmentation.neighbours import WordVectors
from utils.augmentation.words import Sentence, match_case, may_be_replaced

#: Place of a word -> what may stand there instead.
Candidates = Mapping[int, Sequence[str]]
_Place = tuple[int, int]  # of a sentence, and of a word in it
_CACHED_SENTENCES = 100_000


@dataclass
class Pieces:
    """Words to the ids of their pieces, each word cut once."""

    tokenizer: Any
    _known: dict[str, list[int]] = field(default_factory=dict)

    def __call__(self, words: Sequence[str]) -> list[list[int]]:
        """The pieces of every word."""
        if new := [word for word in dict.fromkeys(words) if word not in self._known]:
            self._known.update(zip(new, token_ids(self.tokenizer, new), strict=True))
        return [self._known[word] for word in words]


@dataclass
class Augmenter:
    """Finds candidates: of a masked language model for words of a single piece, word vectors' for the others.

    Attributes:
        pieces: cuts words into pieces.
        unknown: id of the piece that stands for anything unknown.
        vectors: nearest neighbours.
        masked_lm: None takes neighbours for all words.
        num_candidates: most candidates per word.
    """

    pieces: Pieces
    unknown: int | None
    vectors: WordVectors
    masked_lm: MaskedLm | None
    num_candidates: int
    _cache: OrderedDict[tuple[str, ...], Candidates] = field(default_factory=OrderedDict)

    def candidates(self, sentences: Sequence[Sentence]) -> list[Candidates]:
        """Candidates for the words of each sentence; sentences that were seen before cost nothing."""
        new = {s.words: None for s in sentences if s.words not in self._cache}
        found = dict(zip(new, self._find(list(new)), strict=True))
        known = {s.words: self._cache[s.words] for s in sentences if s.words in self._cache}
        self._cache.update(found)
        for words in known:
            self._cache.move_to_end(words)
        while len(self._cache) > _CACHED_SENTENCES:
            self._cache.popitem(last=False)
        return [known[s.words] if s.words in known else found[s.words] for s in sentences]

    def _find(self, sentences: Sequence[tuple[str, ...]]) -> list[Candidates]:
        predicted: dict[int, dict[int, int]] = {}  # sentence -> word -> place of its piece
        requests: list[Request] = []
        compared: dict[_Place, str] = {}
        for number, words in enumerate(sentences):
            pieces, single, start = self.pieces(words), {}, 0
            for at, (word, own) in enumerate(zip(words, pieces, strict=True)):
                if may_be_replaced(word):
                    if self.masked_lm is not None and len(own) == 1 and own[0] != self.unknown:
                        single[at] = start
                    else:
                        compared[number, at] = word
                start += len(own)
            if single:
                predicted[number] = single
                requests.append(Request([piece for word in pieces for piece in word], list(single.values())))
        near = self.vectors.nearest(compared.values(), self.num_candidates)
        options: dict[_Place, Sequence[str]] = dict(zip(compared, near, strict=True))
        if self.masked_lm is not None:
            for (number, single), likely in zip(predicted.items(), self.masked_lm.candidates(requests), strict=True):
                options.update(zip(((number, at) for at in single), likely, strict=True))
        found: list[dict[int, Sequence[str]]] = [{} for _ in sentences]
        for (number, at), words_there in options.items():
            if words_there:
                word = sentences[number][at]
                found[number][at] = [match_case(option, word) for option in words_there]
        return list(found)


def new_rows(
    sentences: Sequence[Sentence],
    candidates: Sequence[Candidates],
    num_samples: int,
    probability: float,
    rng: random.Random,
) -> list[list[list[str]]]:
    """Up to `num_samples` other versions of a row of sentences, as the words of each sentence.

    Every word with candidates is replaced by one of them, drawn evenly, with the given probability. A version that
    equals the row or another version is left out, so there can be fewer.
    """
    original = tuple(sentence.words for sentence in sentences)
    seen, made = {original}, []
    for _ in range(num_samples):
        version = tuple(
            tuple(
                rng.choice(options[at]) if at in options and rng.random() < probability else word
                for at, word in enumerate(sentence.words)
            )
            for sentence, options in zip(sentences, candidates, strict=True)
        )
        if version not in seen:
            seen.add(version)
            made.append([list(words) for words in version])
    return made
