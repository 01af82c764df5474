"""The data side of the engine: deterministic batches, split over processes.

A *global batch* is what all processes together see in one step: ``batch_size * world_size`` rows. Process
``rank`` takes its rows ``rank, rank + world_size, …``. Which rows form a global batch depends on (seed,
epoch, batch_size * world_size) only; so nothing is read twice, and a run can go on at any batch.

Beside the collator's tensors, each batch has ``num_rows`` (this process's rows) and ``num_global_rows``
(scalar int64). The last global batch may be smaller. A process left without a row then gets a copy of one
row, so that all processes stay in step, with ``num_rows`` 0 and ``index`` -1: it must not count.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from dataset.chunking import chunked
from dataset.collate import Batch
from dataset.corpus import iter_lines
from dataset.errors import DataError
from dataset.features import Feature
from dataset.fingerprint import of_files, of_rows
from dataset.sources import Line
from dataset.workers import batches_of, heed_parent_alone

T = TypeVar("T")
Collate = Callable[[Sequence[Feature], Sequence[Feature] | None], Batch]
EncodeLines = Callable[[Sequence[Line], int], list[Feature]]

_POOL_BATCHES = 50  # global batches sorted together: long enough to save padding, short enough to stay random


class BatchSource(Protocol):
    """Where the engine gets its batches."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Its share of epoch ``epoch``, from batch ``start`` on; the same for equal seed and epoch."""
        ...

    @property
    def batches_per_epoch(self) -> int | None:
        """Number of batches in an epoch, the same on every process; None where it is not known beforehand."""
        ...


@dataclass(frozen=True)
class _Share:
    """One process's part of the global batches."""

    batch_size: int
    rank: int
    world_size: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise DataError(f"--train_batch_size {self.batch_size}: expected 1 or more")
        if not 0 <= self.rank < self.world_size:
            raise DataError(f"rank {self.rank} does not exist among {self.world_size} processes")

    @property
    def global_size(self) -> int:
        return self.batch_size * self.world_size

    def of(self, rows: Sequence[T]) -> list[T]:
        """This process's rows of a global batch; one row that does not count where there are too few."""
        return list(rows[self.rank :: self.world_size] or rows[:1])

    def finish(self, batch: Batch, global_rows: int) -> Batch:
        """Adds the counts."""
        own = len(range(self.rank, global_rows, self.world_size))
        if own == 0:
            batch["index"] = torch.full_like(batch["index"], -1)
        batch["num_rows"] = torch.tensor(own)
        batch["num_global_rows"] = torch.tensor(global_rows)
        return batch


class BucketedBatches:
    """Batches of a data set held in memory, rows of similar length together.

    With ``shuffle``: a new order per (seed, epoch), sorted by length inside pools of 50 global batches, then
    the batches are shuffled. Without: longest rows first, so that too little memory shows at once. Either
    way every row comes exactly once per epoch, and every process pads to the longest row of the *global*
    batch.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        collate: Collate,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not features:
            raise DataError("there are no rows to make batches of")
        self._features = features
        self._collate = collate
        self._share = _Share(batch_size, rank, world_size)
        self._seed = seed
        self._shuffle = shuffle

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches in an epoch, the last one perhaps smaller."""
        return -(-len(self._features) // self._share.global_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See ``BatchSource``."""
        for rows in islice(self._plan(epoch), start, None):
            members = [self._features[row] for row in rows]
            yield self._share.finish(self._collate(self._share.of(members), members), len(rows))

    def fingerprint(self) -> dict[str, str]:
        """See ``dataset.fingerprint``."""
        return of_rows(self._features)

    def for_one_process(self) -> "BucketedBatches":
        """The same rows for a process that takes all of them; a batch has the rows of one process."""
        return BucketedBatches(self._features, self._collate, self._share.batch_size, self._seed, self._shuffle)

    def _plan(self, epoch: int) -> list[Sequence[int]]:
        """Row positions of every global batch."""
        size = self._share.global_size
        rows = list(range(len(self._features)))
        if not self._shuffle:
            return list(chunked(sorted(rows, key=self._length, reverse=True), size))
        rng = random.Random(f"{self._seed}/{epoch}")
        rng.shuffle(rows)
        plan = [batch for pool in chunked(rows, size * _POOL_BATCHES) for batch in _by_length(pool, self._length, size)]
        return _shuffled(plan, size, rng)

    def _length(self, row: int) -> int:
        return len(self._features[row].input_ids)


class StreamedBatches:
    """Batches of a corpus that need not fit into memory.

    Lines go through a pool: ``shuffle_pool`` lines are read, shuffled, sorted by length (in characters, as
        no line is
    tokenised that another process owns), cut into global batches, and these are shuffled. The files are read
    in a new order each epoch. Without ``shuffle`` the lines come in file order. Each process pads its own
    rows.

    Args:
        files: the corpus.
        encode: from lines and epoch to features, row by row; its randomness must come from (seed, epoch,
            line).
        collate: pads features.
        batch_size: rows per process.
        seed, rank, world_size: of the run.
        shuffle_pool: lines held in memory (rounded up to whole global batches).
        num_workers: processes that tokenise; the batches are the same for any number.
        shuffle: whether to.
    """

    def __init__(
        self,
        files: Sequence[Path],
        encode: EncodeLines,
        collate: Collate,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle_pool: int = 8192,
        num_workers: int = 0,
        shuffle: bool = True,
    ) -> None:
        if not files:
            raise DataError("there are no corpus files to read")
        self._files = list(files)
        self._encode = encode
        self._collate = collate
        self._share = _Share(batch_size, rank, world_size)
        self._seed = seed
        self._pool = max(-(-shuffle_pool // self._share.global_size), 1) * self._share.global_size
        self._num_workers = num_workers
        self._shuffle = shuffle

    def fingerprint(self) -> dict[str, str]:
        """See ``dataset.fingerprint``."""
        return of_files(self._files)

    @property
    def batches_per_epoch(self) -> None:
        """Not known: the corpus is not counted."""
        return None

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See ``BatchSource``."""
        plan = islice(self._plan(epoch), start, None)
        work = _EncodeLines(self._encode, self._collate, self._share, epoch)
        if not self._num_workers:
            yield from map(work.__getitem__, plan)
            return
        # The plan is made here and sent to the workers in turn, which return batches in its order.
        # Its own generator: the loader would otherwise draw from torch's, and a resumed run would drift.
        own = torch.Generator().manual_seed(0)
        loader = DataLoader(
            work,
            sampler=plan,
            batch_size=None,
            num_workers=self._num_workers,
            worker_init_fn=heed_parent_alone,
            generator=own,
        )
        yield from batches_of(loader)

    def _plan(self, epoch: int) -> Iterator[Sequence[Line]]:
        """Lines of every global batch."""
        size = self._share.global_size
        if not self._shuffle:
            yield from chunked(iter_lines(self._files), size)
            return
        rng = random.Random(f"{self._seed}/{epoch}")
        order = rng.sample(range(len(self._files)), len(self._files))
        for pool in chunked(iter_lines(self._files, order), self._pool):
            lines = rng.sample(pool, len(pool))
            yield from _shuffled(_by_length(lines, _line_length, size), size, rng)


class _EncodeLines(Dataset[Batch]):
    """From the lines of a global batch to this process's batch; runs in worker processes."""

    def __init__(self, encode: EncodeLines, collate: Collate, share: _Share, epoch: int) -> None:
        self._encode = encode
        self._collate = collate
        self._share = share
        self._epoch = epoch

    def __getitem__(self, lines: Sequence[Line]) -> Batch:
        batch = self._collate(self._encode(self._share.of(lines), self._epoch), None)
        return self._share.finish(batch, len(lines))


def _line_length(line: Line) -> int:
    return len(line.text)


def _by_length(rows: Sequence[T], length: Callable[[T], int], size: int) -> list[Sequence[T]]:
    """Batches of ``size`` rows of similar length; the last one may be smaller."""
    return list(chunked(sorted(rows, key=length), size))


def _shuffled(plan: Iterable[Sequence[T]], size: int, rng: random.Random) -> list[Sequence[T]]:
    """Whole batches in random order, then the incomplete ones."""
    plan = list(plan)
    whole = [batch for batch in plan if len(batch) == size]
    rng.shuffle(whole)
    return whole + [batch for batch in plan if len(batch) < size]
