"""Batches: order, sharding, padding, resuming."""

import random
from itertools import islice

import pytest
import torch

from dataset import BucketedBatches, Collator, DataError, Feature, Line, SpanCorruptionEncoder, StreamedBatches
from tests.helpers_tokenizer import tiny_tokenizer

COLLATE = Collator(pad_id=0)


def features(count: int, seed: int = 0) -> list[Feature]:
    """Rows of random length; the first token is the row's index + 10."""
    rng = random.Random(seed)
    return [Feature(i, [i + 10] * rng.randint(1, 40), label=i % 2) for i in range(count)]


def bucketed(rows, **settings) -> BucketedBatches:
    """With a batch size of 4 unless told."""
    return BucketedBatches(rows, COLLATE, **{"batch_size": 4, "seed": 1, **settings})


def indices(source, epoch: int = 0, start: int = 0) -> list[list[int]]:
    """Row indices of every batch."""
    return [batch["index"].tolist() for batch in source.batches(epoch, start)]


def same(left, right) -> bool:
    """Whether two runs of batches are equal in every tensor."""
    left, right = list(left), list(right)
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 7, 64, 65, 450])
def test_every_row_comes_exactly_once(count, world_size, shuffle):
    """Over all processes, each epoch has each row once; all processes take the same number of steps."""
    sources = [
        bucketed(features(count), shuffle=shuffle, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    runs = [list(source.batches(3)) for source in sources]
    assert {len(run) for run in runs} == {sources[0].batches_per_epoch}
    seen = [i for run in runs for batch in run for i in batch["index"].tolist() if i >= 0]
    assert sorted(seen) == list(range(count))
    for step in zip(*runs, strict=True):
        own = [int(batch["num_rows"]) for batch in step]
        assert {int(batch["num_global_rows"]) for batch in step} == {sum(own)}
        assert own == [int((batch["index"] >= 0).sum()) for batch in step]


def test_global_batch_is_the_same_on_any_number_of_processes():
    """Two processes of 4 rows see together what one process of 8 rows sees, padded alike."""
    rows = features(100)
    alone = list(bucketed(rows, batch_size=8).batches(0))
    pair = [list(bucketed(rows, rank=rank, world_size=2).batches(0)) for rank in range(2)]
    for whole, first, second in zip(alone, *pair, strict=True):
        merged = torch.empty_like(whole["input_ids"])
        merged[0::2], merged[1::2] = first["input_ids"], second["input_ids"]
        assert torch.equal(merged, whole["input_ids"])


def test_order_is_a_function_of_seed_and_epoch():
    """The same again, another in another epoch, another with another seed."""
    rows = features(200)
    assert indices(bucketed(rows), 0) == indices(bucketed(rows), 0)
    assert indices(bucketed(rows), 0) != indices(bucketed(rows), 1)
    assert indices(bucketed(rows), 0) != indices(bucketed(rows, seed=2), 0)
    assert indices(bucketed(rows, shuffle=False), 0) == indices(bucketed(rows, shuffle=False), 1)


@pytest.mark.parametrize("start", [0, 1, 13, 50, 60])
def test_start_continues_the_epoch(start):
    """Starting late gives the rest of the epoch, and nothing after its end."""
    rows = features(200)
    assert indices(bucketed(rows), 2, start) == indices(bucketed(rows), 2)[start:]


def test_rows_of_similar_length_come_together():
    """Sorting in pools leaves far less padding than a plain shuffle would, and the lengths do not come in order."""
    batches = list(bucketed(features(2000), batch_size=8).batches(0))
    padding = 1 - sum(int(b["attention_mask"].sum()) for b in batches) / sum(b["input_ids"].numel() for b in batches)
    assert padding < 0.1
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    assert lengths != sorted(lengths)


def test_bad_settings_are_reported():
    """No rows, no batch size, no such rank."""
    with pytest.raises(DataError, match="no rows"):
        bucketed([])
    with pytest.raises(DataError, match="--train_batch_size 0: expected 1 or more"):
        bucketed(features(1), batch_size=0)
    with pytest.raises(DataError, match="rank 2 does not exist among 2 processes"):
        bucketed(features(1), rank=2, world_size=2)


# --- collation ----------------------------------------------------------------------------------------------------


def test_rows_are_padded_to_the_longest():
    """With the padding id, masked, and no further."""
    rows = [Feature(0, [7] * 5, label=1), Feature(1, [7] * 2, label=0)]
    batch = Collator(0)(rows)
    assert batch["input_ids"].shape == (2, 5)
    assert batch["attention_mask"].sum(1).tolist() == [5, 2]
    assert (batch["input_ids"] * (1 - batch["attention_mask"])).sum() == 0
    assert batch["labels"].dtype == torch.int64


def test_regression_and_hidden_labels():
    """Scores are float32; hidden labels give no tensor."""
    assert Collator(0)([Feature(0, [1], label=2.5)])["labels"].dtype == torch.float32
    assert "labels" not in Collator(0)([Feature(0, [1])])


def test_decoder_padding_is_ignored_by_the_loss():
    """The padding id in the input, 0 in the mask, -100 in the labels."""
    rows = [
        Feature(0, [5], decoder_input_ids=[0, 8, 9], labels=[8, 9, -100]),
        Feature(1, [5], decoder_input_ids=[0], labels=[-100]),
    ]
    batch = Collator(pad_id=3)(rows)
    assert batch["decoder_input_ids"].tolist() == [[0, 8, 9], [0, 3, 3]]
    assert batch["decoder_attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[8, 9, -100], [-100, -100, -100]]


# --- streams -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three files of 100 lines, whose numbers are spelt in their texts."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    for file in range(3):
        lines = (f"line {file} {n} " + "it is " * rng.randint(1, 20) for n in range(100))
        (folder / f"train_{file}.txt").write_text("\n".join(lines))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def tokenizer():
    """A tiny T5-like tokenizer."""
    return tiny_tokenizer()


class Spell:
    """Encodes a line as its file and number, so that a test can tell which lines came."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, lines, epoch):
        self.calls += len(lines)
        return [Feature(line.file * 1000 + line.number, [5] * len(line.text)) for line in lines]


def streamed(corpus, encode=None, **settings) -> StreamedBatches:
    """With a batch size of 4 and a pool of 32 unless told."""
    return StreamedBatches(
        corpus, encode or Spell(), COLLATE, **{"batch_size": 4, "seed": 1, "shuffle_pool": 32, **settings}
    )


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 7])
def test_stream_gives_every_line_exactly_once(corpus, world_size, shuffle):
    """Processes do not overlap, miss nothing, and take the same number of steps."""
    runs = [
        list(streamed(corpus, rank=rank, world_size=world_size, shuffle=shuffle).batches(0))
        for rank in range(world_size)
    ]
    assert len({len(run) for run in runs}) == 1
    seen = sorted(i for run in runs for batch in run for i in batch["index"].tolist() if i >= 0)
    assert seen == [file * 1000 + n for file in range(3) for n in range(1, 101)]
    assert sum(int(batch["num_global_rows"]) for batch in runs[0]) == 300


def test_stream_order_is_a_function_of_seed_and_epoch(corpus):
    """As for rows in memory; without shuffling the lines come in file order."""
    assert indices(streamed(corpus)) == indices(streamed(corpus))
    assert indices(streamed(corpus), 0) != indices(streamed(corpus), 1)
    assert indices(streamed(corpus)) != indices(streamed(corpus, seed=2))
    assert indices(streamed(corpus, shuffle=False))[:2] == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_stream_start_skips_without_encoding(corpus):
    """The rest of the epoch, at no cost for what is skipped."""
    encode = Spell()
    rest = indices(streamed(corpus, encode), 0, start=50)
    assert rest == indices(streamed(corpus), 0)[50:]
    assert encode.calls == 300 - 50 * 4


def test_stream_of_one_process_equals_that_of_two(corpus, tokenizer):
    """Which tokens are hidden does not depend on the process: each row equals its single-process twin."""
    encode = SpanCorruptionEncoder(tokenizer, 64, seed=5)
    alone = list(streamed(corpus, encode, batch_size=8).batches(1))
    pair = [list(streamed(corpus, encode, rank=rank, world_size=2).batches(1)) for rank in range(2)]
    for step, whole in enumerate(alone):
        for rank in range(2):
            part = pair[rank][step]
            ids = whole["input_ids"][rank::2, : part["input_ids"].shape[1]]
            assert torch.equal(part["input_ids"], ids)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_do_not_change_the_batches(corpus, tokenizer, num_workers):
    """The same tensors in the same order, and torch's random state is left alone."""
    encode = SpanCorruptionEncoder(tokenizer, 64, seed=5)
    expected = list(islice(streamed(corpus, encode).batches(0, start=3), 12))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    actual = list(islice(streamed(corpus, encode, num_workers=num_workers).batches(0, start=3), 12))
    assert same(expected, actual)
    assert torch.equal(torch.get_rng_state(), state)


def test_stream_reads_no_more_than_its_pool(corpus, monkeypatch):
    """Constant memory: the first batch needs one pool of lines, not the corpus."""
    import dataset.batches as module

    read: list[Line] = []

    def counted(*args):
        for line in original(*args):
            read.append(line)
            yield line

    original = module.iter_lines
    monkeypatch.setattr(module, "iter_lines", counted)
    next(streamed(corpus, shuffle_pool=32).batches(0))
    assert len(read) == 32


def test_stream_needs_files():
    """No files is an error at once."""
    with pytest.raises(DataError, match="no corpus files"):
        streamed([])
    assert streamed(["x"]).batches_per_epoch is None
