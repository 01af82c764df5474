"""Candidates for a word from word vectors: its nearest neighbours by cosine.

The vectors are GloVe's, or the model's own word embeddings where there is no GloVe file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.errors import DataError
from dataset.sources import Line, read_lines
from utils.augmentation.words import is_candidate

#: Queries that are compared with the whole table at once: bounds the memory of the comparison.
_QUERIES = 64
_LINES = 2048
#: Neighbours looked at beyond those wanted: the word itself may be among them, in several spellings.
_SPARE = 8


class WordVectors:
    """Vectors of words that may be candidates, and of any word that is asked for.

    Args:
        words: the words that can become candidates.
        vectors: theirs, (words, width).
        vector_of: the vector of a word that is none of `words`, or None where it has none.
        parts_of: words that are parts of a word and may not take its place.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: Tensor,
        vector_of: Callable[[str], Tensor | None] = lambda word: None,
        parts_of: Callable[[str], Collection[str]] = lambda word: (),
    ) -> None:
        self.words = list(words)
        self._unit = torch.nn.functional.normalize(vectors.float(), dim=1)
        self._index = {word: number for number, word in enumerate(self.words)}
        self._vector_of, self._parts_of = vector_of, parts_of
        self._known: dict[tuple[str, int], list[str]] = {}

    def nearest(self, words: Iterable[str], count: int) -> list[list[str]]:
        """The `count` nearest other words of each word, nearest first; none for a word without a vector."""
        wanted = list(words)
        new = [word for word in dict.fromkeys(wanted) if (word, count) not in self._known]
        queries = {word: vector for word in new if (vector := self._vector(word)) is not None}
        for start in range(0, len(queries), _QUERIES):
            self._search(dict(islice(queries.items(), start, start + _QUERIES)), count)
        return [self._known.get((word, count), []) for word in wanted]

    def _vector(self, word: str) -> Tensor | None:
        for spelling in (word, word.lower()):
            if spelling in self._index:
                return self._unit[self._index[spelling]]
        vector = self._vector_of(word)
        return None if vector is None else torch.nn.functional.normalize(vector.float(), dim=0)

    @torch.inference_mode()
    def _search(self, queries: dict[str, Tensor], count: int) -> None:
        scores = torch.stack(list(queries.values())) @ self._unit.T
        best = scores.topk(min(count + _SPARE, len(self.words)), dim=1).indices.tolist()
        for word, indices in zip(queries, best, strict=True):
            refused = {word.lower(), *self._parts_of(word)}
            others = (self.words[index] for index in indices)
            self._known[word, count] = [other for other in others if other.lower() not in refused][:count]


def model_vectors(
    words: Sequence[tuple[int, str]], table: Tensor, pieces_of: Callable[[str], list[int]], unknown: int | None
) -> WordVectors:
    """The rows of a model's embedding table [V, D]; a word of several pieces has the mean of theirs.

    Args:
        words: ids and tokens of the vocabulary's candidates.
        table: the word embeddings.
        pieces_of: cuts a word into the ids of its pieces.
        unknown: the piece that says nothing of a word.
    """

    names = dict(words)

    def vector_of(word: str) -> Tensor | None:
        pieces = pieces_of(word)
        return table[pieces].mean(dim=0) if pieces and unknown not in pieces else None

    def parts_of(word: str) -> set[str]:
        # A mean is near to what it is a mean of: "di" would be the nearest word to "di ##stor ##ting".
        return {names[piece].lower() for piece in pieces_of(word) if piece in names}

    return WordVectors([word for _, word in words], table[[number for number, _ in words]], vector_of, parts_of)


def read_glove(path: Path) -> WordVectors:
    """The words of a GloVe text file (`word number number …`) that may be candidates.

    A first line with two numbers (rows and width, as word2vec writes it) is left out.

    Raises:
        DataError: a row has not the first one's number of columns, or something else than finite numbers behind the
            word; the message names file and line.
    """
    words: dict[str, None] = {}
    kept: list[np.ndarray] = []
    width = 0
    lines = read_lines(path)
    while block := list(islice(lines, _LINES)):
        if block[0].number == 1 and _is_header(block[0].text):
            del block[0]
            if not block:
                break
        width = width or len(block[0].text.rstrip().split(" ")) - 1
        rows = [(line, *_split(path, line, width)) for line in block if line.text]
        numbers = _numbers(path, [(line, values) for line, _, values in rows], width)
        new: dict[str, int] = {}
        for row, (_, word, _) in enumerate(rows):
            if is_candidate(word) and word not in words:
                new.setdefault(word, row)
        words.update(dict.fromkeys(new))
        kept.append(numbers[list(new.values())])
    if not words:
        raise DataError(f"{path}: no word with its vector in this file, expected `word number number …`")
    return WordVectors(list(words), torch.from_numpy(np.concatenate(kept)))


def _is_header(text: str) -> bool:
    columns = text.split()
    return len(columns) == 2 and all(column.isdigit() for column in columns)


def _split(path: Path, line: Line, width: int) -> tuple[str, str]:
    """The word and the text of its numbers. Published files have words with spaces in them (`. . .`)."""
    text = line.text.rstrip()
    found = text.count(" ")
    if width >= 1 and found == width:
        word, _, values = text.partition(" ")
        return word, values
    columns = text.split(" ")
    if found < width or width < 1 or any(_is_number(column) for column in columns[1:-width]):
        raise DataError(f"{path}:{line.number}: {found} numbers behind the word, expected {width or 'at least 1'}")
    return " ".join(columns[:-width]), " ".join(columns[-width:])


@np.errstate(over="ignore")  # a number that is too large is found as infinite
def _numbers(path: Path, rows: Sequence[tuple[Line, str]], width: int) -> np.ndarray:
    """The vectors (rows, width); all at once, and row by row only to find the one that is broken."""
    try:
        values = np.array(" ".join(text for _, text in rows).split(" "), dtype=np.float32)
        if np.isfinite(values).all():
            return values.reshape(len(rows), width)
    except ValueError:
        pass
    line, column = next((line, c) for line, text in rows for c in text.split(" ") if not _is_number(c))
    raise DataError(f"{path}:{line.number}: {column!r} is not a finite number")


@np.errstate(over="ignore")
def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(np.float32(text)))
    except ValueError:
        return False
