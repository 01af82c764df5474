"""Reading pre-generated epochs: what the model gets, in which order, from memory or from mapped files."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dataset import Batch, DataError, Feature
from dataset.pregenerated import PregeneratedBatches, PretrainingCollator, find_epochs
from tests.helpers_pregenerate import INSTANCE
from tests.helpers_wordpiece import SPECIAL, NumberedText, write_tokenizer
from utils.engine import RunDirectory, Runtime, Trainer, TrainerConfig
from utils.pregenerate.tokens import load_pieces
from utils.pregenerate_training_data import main

VOCABULARY = {token: number for number, token in enumerate([*SPECIAL, *(f"w{n}" for n in range(60)), "##a"])}
COLLATE = PretrainingCollator(pad_id=0)


def instance(first: int, second: int = 0, masked: int = 1, random_next: bool = False) -> dict[str, Any]:
    """An instance with segments of the given numbers of words; its first words are masked."""
    words = [f"w{n % 60}" for n in range(first + second)]
    tokens = ["[CLS]", *words[:first], "[SEP]"]
    segments = [0] * len(tokens)
    if second:
        tokens += [*words[first:], "[SEP]"]
        segments += [1] * (second + 1)
    positions = list(range(1, 1 + masked))
    labels = [tokens[position] for position in positions]
    for position in positions:
        tokens[position] = "[MASK]"
    return {
        "tokens": tokens,
        "segment_ids": segments,
        "is_random_next": random_next,
        "masked_lm_positions": positions,
        "masked_lm_labels": labels,
    }


def write_epoch(folder: Path, number: int, rows: Sequence[dict[str, Any]]) -> Path:
    """An epoch file and its metrics."""
    folder.mkdir(exist_ok=True)
    path = folder / f"epoch_{number}.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = {"num_training_examples": len(rows), "max_seq_len": 64}
    (folder / f"epoch_{number}_metrics.json").write_text(json.dumps(metrics))
    return path


def many(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Instances of random lengths."""
    rng = random.Random(seed)
    return [
        instance(rng.randint(1, 30), rng.randint(0, 20), rng.randint(0, 1), rng.random() < 0.5) for _ in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of 203 and 190 rows."""
    path = tmp_path_factory.mktemp("epochs")
    write_epoch(path, 0, many(203))
    write_epoch(path, 1, many(190, seed=1))
    return path


def source(folder: Path, **settings: Any) -> PregeneratedBatches:
    """With a batch size of 4 unless told."""
    return PregeneratedBatches(folder, VOCABULARY, COLLATE, **{"batch_size": 4, "seed": 1, **settings})


class ToTen(PretrainingCollator):
    """Pads to ten."""

    def __call__(self, rows: Sequence[Feature], reference: Sequence[Feature] | None = None) -> Batch:
        """Whatever the reference."""
        return super().__call__(rows, [Feature(-1, [0] * 10)])


def only_batch(folder: Path, row: dict[str, Any], vocabulary: dict[str, int] = VOCABULARY, **settings: Any) -> Batch:
    """The batch of an epoch that is one row, padded to ten."""
    write_epoch(folder, 0, [row])
    (batch,) = PregeneratedBatches(folder, vocabulary, ToTen(0), 1, **settings).batches(0)
    return batch


def same(left: Iterator[Batch], right: Iterator[Batch]) -> bool:
    """Equal in every tensor of every batch."""
    pairs = list(zip(left, right, strict=True))
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


# what the model gets


def test_features_are_the_originals(tmp_path: Path) -> None:
    """The original's example, padded to ten: ids, mask, segments, labels at masked positions, next-sentence label."""
    row = INSTANCE | {"is_random_next": True, "masked_lm_labels": ["hidden"]}
    batch = only_batch(tmp_path, row, {"[CLS]": 2, "a": 6, "[MASK]": 4, "[SEP]": 3, "b": 64, "hidden": 5})
    assert batch["input_ids"].tolist() == [[2, 6, 4, 3, 64, 3, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 6 + [0] * 4]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 5] + [-100] * 7]
    assert batch["next_sentence_label"].tolist() == [1]


@pytest.mark.parametrize("mapped", [False, True])
def test_masked_positions_behind_the_cut_are_left_out(tmp_path: Path, mapped: bool) -> None:
    """The original ends in an IndexError; here the row is cut, with what was masked inside it."""
    row = instance(first=6, second=5)
    row["masked_lm_positions"], row["masked_lm_labels"] = [2, 4, 9], ["w40", "w41", "w42"]
    batch = only_batch(tmp_path, row, max_length=4, reduce_memory=mapped)
    assert batch["attention_mask"].sum() == 4 and not batch["token_type_ids"].any()
    assert batch["labels"][0].tolist() == [-100, -100, VOCABULARY["w40"]] + [-100] * 7
    batch = only_batch(tmp_path, row, max_length=9, reduce_memory=mapped)
    assert batch["token_type_ids"][0].tolist() == [0] * 8 + [1, 0]


@pytest.mark.parametrize("mapped", [False, True])
def test_cut_rows_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture, mapped: bool) -> None:
    """In one line per file; a row that just fits is not cut."""
    write_epoch(tmp_path, 0, [instance(first=4, second=2), instance(first=6, second=5)])
    for length in (13, 14):
        list(source(tmp_path, max_length=length, reduce_memory=mapped).batches(0))
    cut = "epoch_0.json: 1 of 2 rows is longer than --max_seq_length 13 tokens and is cut"
    assert [message.rpartition("/")[2] for message in caplog.messages] == [cut]


def test_single_segments_have_no_second_token_type(tmp_path: Path) -> None:
    """Not in the row, and not in its padding."""
    assert not only_batch(tmp_path, instance(first=5))["token_type_ids"].any()


# the order


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 300])
def test_every_row_comes_exactly_once(folder: Path, batch_size: int, world_size: int) -> None:
    """Over all processes, also those of the last, incomplete batch; all take the same number of steps."""
    shares = [source(folder, batch_size=batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch, count in ((0, 203), (1, 190)):
        runs = [list(share.batches(epoch)) for share in shares]
        assert {len(run) for run in runs} == {-(-count // (batch_size * world_size))}
        assert sorted(i for run in runs for batch in run for i in batch["index"].tolist() if i >= 0) == list(
            range(count)
        )
        for step in zip(*runs, strict=True):
            assert sum(int(batch["num_rows"]) for batch in step) == int(step[0]["num_global_rows"])
    assert shares[0].batches_per_epoch == -(-203 // (batch_size * world_size))


def test_the_last_incomplete_batch_is_left_out_on_request_only(folder: Path) -> None:
    """As the original does always."""
    sizes = [int(batch["num_rows"]) for batch in source(folder, batch_size=50, drop_last=True).batches(0)]
    assert sizes == [50] * 4 and source(folder, batch_size=50, drop_last=True).batches_per_epoch == 4
    assert sorted(int(batch["num_rows"]) for batch in source(folder, batch_size=50).batches(0)) == [3, 50, 50, 50, 50]
    with pytest.raises(DataError, match="fewer rows than a batch of 204"):
        source(folder, batch_size=204, drop_last=True)


def test_order_is_a_function_of_seed_and_epoch(folder: Path) -> None:
    """The same again; another with another seed; another when the epoch's file comes a second time."""

    def order(epoch: int, **settings: Any) -> list[int]:
        return [i for batch in source(folder, **settings).batches(epoch) for i in batch["index"].tolist()]

    assert order(0) == order(0)
    assert order(0) != order(0, seed=2)
    assert order(0) != order(2) and sorted(order(0)) == sorted(order(2))


def test_rows_of_similar_length_come_together(tmp_path: Path) -> None:
    """Less than a fifth of what they would be padded in file order; batches come in random order of length."""
    rows = many(800)
    write_epoch(tmp_path, 0, rows)
    batches = list(source(tmp_path).batches(0))
    lengths = [len(row["tokens"]) for row in rows]
    in_order = sum(4 * max(lengths[at : at + 4]) - sum(lengths[at : at + 4]) for at in range(0, 800, 4))
    assert sum(int((1 - batch["attention_mask"]).sum()) for batch in batches) < in_order / 5
    widths = [batch["input_ids"].shape[1] for batch in batches]
    assert widths != sorted(widths) and len(set(widths)) > 10


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(("epoch", "start"), [(0, 1), (0, 17), (1, 30), (3, 5), (0, 51)])
def test_an_epoch_goes_on_at_any_batch(folder: Path, epoch: int, start: int, mapped: bool) -> None:
    """Starting late gives the rest of the epoch."""
    whole = list(source(folder).batches(epoch))
    assert same(iter(whole[start:]), source(folder, reduce_memory=mapped).batches(epoch, start))


# files


def test_fewer_epochs_than_asked_for_come_again_with_a_remark(folder: Path) -> None:
    """Which the engine tells as a warning; enough epochs are no reason for one."""
    assert source(folder, epochs=2).remark is None
    remark = source(folder, epochs=3).remark
    assert remark is not None and "has 2 epoch(s) of data and 3 are asked for: they are used again." in remark


def test_mapped_files_are_made_once_and_again_when_something_else_is_asked_for(tmp_path: Path) -> None:
    """Their key is the content of the epoch, the vocabulary and the cut; not the file's place or time."""
    path = write_epoch(tmp_path, 0, many(20))
    stat = path.stat()

    def caches() -> set[str]:
        return {entry.name for entry in (tmp_path / ".cache").iterdir() if entry.is_dir()}

    def read(vocabulary: dict[str, int] = VOCABULARY, **settings: Any) -> list[Batch]:
        made = PregeneratedBatches(tmp_path, vocabulary, COLLATE, 4, reduce_memory=True, **settings)
        return list(made.batches(0))

    first = read()
    assert same(iter(first), iter(read())) and len(caches()) == 1
    read(max_length=10)
    read({**VOCABULARY, "another": 99})
    assert len(caches()) == 3
    path.write_text(path.read_text().replace("w3", "w4"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert not same(iter(first), iter(read())) and len(caches()) == 4


def test_processes_that_start_together_share_the_mapped_files(folder: Path, tmp_path: Path) -> None:
    """Three at once end with one copy and no rest of another."""

    def read() -> None:
        assert same(source(folder).batches(0), source(folder, reduce_memory=True, cache=tmp_path / "cache").batches(0))

    processes = [multiprocessing.get_context("fork").Process(target=read) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len([path for path in (tmp_path / "cache").iterdir() if path.name != ".lock"]) == 1


def test_a_cache_that_cannot_be_written_is_told(folder: Path, tmp_path: Path) -> None:
    """Here because a file is in its place."""
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"--reduce_memory: the cache .* cannot be written"):
        next(source(folder, reduce_memory=True, cache=tmp_path / "file").batches(0))


# bad files


@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_cut_in_the_middle_of_a_line_is_refused_with_its_line(tmp_path: Path, mapped: bool) -> None:
    """File and line are named, and no mapped file of it stays."""
    path = write_epoch(tmp_path, 0, many(20))
    os.truncate(path, path.stat().st_size - 40)
    for _ in range(2):
        with pytest.raises(DataError, match=r"epoch_0\.json:20: this line is cut off"):
            next(source(tmp_path, reduce_memory=mapped).batches(0))
    assert not mapped or [entry.name for entry in (tmp_path / ".cache").iterdir()] == [".lock"]


def test_a_file_cut_between_two_lines_is_refused(tmp_path: Path) -> None:
    """The metrics say how many there must be."""
    path = write_epoch(tmp_path, 0, many(20))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"epoch_0\.json: 19 lines, but epoch_0_metrics\.json says 20"):
        next(source(tmp_path).batches(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tokens": ["[CLS]", "other", "[SEP]"], "segment_ids": [0, 0, 0]},
            "the token 'other' is not in the vocabulary",
        ),
        ({"masked_lm_labels": ["other"]}, "the token 'other' is not in the vocabulary"),
        ({"masked_lm_positions": [99]}, "expected 1 positions below 7, found"),
        ({"masked_lm_positions": [1, 2]}, "expected 1 positions"),
        ({"segment_ids": [0, 0]}, "segment_ids: expected zeros and then ones, as many as there are tokens"),
        ({"segment_ids": [0, 1, 0, 1, 0, 1, 0]}, "segment_ids: expected zeros and then ones"),
        ({"tokens": [], "segment_ids": []}, "segment_ids"),
        ({"tokens": None}, "no instance of pre-training data"),
    ],
    ids=["token", "label", "position", "positions", "short", "mixed", "empty", "null"],
)
def test_lines_that_are_no_instance_are_refused_with_their_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """What is wrong, in which file and line."""
    write_epoch(tmp_path, 0, [instance(5), {**instance(5), **change}])
    with pytest.raises(DataError, match=rf"epoch_0\.json:2: .*{message}"):
        next(source(tmp_path).batches(0))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    """As in a file of something else."""
    write_epoch(tmp_path, 0, [{"tokens": ["[CLS]"]}])
    with pytest.raises(DataError, match=r"epoch_0\.json:1: .*no 'segment_ids'"):
        next(source(tmp_path).batches(0))


def test_incomplete_sets_of_files_are_refused(tmp_path: Path) -> None:
    """Nothing there, a metrics file missing or damaged, an epoch missing in between."""
    with pytest.raises(DataError, match=r"expected epoch_0\.json.*it is empty"):
        find_epochs(tmp_path)
    write_epoch(tmp_path, 0, many(2))
    write_epoch(tmp_path, 2, many(2))
    with pytest.raises(DataError, match=r"there is epoch_2\.json but no epoch_1\.json"):
        find_epochs(tmp_path)
    write_epoch(tmp_path, 1, many(2))
    (tmp_path / "epoch_2_metrics.json").write_text("{}")
    with pytest.raises(DataError, match=r"epoch_2_metrics\.json: expected JSON with num_training_examples"):
        find_epochs(tmp_path)
    (tmp_path / "epoch_2_metrics.json").unlink()
    with pytest.raises(DataError, match=r"epoch_2_metrics\.json: missing"):
        find_epochs(tmp_path)


# from text to training


class _Sum(nn.Module):
    """Remembers the batches that it is trained on; its loss follows from them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2000, 2)
        self.seen: list[list[int]] = []

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.append(batch["index"].tolist())
        return self.embedding(batch["input_ids"]).square().mean(), {}


@pytest.mark.usefixtures("one_thread")
def test_training_on_made_data_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    """From text through the tool, the reader and the trainer: a stop and a restart see the batches of one long run."""
    text = NumberedText([[5, 7, 9, 4]] * 12)
    bert = write_tokenizer(tmp_path / "bert", text.vocabulary)
    corpus, data = text.write(tmp_path / "corpus.txt"), tmp_path / "data"
    flags = "--line_filter off --max_seq_len 16 --epochs_to_generate 2 --num_workers 1"
    main([*f"--train_corpus {corpus} --bert_model {bert} --output_dir {data}".split(), *flags.split()])
    pieces = load_pieces(str(bert), False, 16)
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *pieces.vocabulary])}

    def fit(name: str, max_steps: int) -> _Sum:
        module = _Sum()
        batches = PregeneratedBatches(data, vocabulary, COLLATE, batch_size=4, seed=3, reduce_memory=True)
        config = TrainerConfig(epochs=2, max_steps=max_steps, inspect_step=1)
        directory = RunDirectory(tmp_path / name, {}, resume=(tmp_path / name).exists())
        trainer = Trainer(Runtime(), module, batches, config, directory, lambda: {"x": 0.0}, "x", _save)
        trainer.fit()
        return module

    whole = fit("whole", 1000)
    first, second = fit("halves", 5), fit("halves", 1000)
    assert len(first.seen) == 5 and first.seen + second.seen == whole.seen
    counts = [files.num_examples for files in find_epochs(data)]
    assert len(whole.seen) == sum(-(-count // 4) for count in counts)


def _save(directory: Path) -> None:
    (directory / "model").touch()
