"""Prompts, their fitting to a length, verbalizers."""

import dataclasses
import random

import pytest

from dataset import (
    DataError,
    GlueExample,
    encode_classification,
    get_task,
    render,
    sentinel_id,
    verbalizer_ids,
)
from tests.helpers_tokenizer import NUM_SENTINELS, tiny_tokenizer

PROMPTED = ["mnli", "qqp", "qnli", "sst2", "rte", "mrpc"]


@pytest.fixture(scope="module")
def tokenizer():
    """A tiny T5-like tokenizer."""
    return tiny_tokenizer()


def example(task, *texts: str) -> GlueExample:
    """A row with as many texts as the task has columns."""
    return GlueExample(0, texts[0], texts[1] if len(task.columns) == 2 else None, label=0)


def test_tiny_tokenizer_is_t5_like(tokenizer):
    """Sentinels count down from the highest id; pad, end and unknown are 0, 1, 2."""
    assert sentinel_id(tokenizer, 0) == len(tokenizer) - 1
    assert sentinel_id(tokenizer, NUM_SENTINELS - 1) == len(tokenizer) - NUM_SENTINELS
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)


@pytest.mark.parametrize("name", PROMPTED)
def test_short_prompts_are_the_template_itself(name, tokenizer):
    """A prompt that fits has exactly the tokens of the rendered text, plus the end token."""
    task = get_task(name)
    row = example(task, "a good film", "it is")
    (feature,) = encode_classification(task, [row], tokenizer, 512)
    assert list(feature.input_ids) == tokenizer(render(task, row)).input_ids


@pytest.mark.parametrize("name", PROMPTED)
@pytest.mark.parametrize("max_length", [64, 65, 80])
def test_long_prompts_keep_instruction_and_answer_slot(name, max_length, tokenizer):
    """Whatever the texts, the length holds and the template's end survives untouched."""
    task = get_task(name)
    rng = random.Random(max_length)
    # Lone letters, long words and runs of spaces: cuts fall inside words and next to them.
    pieces = ["x", "qzvkw" * 6, "good", "  ", "é", "film."]
    rows = [
        example(task, *(" ".join(rng.choices(pieces, k=rng.choice([1, 30, 90]))) for _ in range(2))) for _ in range(40)
    ]
    ending = tokenizer("? <extra_id_0>.").input_ids[1:]
    for feature in encode_classification(task, rows, tokenizer, max_length):
        assert len(feature.input_ids) <= max_length
        assert list(feature.input_ids[-len(ending) :]) == ending


def test_the_longest_text_is_shortened(tokenizer):
    """The short text stays whole, and the long one keeps as much as fits."""
    task = get_task("mrpc")
    row = example(task, "film " * 300, "it is good")
    (feature,) = encode_classification(task, [row], tokenizer, 80)
    assert len(feature.input_ids) == 80
    text = tokenizer.decode(feature.input_ids)
    assert "Sentence 2: it is good Are the" in text


def test_braces_in_a_text_are_text(tokenizer):
    """Texts are filled in, not formatted."""
    assert "{sentence} {0}" in render(get_task("sst2"), GlueExample(0, "{sentence} {0}"))


def test_too_short_a_length_is_reported(tokenizer):
    """If the template alone is too long, the message says how long it is."""
    with pytest.raises(DataError, match=r"--max_seq_length 8 is too short for sst2: its template alone has \d+"):
        encode_classification(get_task("sst2"), [GlueExample(0, "a good film")], tokenizer, 8)


def test_unprompted_tasks_are_refused(tokenizer):
    """CoLA has no prompt and no verbalizer."""
    with pytest.raises(DataError, match="cola has no prompt"):
        render(get_task("cola"), GlueExample(0, "x"))
    with pytest.raises(DataError, match="cola has no verbalizer"):
        verbalizer_ids(get_task("cola"), tokenizer)
    with pytest.raises(DataError, match="mrpc has the columns sentence1, sentence2, got 1 texts"):
        render(get_task("mrpc"), GlueExample(0, "x"))


@pytest.mark.parametrize("name", PROMPTED)
def test_verbalizer_ids_are_first_pieces_in_label_order(name, tokenizer):
    """Each word's first piece, one id per label."""
    task = get_task(name)
    pieces = tokenizer.convert_ids_to_tokens(verbalizer_ids(task, tokenizer))
    assert pieces == [f"▁{word}" for word in task.verbalizer]


def test_verbalizers_that_share_a_piece_are_refused():
    """A vocabulary of letters cannot tell two words by their first piece; the message names both."""
    task = get_task("mnli")
    narrow = tiny_tokenizer(words=())
    assert len(set(verbalizer_ids(task, narrow))) == 3  # Y, M and N do differ
    with pytest.raises(DataError, match=r"'Yes' and 'Yeah' of mnli start with the same piece '▁Y'"):
        verbalizer_ids(dataclasses.replace(task, verbalizer=("Yes", "Yeah", "No")), narrow)


def test_missing_sentinel_is_reported(tokenizer):
    """A vocabulary without sentinels is not silently used with its unknown token."""
    with pytest.raises(DataError, match="no <extra_id_100>: a T5 vocabulary is needed"):
        sentinel_id(tokenizer, 100)
