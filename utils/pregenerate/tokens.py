"""The tokenizer of a BERT, reduced to what training data need: words to pieces, in any process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from utils.errors import UserError
from utils.opening.places import model_directory
from utils.opening.tokenizers import MASKED_TOKENS, check_special, open_tokenizer
from utils.pregenerate.instances import SpecialTokens


@dataclass
class Pieces:
    """Cuts text into word pieces. Instances can be sent to other processes.

    Attributes:
        definition: the tokenizer as JSON.
        special: its start, end and mask token.
        vocabulary: its ordinary tokens, by id.
    """

    definition: str
    special: SpecialTokens
    vocabulary: Sequence[str]
    _tokenizer: Tokenizer | None = field(default=None, init=False, repr=False, compare=False)
    _names: dict[int, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        """The pieces of each text, without special tokens."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.from_str(self.definition)
            self._tokenizer.no_truncation()  # a saved tokenizer may have either
            self._tokenizer.no_padding()
            self._tokenizer.encode_special_tokens = True  # what is spelt like a control token is text
            self._names = {number: token for token, number in self._tokenizer.get_vocab().items()}
        # The fast variant gives numbers only, at about half the time.
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [[self._names[number] for number in encoding.ids] for encoding in encoded]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokenizer": None, "_names": {}}


def load_pieces(source: str, lower_case: bool, max_seq_len: int) -> Pieces:
    """The tokenizer of a BERT: a hub id, a directory of Hugging Face, or one with a `vocab.txt`.

    Args:
        lower_case: makes text lower case. If not asked for, the tokenizer does as it was saved, or, where only its
            vocabulary is there, lower case if that has no capital letter.
        max_seq_len: the model must be able to read this many tokens.

    Raises:
        UserError: there is no tokenizer, or it is none of a BERT.
    """
    tokenizer = open_tokenizer(source, needs=())
    special = SpecialTokens(tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token)
    definition = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {"model": {}}
    if None in special or definition["model"].get("type") != "WordPiece":
        raise UserError(
            f"--bert_model {source}: expected a BERT with a WordPiece vocabulary, found a {type(tokenizer).__name__}."
        )
    check_special(tokenizer, Path(model_directory(source)), MASKED_TOKENS)
    if max_seq_len > tokenizer.model_max_length:
        raise UserError(
            f"--max_seq_length {max_seq_len}: this model reads at most {tokenizer.model_max_length} tokens."
        )
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    not_ordinary = set(tokenizer.all_special_tokens)
    ordinary = [token for token, _ in by_id if token not in not_ordinary]
    normalizer = definition["normalizer"] or {}
    if lower_case and normalizer.get("type") != "BertNormalizer":
        raise UserError(f"--do_lower_case: the tokenizer of {source} has no such setting; leave the flag out.")
    if lower_case:
        normalizer["lowercase"] = True
    return Pieces(json.dumps(definition, allow_nan=False), special, ordinary)
