"""From examples to token ids: what a collator pads and a model reads."""

import logging
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dataset.errors import DataError
from dataset.glue import GlueExample
from dataset.prompts import encode_prompts, sentinel_id
from dataset.squad import SquadExample
from dataset.tasks import TASKS, Task
from dataset.tokenisation import token_ids

logger = logging.getLogger(__name__)

IGNORED = -100  # label of positions that the loss leaves out
DECODER_START = 0  # T5 starts its decoder with the padding token


@dataclass(frozen=True, slots=True)
class Feature:
    """One encoded example; the sequences are ``array("i")`` (4 bytes a token), not padded.

    Attributes:
        index: position of the example in its split.
        input_ids: encoder input, end token included.
        label: class id or score; None in generation tasks and where hidden.
        decoder_input_ids, labels: decoder side of generation tasks, of equal length.
        is_cut: the example had more tokens than there was room for; not part of what a model reads.
    """

    index: int
    input_ids: Sequence[int]
    label: int | float | None = None
    decoder_input_ids: Sequence[int] | None = None
    labels: Sequence[int] | None = None
    is_cut: bool = field(default=False, repr=False, compare=False)


def encode_classification(
    task: Task, examples: Sequence[GlueExample], tokenizer: Any, max_length: int
) -> list[Feature]:
    """Prompts of a classification task; its decoder input, the same for every row, is the model's.

    Args:
        task: a task with a prompt.
        examples: its rows.
        tokenizer: a T5 tokenizer.
        max_length: most tokens of a prompt, end token included; longer prompts lose text, never the answer
            slot.

    Raises:
        DataError: the task has no prompt, or its template does not fit.
    """
    prompts = encode_prompts(task, examples, tokenizer, max_length)
    return [
        Feature(example.index, ids, example.label, is_cut=is_cut)
        for example, (ids, is_cut) in zip(examples, prompts, strict=True)
    ]


def squad_decoder(
    answer_ids: Sequence[int], sentinels: tuple[int, int], target_length: int, start: int = DECODER_START
) -> tuple[list[int], list[int]]:
    """Decoder input ``start, <extra_id_0>, answer`` and labels ``ignored, answer, <extra_id_1>`` (Variator).

    The answer is cut so that either has at most ``target_length`` tokens.
    """
    answer = list(answer_ids[: target_length - 2])
    return [start, sentinels[0], *answer], [IGNORED, *answer, sentinels[1]]


def encode_squad(
    examples: Sequence[SquadExample],
    tokenizer: Any,
    max_length: int,
    seed: int = 0,
    epoch: int = 0,
    target_length: int = 32,
    decoder_start: int = DECODER_START,
) -> list[Feature]:
    """Questions with their contexts, and one gold answer each as the target, behind ``decoder_start``.

    Where a question has several gold answers, (seed, epoch, question id) decide which one is the target.

    Raises:
        DataError: a question has no answer, or ``max_length`` or ``target_length`` leaves no room.
    """
    if target_length < 3:
        raise DataError(f"target length {target_length} leaves no room for an answer, expected at least 3")
    chosen = [_choose_answer(example, seed, epoch) for example in examples]
    sentinels = (sentinel_id(tokenizer, 0), sentinel_id(tokenizer, 1))
    prompts = encode_prompts(TASKS["squad"], examples, tokenizer, max_length)
    features = []
    answers = token_ids(tokenizer, chosen)
    if long := sum(len(answer) > target_length - 2 for answer in answers):
        logger.warning(
            "squad: %d of %d answers are longer than %d tokens and are cut", long, len(answers), target_length - 2
        )
    for index, ((ids, is_cut), answer) in enumerate(zip(prompts, answers, strict=True)):
        decoder, labels = (array("i", side) for side in squad_decoder(answer, sentinels, target_length, decoder_start))
        features.append(Feature(index, ids, decoder_input_ids=decoder, labels=labels, is_cut=is_cut))
    return features


def _choose_answer(example: SquadExample, seed: int, epoch: int) -> str:
    if not example.answers:
        raise DataError(f"question {example.id} has no answer; SQuAD v1.1 is expected, v2.0 is not supported")
    if len(example.answers) == 1:
        return example.answers[0]
    return random.Random(f"{seed}/{epoch}/{example.id}").choice(example.answers)
