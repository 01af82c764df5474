"""The batches of a GLUE task, or of one of tagged words, for an encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset import (
    BucketedBatches,
    Collator,
    DataError,
    GlueExample,
    TaggedSentence,
    Task,
    TokenCollator,
    TokenFeature,
    encode_tagged,
    get_task,
    read_glue,
    read_tagged,
)
from dataset.batches import Collate
from dataset.classification import PairCollator, PairFeature, encode_pairs
from dataset.glue import find_glue
from dataset.remarks import warn_cut, warn_few_rows, warn_little_told
from dataset.sources import is_hub
from dataset.tokens import OUTSIDE
from utils.engine import Runtime
from utils.tucker.tasks import is_tagged

logger = logging.getLogger(__name__)

#: The option with the folder of the data.
_FLAG = "--data_dir"
#: Made by `python -m utils.data_augmentation`, beside the task's `train.tsv`.
AUGMENTED_FILE = "train_aug.tsv"
#: What else is evaluated with a task's model: the suffix of its metrics, and the task.
_FURTHER_SETS = {"mnli": (("_mm", "mnlimm"),)}
#: GLUE's diagnostic set: test rows only, predicted with the model of MNLI.
AX = replace(
    get_task("mnli"), name="ax", folder="diagnostic", hub_name="ax", test_split="test", test_file="diagnostic.tsv"
)
#: Another name of its file.
_AX_FILE = "AX.tsv"


@dataclass(frozen=True)
class LabelledSet:
    """Rows to evaluate on.

    Attributes:
        task: whose rows they are.
        suffix: put behind the names of their metrics.
        source: their batches, every row once; of tagged sentences those of which the model sees a word.
        features: the rows, in the order of the file.
    """

    task: Task
    suffix: str
    source: BucketedBatches
    features: Sequence[PairFeature]


@dataclass(frozen=True)
class DataRequest:
    """What the data need from the command line; batch sizes are rows per process and forward pass."""

    task: Task
    data_dir: str
    max_length: int
    batch_size: int
    eval_batch_size: int


def training_batches(
    request: DataRequest, tokenizer: Any, runtime: Runtime, augmented: bool = False
) -> BucketedBatches:
    """The training rows, or the augmented ones, in a new order every epoch."""
    features = _read(request, request.task, "train", tokenizer, AUGMENTED_FILE if augmented else None)
    return _batches(features, request, tokenizer, runtime, True)


def validation_sets(request: DataRequest, tokenizer: Any, runtime: Runtime) -> list[LabelledSet]:
    """The development set; for MNLI both.

    Raises:
        DataError: rows without labels.
    """
    sets = []
    for suffix, name in (("", request.task.name), *_FURTHER_SETS.get(request.task.name, ())):
        task = get_task(name)
        features = _read(request, task, "valid", tokenizer)
        if is_tagged(task):
            _warn_without_entities(request, features)
        elif any(feature.label is None for feature in features):
            raise DataError(f"{_FLAG} {request.data_dir}: the validation rows of {name} have no labels")
        else:
            warn_little_told(task, [feature.label for feature in features], f"{_FLAG} {request.data_dir}")
        source = _batches(features, request, tokenizer, runtime, False)
        sets.append(LabelledSet(task, suffix, source, features))
    return sets


def test_sets(task: Task) -> list[tuple[Task, bool]]:
    """What is predicted with a task's model, and whether its rows have to be there."""
    further = [(get_task(name), True) for _, name in _FURTHER_SETS.get(task.name, ())]
    return [(task, True), *further, *([(AX, False)] if task.name == "mnli" else [])]


def test_batches(
    request: DataRequest, task: Task, tokenizer: Any, runtime: Runtime
) -> tuple[BucketedBatches, list[str] | None]:
    """The test rows of `task`, whose labels nobody has.

    Returns:
        their batches, and what the file calls its rows, in their order; None where it does not number them.

    Raises:
        DataError: they are not there, or broken.
    """
    examples = _read_ax(request.data_dir) if task is AX else read_glue(task, request.data_dir, "test", flag=_FLAG)
    features = list(encode_pairs(examples, tokenizer, request.max_length))
    _warn_cut(request, features, task, "test")
    ids = [example.row_id for example in examples if example.row_id is not None]
    source = _batches([_unlabelled(f) for f in features], request, tokenizer, runtime, False)
    return source, ids if len(ids) == len(examples) else None


def test_sentences(request: DataRequest, tokenizer: Any, runtime: Runtime) -> tuple[list[TaggedSentence], LabelledSet]:
    """The test sentences of a task of tagged words; their tags are there if the file has any.

    Raises:
        DataError: they are not there, or broken.
    """
    sentences = read_tagged(request.task, request.data_dir, "test", flag=_FLAG)
    features = list(encode_tagged(sentences, tokenizer, request.max_length))
    _warn_cut(request, features, request.task, "test")
    return sentences, LabelledSet(request.task, "", _batches(features, request, tokenizer, runtime, False), features)


def _read(
    request: DataRequest, task: Task, split: str, tokenizer: Any, file: str | None = None
) -> Sequence[PairFeature]:
    """The encoded rows of a split; those that are cut are counted in a warning."""
    features: Sequence[PairFeature]
    if is_tagged(task):
        features = list(
            encode_tagged(read_tagged(task, request.data_dir, split, file, _FLAG), tokenizer, request.max_length)
        )
    else:
        features = list(
            encode_pairs(read_glue(task, request.data_dir, split, file, _FLAG), tokenizer, request.max_length)
        )
    _warn_cut(request, features, task, split)
    return features


def _warn_cut(request: DataRequest, features: Sequence[PairFeature], task: Task, split: str) -> None:
    warn_cut(features, f"{task.name}, {split}", "--max_seq_length", request.max_length)


def _warn_without_entities(request: DataRequest, features: Sequence[PairFeature]) -> None:
    if all(tag == OUTSIDE for feature in features if isinstance(feature, TokenFeature) for tag in feature.tags or ()):
        logger.warning(
            "%s %s: the validation sentences of %s hold no entity, so every model's F1 is 0.0",
            *(_FLAG, request.data_dir, request.task.name),
        )
    else:
        warn_few_rows(request.task, len(features), f"{_FLAG} {request.data_dir}")


def _read_ax(data_dir: str) -> list[GlueExample]:
    """The diagnostic rows, which lie beside MNLI's folder if `data_dir` is that."""
    if is_hub(data_dir):
        return read_glue(AX, data_dir, "test", flag=_FLAG)
    for place in (Path(data_dir), Path(data_dir).parent):
        for file in (None, _AX_FILE):
            try:
                found = find_glue(AX, place, "test", file)
            except DataError:
                continue  # not there
            if found.is_dir():  # perhaps of MNLI
                with suppress(DataError):
                    return read_glue(AX, found, "test", flag=_FLAG)
                continue
            return read_glue(AX, place, "test", file, _FLAG)
    raise DataError(f"neither {AX.test_file} nor {_AX_FILE} in {data_dir}, its folder {AX.folder} or beside it")


def _unlabelled(feature: PairFeature) -> PairFeature:
    return PairFeature(feature.index, feature.input_ids, second_at=feature.second_at)


def _batches(
    features: Sequence[PairFeature], request: DataRequest, tokenizer: Any, runtime: Runtime, train: bool
) -> BucketedBatches:
    size = request.batch_size if train else request.eval_batch_size
    pairs = PairCollator(Collator(tokenizer.pad_token_id))
    collate: Collate = pairs
    if is_tagged(request.task):
        collate = TokenCollator(pairs)
        # A batch without any label would have no mean loss.
        features = [feature for feature in features if isinstance(feature, TokenFeature) and feature.is_seen]
    return BucketedBatches(features, collate, size, runtime.seed, train, runtime.rank, runtime.world_size)
