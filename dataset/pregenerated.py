"""BERT's pre-training data from epoch files (``epoch_N.json``), as ``utils.pregenerate_training_data`` and the
original make them: one instance per line, and beside each file ``epoch_N_metrics.json`` with its number of lines.

An epoch is read once into a few flat arrays, about 5 bytes a token, or, with ``reduce_memory``, into files of the
same content that are mapped into memory and kept for the next run.

Shapes: B rows, L length.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from dataset.batches import BucketedBatches
from dataset.classification import PairCollator, PairFeature
from dataset.collate import Batch, Collator
from dataset.epochs import EpochFiles, find_epochs
from dataset.errors import DataError, shown
from dataset.features import IGNORED, Feature
from dataset.fingerprint import of_files
from dataset.pregenerated_arrays import Row, build_in_memory, open_cache
from dataset.remarks import warn_cut_rows
from dataset.sources import read_lines

_POOL_BATCHES = 50  # as in dataset.batches: global batches that are sorted by length together


@dataclass(frozen=True, slots=True)
class PretrainingFeature(PairFeature):
    """An instance; token ``masked_labels[i]`` stood at position ``masked_positions[i]``.

    Attributes:
        is_random_next: the second segment does not follow the first one.
    """

    masked_positions: Sequence[int] = ()
    masked_labels: Sequence[int] = ()
    is_random_next: bool = False


@dataclass(frozen=True)
class PretrainingCollator:
    """Pads ``PretrainingFeature`` rows.

    Attributes:
        pad_id: of the vocabulary.
    """

    pad_id: int

    def __call__(self, rows: Sequence[Feature], reference: Sequence[Feature] | None = None) -> Batch:
        """Tensors of ``rows``, padded to the longest of ``reference``.

        Returns:
            int64 ``input_ids``, ``attention_mask``, ``token_type_ids`` and ``labels`` (B, L), the latter -100 where
            nothing was masked; int64 ``next_sentence_label`` (B,), 1 where the second segment is a random one;
            ``index`` (B,), the row's place in its file.
        """
        batch = PairCollator(Collator(self.pad_id))(rows, reference)
        instances = [row for row in rows if isinstance(row, PretrainingFeature)]
        labels = torch.full_like(batch["input_ids"], IGNORED)
        places = [(at, place) for at, row in enumerate(instances) for place in row.masked_positions]
        if places:
            masked = [label for row in instances for label in row.masked_labels]
            labels[tuple(torch.tensor(places).T)] = torch.tensor(masked)
        following = torch.tensor([int(row.is_random_next) for row in instances])
        return {**batch, "labels": labels, "next_sentence_label": following}


class EncodedEpoch(Sequence[PretrainingFeature]):
    """The rows of an epoch file as features, made of flat arrays when they are asked for.

    Args:
        files: of the epoch.
        vocabulary: from token to id.
        max_length: longer rows are cut at their end, masked positions beyond it left out; None cuts nothing.
        cache: directory for memory-mapped arrays; None keeps them in memory. Processes that need the same cache at
            the same time wait for the first of them to make it.

    Raises:
        DataError: a line is cut off or not an instance, a token is not in the vocabulary (the message has file and
            line), the number of lines is not what the metrics say, or the cache cannot be written.
    """

    def __init__(
        self, files: EpochFiles, vocabulary: Mapping[str, int], max_length: int | None = None, cache: Path | None = None
    ) -> None:
        if max_length is not None and max_length < 3:
            raise DataError(f"a length of {max_length} tokens leaves no room for text, expected at least 3")

        def rows() -> Iterator[Row]:
            return _read(files.instances, vocabulary, max_length)

        if cache is None:
            self._arrays = build_in_memory(rows())
        else:
            self._arrays = open_cache(cache, files.instances, {"tokens": dict(vocabulary), "cut": max_length}, rows)
        if len(self) != files.num_examples:
            raise DataError(
                f"{files.instances}: {len(self)} lines, but {files.metrics.name} says {files.num_examples}; "
                "one of them is not complete"
            )

    def __len__(self) -> int:
        return len(self._arrays.token_ends)

    def __getitem__(self, row: Any) -> Any:
        """The feature at a position (no slices)."""
        arrays, at = self._arrays, int(row)
        tokens = slice(arrays.token_ends[at - 1] if at else 0, arrays.token_ends[at])
        masked = slice(arrays.masked_ends[at - 1] if at else 0, arrays.masked_ends[at])
        return PretrainingFeature(
            at,
            cast(Sequence[int], arrays.tokens[tokens]),
            second_at=int(arrays.second_at[at]),
            masked_positions=arrays.masked_positions[masked].tolist(),
            masked_labels=arrays.masked_labels[masked].tolist(),
            is_random_next=bool(arrays.random_next[at]),
        )

    @property
    def lengths(self) -> np.ndarray:
        """int64 (rows,): tokens of each row."""
        return np.diff(self._arrays.token_ends, prepend=0)


def _read(path: Path, vocabulary: Mapping[str, int], max_length: int | None) -> Iterator[Row]:
    """The lines of an epoch file, encoded; those that are cut are counted in a warning."""
    cut = num_rows = 0
    for line in read_lines(path):
        try:
            record = json.loads(line.text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{line.number}: this line is cut off or no JSON ({error})") from error
        try:
            row = _encode(record, vocabulary, max_length)
        except (KeyError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise DataError(f"{path}:{line.number}: no instance of pre-training data: {reason}") from error
        num_rows += 1
        cut += len(row.tokens) < len(record["tokens"])
        yield row
    if max_length is not None:
        warn_cut_rows(cut, num_rows, str(path), "--max_seq_length", max_length)


def _encode(record: Any, vocabulary: Mapping[str, int], max_length: int | None) -> Row:
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, found {type(record).__name__}")
    tokens, segments = _items(record, "tokens", str), _items(record, "segment_ids", int)
    positions, labels = _items(record, "masked_lm_positions", int), _items(record, "masked_lm_labels", str)
    random_next = record.get("is_random_next", False)
    if not isinstance(random_next, bool):
        raise ValueError(f"is_random_next: expected true or false, found {type(random_next).__name__}")
    second_at = segments.index(1) if 1 in segments else len(segments)
    if not tokens or len(segments) != len(tokens) or segments != [0] * second_at + [1] * (len(segments) - second_at):
        raise ValueError(f"segment_ids: expected zeros and then ones, as many as there are tokens ({len(tokens)})")
    if len(positions) != len(labels) or not all(0 <= position < len(tokens) for position in positions):
        raise ValueError(
            f"masked_lm_positions: expected {len(labels)} positions below {len(tokens)}, found {shown(positions)}"
        )
    ids = _ids(tokens, vocabulary)[:max_length]
    masked = [pair for pair in zip(positions, _ids(labels, vocabulary), strict=True) if pair[0] < len(ids)]
    return Row(
        ids,
        min(second_at, len(ids)),
        [position for position, _ in masked],
        [label for _, label in masked],
        random_next,
    )


def _items(record: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    items = record[name]
    if not isinstance(items, list) or not set(map(type, items)) <= {kind}:
        raise ValueError(f"{name}: expected a list of {'tokens' if kind is str else 'whole numbers'}")
    return items


def _ids(tokens: Sequence[str], vocabulary: Mapping[str, int]) -> list[int]:
    try:
        return [vocabulary[token] for token in tokens]
    except KeyError as error:
        raise ValueError(
            f"the token {shown(error.args[0])} is not in the vocabulary; was this made with another model?"
        ) from error


class EpochBatches(BucketedBatches):
    """``BucketedBatches`` of one epoch file: the same idea, planned on arrays, as an epoch has millions of rows."""

    def __init__(
        self,
        rows: EncodedEpoch,
        collate: PretrainingCollator,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        super().__init__(rows, collate, batch_size, seed, True, rank, world_size)
        self._lengths = rows.lengths
        self._drop_last = drop_last

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches, the last one perhaps smaller (unless ``drop_last``)."""
        return num_batches(len(self._features), self._share.global_size, self._drop_last)

    def _plan(self, epoch: int) -> list[Sequence[int]]:
        size, lengths = self._share.global_size, self._lengths
        rng = np.random.default_rng(list(f"{self._seed}/{epoch}".encode()))
        order = rng.permutation(len(lengths))
        for start in range(0, len(order), size * _POOL_BATCHES):
            pool = order[start : start + size * _POOL_BATCHES]
            order[start : start + size * _POOL_BATCHES] = pool[np.argsort(lengths[pool], kind="stable")]
        whole = len(order) // size
        plan = [order[batch * size : (batch + 1) * size] for batch in rng.permutation(whole).tolist()]
        if len(order) % size and not self._drop_last:
            plan.append(order[whole * size :])
        return cast(list[Sequence[int]], plan)  # arrays, which are sequences in all but name


def num_batches(rows: int, global_size: int, drop_last: bool) -> int:
    """Number of global batches that ``rows`` make."""
    return rows // global_size if drop_last else -(-rows // global_size)


class PregeneratedBatches:
    """A ``BatchSource`` of pre-generated data: every epoch has its own file; where there are fewer, they come again
    (in another order).

    Rows of similar length are batched together and padded to the longest of the global batch; each epoch has a new
    order, which depends on (seed, epoch, batch_size * world_size) only. One epoch at a time is held.

    Args:
        folder: of the epoch files.
        vocabulary: from token to id, of the model that the data were made for.
        collate: pads rows.
        batch_size: rows per process.
        seed, rank, world_size: of the run.
        max_length: see ``EncodedEpoch``.
        epochs: how many will be asked for; ``remark`` tells if there are fewer files.
        reduce_memory: maps the encoded rows from files in ``cache`` (default: ``.cache`` in ``folder``).
        drop_last: leaves out a last global batch that is not full, as the original did.

    Attributes:
        remark: what the user should know about the data, if there is something; the engine tells it in the run's log.

    Raises:
        DataError: see ``find_epochs`` and, when an epoch is begun, ``EncodedEpoch``.
    """

    def __init__(
        self,
        folder: str | Path,
        vocabulary: Mapping[str, int],
        collate: PretrainingCollator,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        max_length: int | None = None,
        epochs: int | None = None,
        reduce_memory: bool = False,
        cache: Path | None = None,
        drop_last: bool = False,
    ) -> None:
        self._files = find_epochs(folder)
        self._vocabulary, self._max_length = vocabulary, max_length
        self._cache = (cache or Path(folder) / ".cache") if reduce_memory else None
        self._settings: dict[str, Any] = {
            "batch_size": batch_size,
            "seed": seed,
            "rank": rank,
            "world_size": world_size,
            "drop_last": drop_last,
        }
        self._collate = collate
        self._present: tuple[int, EpochBatches] | None = None
        if self.batches_per_epoch < 1:
            raise DataError(f"{folder}: fewer rows than a batch of {batch_size} on {world_size} processes has")
        self.remark: str | None = None
        if epochs is not None and epochs > len(self._files):
            there = len(self._files)
            self.remark = f"{folder} has {there} epoch(s) of data and {epochs} are asked for: they are used again."

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of the largest epoch; epochs differ by a few, as each is cut anew."""
        size = self._settings["batch_size"] * self._settings["world_size"]
        return max(num_batches(files.num_examples, size, self._settings["drop_last"]) for files in self._files)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See ``BatchSource``."""
        return self._epoch(epoch % len(self._files)).batches(epoch, start)

    def fingerprint(self) -> dict[str, str]:
        """See ``dataset.fingerprint``."""
        return of_files(files.instances for files in self._files)

    def _epoch(self, number: int) -> EpochBatches:
        if self._present is None or self._present[0] != number:
            self._present = None  # let go of the last epoch before the next one is read
            rows = EncodedEpoch(self._files[number], self._vocabulary, self._max_length, self._cache)
            self._present = number, EpochBatches(rows, self._collate, **self._settings)
        return self._present[1]
