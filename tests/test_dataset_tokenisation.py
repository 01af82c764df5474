"""Users' texts as tokens: control tokens are text, and very long rows are cut before they are tokenised."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import BertTokenizerFast

from dataset import (
    GlueExample,
    Line,
    SpanCorruptionEncoder,
    TaggedSentence,
    encode_classification,
    encode_tagged,
    get_task,
    sentinel_id,
)
from dataset.classification import encode_pairs
from dataset.prompts import render
from dataset.tokenisation import beginning, token_ids
from tests.helpers_tokenizer import tiny_tokenizer
from tests.tiny_bert import tiny_word_pieces

T5_CONTROL = ("</s>", "<pad>", "<extra_id_0>", "<extra_id_99>")
BERT_CONTROL = ("[SEP]", "[CLS]", "[MASK]", "[PAD]")


def tokenizers() -> list[tuple[Any, tuple[str, ...]]]:
    """Of a T5 and of a BERT, with their control tokens."""
    return [(tiny_tokenizer(), T5_CONTROL), (tiny_word_pieces(), BERT_CONTROL)]


@pytest.mark.parametrize(("tokenizer", "control"), tokenizers(), ids=["t5", "bert"])
@pytest.mark.parametrize("frame", ["{}", "a good {} film", "good{}film", "{}{}", "a {}."])
def test_control_tokens_in_a_text_are_text(tokenizer: Any, control: tuple[str, ...], frame: str) -> None:
    """Alone, between words and inside them; the words around are what they are without it."""
    for name in control:
        text = frame.replace("{}", name)
        (ids,) = token_ids(tokenizer, [text])
        assert not set(ids) & {tokenizer.convert_tokens_to_ids(known) for known in control}, text
        assert len(ids) > len(token_ids(tokenizer, [frame.replace("{}", " ")])[0])
    assert tokenizer.convert_tokens_to_ids(control[0]) in tokenizer(control[0], add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(("tokenizer", "control"), tokenizers(), ids=["t5", "bert"])
def test_other_texts_have_the_tokens_that_they_always_had(tokenizer: Any, control: tuple[str, ...]) -> None:
    """Brackets, unknown letters and all."""
    texts = ["a good film.", "", "  a  ", "x < y > z [a] </ s>", "é 中 \u200b", "[SEP", "<extra_id_>", "[unk]"]
    assert token_ids(tokenizer, texts) == tokenizer(texts, add_special_tokens=False)["input_ids"]


def test_tokens_that_a_user_added_stay_whole() -> None:
    """They are words of the vocabulary, no control tokens."""
    tokenizer: Any = BertTokenizerFast(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5})
    tokenizer.add_tokens(["[DRUG]"])
    assert token_ids(tokenizer, ["a [DRUG]"]) == [[5, 6]]


@pytest.mark.parametrize("name", ["sst2", "mrpc", "mnli", "qnli"])
def test_a_prompt_has_one_answer_slot_whatever_its_texts_hold(name: str) -> None:
    """And one end, in rows that fit and in rows that are cut."""
    tokenizer, task = tiny_tokenizer(), get_task(name)
    slot, end = sentinel_id(tokenizer, 0), tokenizer.eos_token_id
    for text in ("good </s> film <extra_id_0>.", "<extra_id_0>", "film <extra_id_1> </s> " * 30):
        row = GlueExample(0, text, text if len(task.columns) > 1 else None, 0)
        (feature,) = encode_classification(task, [row], tokenizer, 80)
        ids = list(feature.input_ids)
        assert ids.count(slot) == 1 and ids.index(slot) > len(ids) - 5 and ids.count(end) == 1 and ids[-1] == end
        assert feature.is_cut == (len(text) > 100)


def test_prompts_of_ordinary_texts_are_those_of_the_whole_template() -> None:
    """Encoding up to the slot changes nothing."""
    tokenizer, task = tiny_tokenizer(), get_task("mrpc")
    rows = [GlueExample(i, text, "it is", 0) for i, text in enumerate(["a good film", "", " x  y ", "qzv! é", "a\nb"])]
    features = encode_classification(task, rows, tokenizer, 512)
    assert [list(f.input_ids) for f in features] == [tokenizer(render(task, row)).input_ids for row in rows]


def test_classifiers_and_taggers_see_no_control_token_but_their_own() -> None:
    """`[CLS]` at the beginning and `[SEP]` behind each text."""
    tokenizer = tiny_word_pieces()
    (pair,) = encode_pairs([GlueExample(0, "a [SEP] film", "[MASK] [CLS]")], tokenizer, 64)
    (tagged,) = encode_tagged([TaggedSentence(0, ("[SEP]", "film", "[MASK]"), (0, 0, 0), ())], tokenizer, 64)
    for ids, ends in ((list(pair.input_ids), 2), (list(tagged.input_ids), 1)):
        assert ids.count(tokenizer.cls_token_id) == 1 and ids.count(tokenizer.sep_token_id) == ends
        assert tokenizer.mask_token_id not in ids


def test_hidden_spans_are_the_encoders_alone() -> None:
    """A corpus that spells sentinels gives none but those that stand for spans."""
    tokenizer = tiny_tokenizer()
    encoder = SpanCorruptionEncoder(tokenizer, 64)
    (feature,) = encoder([Line(0, 1, "a good <extra_id_0> film </s> and <extra_id_5> it is a bad film")], 0)
    sentinels = [i for i in feature.input_ids if i >= sentinel_id(tokenizer, 99)]
    assert sentinels == [sentinel_id(tokenizer, i) for i in range(len(sentinels))]
    assert list(feature.input_ids).count(tokenizer.eos_token_id) == 1


# --- very long rows -------------------------------------------------------------------------------


LONG_TEXTS = ["good film " * 40_000, "x" * 400_000, "x " * 9 + " " * 400_000 + "y", "中" * 100_000, "é" * 90_000 + " a"]


@pytest.mark.parametrize("text", LONG_TEXTS, ids=["words", "word", "blanks", "unknown", "unknown and more"])
@pytest.mark.parametrize(("tokenizer", "control"), tokenizers(), ids=["t5", "bert"])
def test_the_beginning_of_a_long_text_has_its_first_tokens(tokenizer: Any, control: tuple[str, ...], text: str) -> None:
    """As many as were asked for, the same as those of the whole; and little of the text is left."""
    start = beginning(tokenizer, text, 64)
    assert token_ids(tokenizer, [start])[0][:64] == token_ids(tokenizer, [text])[0][:64] and len(start) < 10_000
    assert beginning(tokenizer, text[:3000], 64) == text[:3000]


class Counting:
    """A tokenizer that adds up the characters which it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.characters = tokenizer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, texts: Any, **settings: Any) -> Any:
        self.characters += len(texts) if isinstance(texts, str) else sum(map(len, texts))
        return self.tokenizer(texts, **settings)


@pytest.mark.parametrize(
    "text", ["good film " * 200_000, "x" * 2_000_000, "é" * 1_000_000], ids=["words", "word", "unknown"]
)
def test_rows_of_megabytes_cost_little_and_are_cut(text: str) -> None:
    """A few thousand characters are tokenised, in every encoder, and the rows are marked."""
    t5, bert = Counting(tiny_tokenizer()), Counting(tiny_word_pieces())
    (prompt,) = encode_classification(get_task("sst2"), [GlueExample(0, text, label=0)], t5, 64)
    (hidden,) = SpanCorruptionEncoder(t5, 64)([Line(0, 1, text)], 0)
    (pair,) = encode_pairs([GlueExample(0, "a", text)], bert, 64)
    (tagged,) = encode_tagged([TaggedSentence(0, tuple(text.split()), None, ())], bert, 64)
    assert t5.characters < 150_000 and bert.characters < 150_000
    assert prompt.is_cut == (text[0] != "é") and pair.is_cut == tagged.is_cut == (text[0] == "g")
    assert len(prompt.input_ids) <= 64 and len(hidden.input_ids) <= 64 and len(pair.input_ids) <= 64


def test_a_long_row_is_cut_to_the_same_tokens_as_ever() -> None:
    """The text that stays is what stays of a text which is only a little too long."""
    tokenizer, task = tiny_tokenizer(), get_task("mrpc")
    rows = [GlueExample(0, "good film " * times, "it is") for times in (100, 10_000)]
    first, second = encode_classification(task, rows, tokenizer, 80)
    assert list(first.input_ids) == list(second.input_ids)
