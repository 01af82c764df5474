"""Candidates for words from a masked language model: what it expects in a word's place.

The model reads `[CLS] sentence with [MASK]s [SEP] whole sentence [SEP]`, as in TinyBERT's augmentation, so that it
knows what the word was. Three things make it fast: several words of a sentence are masked together, as many as in
BERT's pre-training and as far apart as can be; sentences go through the model in batches, ordered by length; the
vocabulary's scores are computed at the masks alone.

Legend: B rows in a batch, L length of a row, N masks in a batch, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from model.inputs import model_inputs
from utils.augmentation.words import is_candidate
from utils.errors import UserError
from utils.opening.places import model_directory
from utils.opening.weights import load_weights
from utils.tucker.loading import read_config

_HEAD = "cls.predictions."


class Request(NamedTuple):
    """A sentence as the ids of its pieces, and the places of those to predict."""

    pieces: Sequence[int]
    places: Sequence[int]


class _Row(NamedTuple):
    """What the model reads at once; `request` is a position in the list of requests, `places` are the sentence's."""

    request: int
    places: Sequence[int]
    masks: list[int]
    ids: list[int]
    second_at: int


@dataclass
class MaskedLm:
    """A BERT with its language-model head.

    Attributes:
        model: a `BertForMaskedLM`; it is put into evaluation mode.
        tokenizer: its tokenizer.
        num_candidates: most candidates per place.
        batch_size: rows that go through the model together.
        mask_share: largest share of a sentence that is masked at once; 0 masks one piece at a time.
    """

    model: Any
    tokenizer: Any
    num_candidates: int
    batch_size: int
    mask_share: float

    def __post_init__(self) -> None:
        self.model.eval()
        self._names = vocabulary(self.tokenizer, self.model.config.vocab_size)
        self._refused = torch.tensor([not is_candidate(name) for name in self._names], device=self.model.device)

    def candidates(self, requests: Sequence[Request]) -> list[list[list[str]]]:
        """For each request and each of its places: the likeliest candidates, best first, without the present word."""
        found: list[dict[int, list[str]]] = [{} for _ in requests]
        rows = sorted(
            (row for number, request in enumerate(requests) for row in self._rows(number, request)),
            key=lambda row: len(row.ids),
        )
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            targets = [(row.request, place) for row in batch for place in row.places]
            for (number, place), ids in zip(targets, self._best(batch).tolist(), strict=True):
                own = requests[number].pieces[place]
                names = [self._names[candidate] for candidate in ids if candidate not in (own, -1)]
                found[number][place] = names[: self.num_candidates]
        return [[there[place] for place in request.places] for there, request in zip(found, requests, strict=True)]

    def _rows(self, number: int, request: Request) -> Iterator[_Row]:
        budget = (self.model.config.max_position_embeddings - 3) // 2
        length = len(request.pieces)
        if length > budget:  # a window around each word
            for place in request.places:
                start = min(max(place - budget // 2, 0), length - budget)
                yield self._row(number, request.pieces[start : start + budget], [place], start)
            return
        together = max(1, int(self.mask_share * length))
        groups = -(-len(request.places) // together)
        for first in range(groups):
            yield self._row(number, request.pieces, request.places[first::groups], 0)

    def _row(self, number: int, pieces: Sequence[int], places: Sequence[int], start: int) -> _Row:
        token = self.tokenizer
        masked = list(pieces)
        for place in places:
            masked[place - start] = token.mask_token_id
        ids = [token.cls_token_id, *masked, token.sep_token_id, *pieces, token.sep_token_id]
        return _Row(number, places, [1 + place - start for place in places], ids, len(masked) + 2)

    @torch.inference_mode()
    def _best(self, rows: Sequence[_Row]) -> Tensor:
        """Ids of the likeliest candidates and the present word [N, candidates + 1]; -1 where none is left."""
        device = self.model.device
        lengths = torch.tensor([len(row.ids) for row in rows], device=device)
        ids_BL = nn.utils.rnn.pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True).to(device)
        places = torch.arange(ids_BL.shape[1], device=device)
        mask_BL = places < lengths[:, None]
        second_BL = places >= torch.tensor([row.second_at for row in rows], device=device)[:, None]
        base = self.model.base_model
        batch = {
            "input_ids": ids_BL,
            "attention_mask": mask_BL.long(),
            "token_type_ids": (second_BL & mask_BL).long(),
        }
        hidden_BLD = base(**model_inputs(base, batch)).last_hidden_state
        in_batch = [(number, mask) for number, row in enumerate(rows) for mask in row.masks]
        row_N, mask_N = torch.tensor(in_batch, device=device).T
        scores_NV = self.model.cls(hidden_BLD[row_N, mask_N]).float().masked_fill(self._refused, -torch.inf)
        best = scores_NV.topk(min(self.num_candidates + 1, scores_NV.shape[1]), dim=1)
        return best.indices.masked_fill(best.values.isinf(), -1)


def load_masked_lm(source: str, flag: str) -> Any:
    """The BERT of a directory or hub id with its masked-language-model head.

    Raises:
        UserError: there is no BERT, or it has no such head.
    """
    directory = model_directory(source)
    loaded = load_weights(AutoModelForMaskedLM, directory, read_config(directory), may_lack=(_HEAD,))
    if loaded.new:
        raise UserError(
            f"{flag} {source} has no masked-language-model head (its weights lack {_HEAD}*): take a BERT that was "
            "saved with one, or pass --candidates embeddings, which takes the nearest word vectors instead."
        )
    return loaded.model


def vocabulary(tokenizer: Any, size: int) -> list[str]:
    """The tokens by id; "" where an id has none."""
    names = [""] * size
    for token, number in tokenizer.get_vocab().items():
        if number < size:
            names[number] = token
    return names


def candidate_words(tokenizer: Any, size: int) -> Iterator[tuple[int, str]]:
    """Ids and tokens of the vocabulary's words that may stand in another's place."""
    return ((number, token) for number, token in enumerate(vocabulary(tokenizer, size)) if is_candidate(token))
