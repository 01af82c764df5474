"""Span corruption: counts, spans, and what is reconstructed from them."""

import random
from itertools import pairwise

import pytest

from dataset import DataError, Line, SpanCorruptionEncoder, corrupt, random_spans, sentinel_id, span_counts
from tests.helpers_tokenizer import tiny_tokenizer

EOS = 1
SENTINELS = list(range(1099, 999, -1))


def restore(made) -> list[int]:
    """The document, put together again from input and target."""
    target = made["labels"][:-1]
    spans: dict[int, list[int]] = {}
    for token in target:
        if token in SENTINELS:
            key = token
            spans[key] = []
        else:
            spans[key].append(token)
    return [t for token in made["input_ids"][:-1] for t in spans.get(token, [token])]


@pytest.mark.parametrize("density", [0.15, 0.5, 0.9])
@pytest.mark.parametrize("mean_span", [1.0, 3.0])
def test_spans_have_the_promised_counts(density, mean_span):
    """Any length: right counts, kept token first, hidden token last, spans apart."""
    rng = random.Random(0)
    for length in range(2, 300):
        spans = random_spans(length, rng, density, mean_span)
        num_noise, num_spans = span_counts(length, density, mean_span)
        assert (sum(end - start for start, end in spans), len(spans)) == (num_noise, num_spans)
        assert spans[0][0] >= 1
        assert spans[-1][1] == length
        assert all(before[1] < after[0] for before, after in pairwise(spans))


@pytest.mark.parametrize("length", [2, 3, 20, 127, 223, 511])
def test_document_can_be_restored(length):
    """Nothing is lost: input and target together give the document back, at any length."""
    doc = random.Random(length).choices(range(2, 999), k=length)
    made = corrupt(doc, random_spans(length, random.Random(1)), SENTINELS, EOS)
    assert restore(made) == doc
    assert made["input_ids"][-1] == EOS


def test_decoder_is_shifted_and_cut_only_on_request():
    """labels[t] is decoder_input_ids[t + 1]; a decoder length cuts both sides."""
    doc = list(range(2, 130))
    spans = random_spans(len(doc), random.Random(1))
    whole = corrupt(doc, spans, SENTINELS, EOS)
    assert whole["decoder_input_ids"][0] == 0
    assert whole["labels"] == [*whole["decoder_input_ids"][1:], -100]
    cut = corrupt(doc, spans, SENTINELS, EOS, decoder_length=16)
    assert cut["decoder_input_ids"] == whole["decoder_input_ids"][:16]
    assert cut["labels"] == [*whole["labels"][:15], -100]


def test_one_token_is_left_alone():
    """What crashes the original: a document of fewer than two tokens has no spans, and is refused by the counts."""
    assert random_spans(1, random.Random(0)) == []
    assert corrupt([5], [], SENTINELS, EOS)["input_ids"] == [5, EOS]
    with pytest.raises(DataError, match="a document of 1 tokens cannot be corrupted"):
        span_counts(1)


def test_too_few_sentinels_are_reported():
    """Spans beyond the vocabulary's sentinels are an error."""
    with pytest.raises(DataError, match="2 spans need 3 sentinels, the tokenizer has 2"):
        corrupt([5, 6, 7, 8], [(1, 2), (3, 4)], SENTINELS[:2], EOS)
    for length in (1992, 2100, 4000):
        message = rf"--max_seq_length {length} hides .* the tokenizer has 100: the largest length possible is 1991"
        with pytest.raises(DataError, match=message):
            SpanCorruptionEncoder(tiny_tokenizer(), max_length=length)
    assert len(SpanCorruptionEncoder(tiny_tokenizer(), max_length=1991).sentinel_ids) == 100


def test_encoder_depends_on_seed_epoch_and_line_only():
    """The same line is corrupted alike in any company, and otherwise in another epoch, seed or place."""
    tokenizer = tiny_tokenizer()
    lines = [Line(0, n, "it is a good film and this is a bad film " * 3) for n in range(1, 6)]
    encode = SpanCorruptionEncoder(tokenizer, 64, seed=1)
    together = [list(feature.input_ids) for feature in encode(lines, 0)]
    alone = [list(encode([line], 0)[0].input_ids) for line in reversed(lines)][::-1]
    assert together == alone
    assert len({tuple(row) for row in together}) > 1
    assert together != [list(feature.input_ids) for feature in encode(lines, 1)]
    other = SpanCorruptionEncoder(tokenizer, 64, seed=2)
    assert together != [list(feature.input_ids) for feature in other(lines, 0)]


def test_encoder_keeps_the_length_and_all_spans():
    """A long line is cut to the length; its target ends with the sentinel after the last span."""
    tokenizer = tiny_tokenizer()
    (feature,) = SpanCorruptionEncoder(tokenizer, 224)([Line(0, 1, "good film " * 400)], 0)
    num_noise, num_spans = span_counts(223)
    assert len(feature.input_ids) == 223 - num_noise + num_spans + 1
    assert feature.labels is not None
    assert len(feature.labels) == num_noise + num_spans + 2
    assert feature.labels[-2] == sentinel_id(tokenizer, num_spans)
