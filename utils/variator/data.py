"""The batches of a task for T5: training, validation, and what the head needs to know of the tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset import (
    BatchSource,
    BucketedBatches,
    Collator,
    DataError,
    Feature,
    SpanCorruptionEncoder,
    SquadExample,
    StreamedBatches,
    Task,
    encode_classification,
    encode_squad,
    find_corpus_files,
    get_task,
    read_glue,
    read_squad,
    sentinel_id,
    verbalizer_ids,
)
from dataset.remarks import warn_cut, warn_few_rows, warn_little_told
from model.heads import Seq2SeqHead, VerbalizerHead
from model.plugin.objective import Head
from model.plugin.published import original_logit_scale
from utils.engine import Runtime

#: Rows of one validation batch; without gradients four times as many fit as in training.
_VALID_FACTOR = 4


@dataclass(frozen=True)
class TaskData:
    """A task's batches and what belongs to them.

    Attributes:
        train: None when only validation was asked for.
        decoder_start: token that generated answers begin with.
        features, examples: the validation rows in memory (empty for a corpus).
    """

    task: Task
    train: BatchSource | None
    valid: BatchSource
    head: Head
    features: Sequence[Feature] = ()
    examples: Sequence[SquadExample] = ()
    decoder_start: int = 0


@dataclass(frozen=True)
class DataRequest:
    """What `build_data` needs from the command line."""

    dataset: str
    data_path: str
    max_length: int
    batch_size: int
    decoder_start: int
    logit_scale: str
    train: bool
    num_workers: int = 0


def build_data(request: DataRequest, tokenizer: Any, config: Any, runtime: Runtime) -> TaskData:
    """Read and encode the task's data.

    A batch is padded to its longest row. What the plugins' groups need beyond that, the model adds for the ratio in
    use: a multiple of all ratios together can be a hundred times as long.
    """
    task = get_task(request.dataset)
    collate = Collator(tokenizer.pad_token_id)
    scale = original_logit_scale(config) if request.logit_scale == "original" else 1.0
    if task.kind == "span_corruption":
        return _corpus(request, task, tokenizer, collate, runtime)
    if task.kind == "question_answering":
        return _squad(request, task, tokenizer, collate, runtime, scale)
    return _classification(request, task, tokenizer, collate, runtime, scale)


def _bucketed(
    request: DataRequest, collate: Collator, runtime: Runtime
) -> Callable[[Sequence[Feature], bool], BucketedBatches]:
    def make(features: Sequence[Feature], shuffle: bool) -> BucketedBatches:
        size = request.batch_size * (1 if shuffle else _VALID_FACTOR)
        return BucketedBatches(features, collate, size, runtime.seed, shuffle, runtime.rank, runtime.world_size)

    return make


def _told(request: DataRequest, split: str, features: list[Feature]) -> list[Feature]:
    """The features themselves; those that are cut are counted in a warning."""
    warn_cut(features, f"{request.dataset}, {split}", "--max_seq_length", request.max_length)
    return features


def _classification(
    request: DataRequest, task: Task, tokenizer: Any, collate: Collator, runtime: Runtime, scale: float
) -> TaskData:
    make = _bucketed(request, collate, runtime)

    def encode(split: str) -> list[Feature]:
        rows = read_glue(task, request.data_path, split)
        return _told(request, split, encode_classification(task, rows, tokenizer, request.max_length))

    train = make(encode("train"), True) if request.train else None  # first, as its faults are told first
    valid = encode("valid")
    if any(feature.label is None for feature in valid):
        raise DataError(f"--data_dir {request.data_path}: the validation rows of {task.name} have no labels")
    warn_little_told(task, [feature.label for feature in valid], f"--data_dir {request.data_path}")
    head = VerbalizerHead(verbalizer_ids(task, tokenizer), sentinel_id(tokenizer, 0), request.decoder_start, scale)
    return TaskData(task, train, make(valid, False), head, valid)


def _squad(
    request: DataRequest, task: Task, tokenizer: Any, collate: Collator, runtime: Runtime, scale: float
) -> TaskData:
    if request.train and Path(request.data_path).is_file():
        raise DataError(
            f"--data_dir {request.data_path} is one file, and would be trained on and validated on: name the folder "
            "that holds train-v1.1.json and dev-v1.1.json (one file is enough for --mode valid)"
        )
    make = _bucketed(request, collate, runtime)

    def encode(examples: Sequence[SquadExample], split: str) -> list[Feature]:
        length, start = request.max_length, request.decoder_start
        return _told(request, split, encode_squad(examples, tokenizer, length, runtime.seed, decoder_start=start))

    train = make(encode(read_squad(request.data_path, "train"), "train"), True) if request.train else None
    examples = read_squad(request.data_path, "valid")
    warn_few_rows(task, len(examples), f"--data_dir {request.data_path}")
    valid = encode(examples, "valid")
    return TaskData(task, train, make(valid, False), Seq2SeqHead(scale), valid, examples, request.decoder_start)


def _corpus(request: DataRequest, task: Task, tokenizer: Any, collate: Collator, runtime: Runtime) -> TaskData:
    encoder = SpanCorruptionEncoder(tokenizer, request.max_length, runtime.seed)

    def stream(files: list[Path], shuffle: bool) -> StreamedBatches:
        size = request.batch_size * (1 if shuffle else _VALID_FACTOR)
        return StreamedBatches(
            files,
            encoder,
            collate,
            size,
            runtime.seed,
            runtime.rank,
            runtime.world_size,
            num_workers=request.num_workers,
            shuffle=shuffle,
        )

    train = stream(find_corpus_files(request.data_path, "train"), True) if request.train else None
    return TaskData(task, train, stream(find_corpus_files(request.data_path, "valid"), False), Seq2SeqHead())
