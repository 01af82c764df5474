"""A user's text as token ids: nothing that stands in it is a control token, and no row takes longer than it must."""

import re
from collections.abc import Sequence
from typing import Any

#: A text of up to this many characters is tokenised whole.
_SHORT_TEXT = 4096
#: More characters than tokens of ordinary text have, special spellings and markup included.
_CHARACTERS_PER_TOKEN = 16
#: Tokens at the end of a beginning that may be others than in the whole text.
_UNSURE = 16
_ENDLESS_WORD = re.compile(r"(\S{512})\S+")


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of every text, uncut, without the end token.

    What is spelt like a control token (`</s>`, `<extra_id_0>`, `[SEP]`) is text, as its writer meant it.
    """
    if not texts:  # which tokenizers in Rust do not take
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        truncation=False,
        return_attention_mask=False,
        verbose=False,
    )
    rows: list[list[int]] = encoded["input_ids"]
    control = _control_ids(tokenizer)
    # A Unigram model has the control tokens among its pieces, and finds them without being asked to.
    return [ids if control.isdisjoint(ids) else _spelt_out(tokenizer, ids, control) for ids in rows]


def beginning(tokenizer: Any, text: str, num_tokens: int) -> str:
    """`text`, or of a very long one as much as gives its first `num_tokens` tokens and more.

    To tokenise megabytes for the sake of a row's first tokens, perhaps several times, would take minutes.
    """
    size = max(_SHORT_TEXT, _CHARACTERS_PER_TOKEN * num_tokens)
    is_squeezed = False
    while size < len(text):
        blank = text.rfind(" ", size // 2, size)
        start = text[: size if blank < 0 else blank]
        if len(token_ids(tokenizer, [start])[0]) > num_tokens + _UNSURE:
            return start
        # So few tokens in so many letters: long blanks, or words that are one unknown piece however long they are.
        text, size, is_squeezed = (text, 4 * size, True) if is_squeezed else (_squeezed(text), size, True)
    return text


def _squeezed(text: str) -> str:
    """With a space for every blank, however long, and the first letters of endless words."""
    return _ENDLESS_WORD.sub(r"\1", " ".join(text.split()))


def _control_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokens that no text gives; the one for unknown pieces is not among them."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ids = {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}
    return ids - {tokenizer.unk_token_id}


def _spelt_out(tokenizer: Any, ids: Sequence[int], control: set[int]) -> list[int]:
    """`ids` with the pieces of their letters in the place of control tokens."""
    vocabulary = tokenizer.get_vocab()
    found: list[int] = []
    for number in ids:
        if number not in control:
            found.append(number)
            continue
        text, at = str(tokenizer.convert_ids_to_tokens(number)), 0
        while at < len(text):
            ends = (end for end in range(len(text), at, -1) if vocabulary.get(text[at:end], number) not in control)
            end = next(ends, at + 1)
            found.append(vocabulary.get(text[at:end], tokenizer.unk_token_id))
            at = end
    return found
