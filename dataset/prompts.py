"""Prompts: rendering, fitting to a length, verbalizers and sentinels.

A prompt ends with its instruction and the answer slot ``<extra_id_0>``. Cutting a long prompt at its end
would cut exactly these, so the longest text field is shortened instead.
"""

from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

from dataset.chunking import chunked
from dataset.errors import DataError
from dataset.tasks import Task
from dataset.tokenisation import beginning, token_ids

_SLOT = "<extra_id_0>"
_CHUNK = 2048  # rows tokenised at once: enough to keep the fast tokenizer busy, little enough memory


class Example(Protocol):
    """What a prompt needs of an example."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The text fields, in the order of ``Task.columns``."""
        ...


def render(task: Task, example: Example) -> str:
    """The prompt of ``example``, exactly the template's text with the columns filled in.

    Raises:
        DataError: the task has no prompt, or the example not the task's number of texts.
    """
    return render_texts(task, example.texts)


def render_texts(task: Task, texts: Sequence[str]) -> str:
    """As ``render``, from the texts themselves."""
    if task.prompt is None:
        raise DataError(f"{task.name} has no prompt: Variator does not cover this task")
    if len(texts) != len(task.columns):
        raise DataError(f"{task.name} has the columns {', '.join(task.columns)}, got {len(texts)} texts")
    return task.prompt.format(**dict(zip(task.columns, texts, strict=True)))


def sentinel_id(tokenizer: Any, i: int) -> int:
    """Id of ``<extra_id_i>``.

    Raises:
        DataError: the vocabulary does not have it.
    """
    token = f"<extra_id_{i}>"
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or found == tokenizer.unk_token_id:
        raise DataError(
            f"the tokenizer has no {token}: a T5 vocabulary is needed, this one has {len(tokenizer)} tokens"
        )
    return int(found)


def num_sentinels(tokenizer: Any, most: int) -> int:
    """How many of ``<extra_id_0>``, ``<extra_id_1>``, … the vocabulary has without a gap, counted up to ``most``."""
    for i in range(most):
        found = tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>")
        if found is None or found == tokenizer.unk_token_id:
            return i
    return most


def verbalizer_ids(task: Task, tokenizer: Any) -> list[int]:
    """Id of the first piece of each verbalizer word, in label order.

    Raises:
        DataError: the task has no verbalizer, or two of its words start with the same piece.
    """
    if not task.verbalizer:
        raise DataError(f"{task.name} has no verbalizer: Variator does not cover this task")
    ids = [token_ids(tokenizer, [word])[0][0] for word in task.verbalizer]
    for at, first in enumerate(ids):
        if first in ids[:at]:
            twin = task.verbalizer[ids.index(first)]
            raise DataError(
                f"the words {twin!r} and {task.verbalizer[at]!r} of {task.name} start with the same piece "
                f"{tokenizer.convert_ids_to_tokens(first)!r}: the vocabulary must tell them apart"
            )
    return ids


def encode_prompts(
    task: Task, examples: Sequence[Example], tokenizer: Any, max_length: int
) -> Iterator[tuple["array[int]", bool]]:
    """Token ids of every example's prompt, end token included, at most ``max_length`` of them; and whether it was cut.

    Raises:
        DataError: the template alone is longer than ``max_length``.
    """
    encode = _PromptEncoder(task, tokenizer)
    for chunk in chunked(examples, _CHUNK):
        rows = [[beginning(tokenizer, text, max_length) for text in example.texts] for example in chunk]
        for texts, ids in zip(rows, encode(rows), strict=True):
            is_cut = len(ids) >= max_length
            if is_cut:
                ids = _shorten(encode, texts, max_length - 1)
            yield array("i", [*ids, tokenizer.eos_token_id]), is_cut


class _PromptEncoder:
    """Texts to the ids of their prompts. Only the template's answer slot is a control token, whatever the texts hold.

    A tokenizer cuts a text at its control tokens and encodes the parts by themselves: so does this.
    """

    def __init__(self, task: Task, tokenizer: Any) -> None:
        self.task, self.tokenizer = task, tokenizer
        self._ending, self._strips = _ending_of(task, tokenizer)

    def __call__(self, rows: Sequence[Sequence[str]]) -> list[list[int]]:
        """The prompt of each row of texts, uncut, without the end token."""
        prompts = [render_texts(self.task, texts) for texts in rows]
        heads = [prompt[: prompt.rindex(_SLOT)] for prompt in prompts]
        if self._strips:
            heads = [head.rstrip() for head in heads]
        return [[*ids, *self._ending] for ids in token_ids(self.tokenizer, heads)]


@lru_cache(maxsize=32)
def _ending_of(task: Task, tokenizer: Any) -> tuple[list[int], bool]:
    """The ids of a prompt from its answer slot on, and whether the slot swallows blanks before it.

    Found once: a tokenizer that looks for control tokens is switched for it, which no other thread may see.
    """
    slot = sentinel_id(tokenizer, 0)
    bare = render_texts(task, [""] * len(task.columns))
    ids: list[int] = tokenizer(bare, add_special_tokens=False, split_special_tokens=False, verbose=False)["input_ids"]
    if slot not in ids:
        raise DataError(f"the tokenizer has {_SLOT} and does not find it in a text: a T5 vocabulary is needed")
    added = getattr(tokenizer, "added_tokens_decoder", {}).get(slot)
    return ids[len(ids) - 1 - ids[::-1].index(slot) :], bool(added is not None and added.lstrip)


def _shorten(encode: _PromptEncoder, texts: Sequence[str], budget: int) -> list[int]:
    """Token ids of the prompt after taking tokens off the end of its longest text until ``budget`` is met."""
    texts, tokenizer = list(texts), encode.tokenizer
    while True:
        ids = encode([texts])[0]
        excess = len(ids) - budget
        if excess <= 0:
            return ids
        fields = token_ids(tokenizer, texts)
        kept = _drop_longest([len(field) for field in fields], excess)
        if kept is None:
            raise DataError(
                f"--max_seq_length {budget + 1} is too short for {encode.task.name}: its template alone has "
                f"{len(encode([[''] * len(texts)])[0]) + 1} tokens"
            )
        texts = [
            text if keep == len(field) else _first_tokens(tokenizer, text, field, keep)
            for text, field, keep in zip(texts, fields, kept, strict=True)
        ]


def _drop_longest(lengths: list[int], excess: int) -> list[int] | None:
    """Lengths after taking ``excess`` tokens, each from the longest field; None if nothing is left."""
    if not any(lengths):
        return None
    lengths = list(lengths)
    for _ in range(min(excess, sum(lengths))):
        lengths[lengths.index(max(lengths))] -= 1
    return lengths


def _first_tokens(tokenizer: Any, text: str, ids: list[int], keep: int) -> str:
    """The longest beginning of ``text`` that ends after a token and has at most ``keep`` tokens itself."""
    offsets: list[tuple[int, int]] = []
    if tokenizer.is_fast:
        pieces = tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        offsets = pieces["offset_mapping"]
        keep_at_most = min(keep, len(offsets))  # a control token's text has more pieces than offsets
    else:
        keep_at_most = keep
    # A cut inside a word may tokenise differently, into more pieces than before: hence the loop.
    for count in range(keep_at_most, 0, -1):
        beginning = text[: offsets[count - 1][1]] if offsets else str(tokenizer.decode(ids[:count]))
        if len(token_ids(tokenizer, [beginning])[0]) <= keep:
            return beginning
    return ""
