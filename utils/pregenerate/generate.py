"""Writes epoch files: the documents in order, each with a random stream of its own.

What an epoch holds depends on the corpus, the tokenizer, the settings, the seed and the epoch's number only: not on
the number of processes. An epoch appears under its name when it is complete.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError
from utils.pregenerate.corpus import Corpus
from utils.pregenerate.instances import InstanceMaker, InstanceSettings
from utils.pregenerate.tokens import Pieces
from utils.writing import atomic_file, write_json

#: Text handed to a process at a time.
_PART_BYTES = 1 << 18
#: Draws of another document before one without a single token is given up.
_DRAWS = 20


class Part(NamedTuple):
    """Instances of some documents, as JSON lines."""

    lines: bytes
    instances: int
    text_bytes: int


@dataclass(frozen=True)
class Generator:
    """All that a process needs to make instances; can be sent to one.

    Attributes:
        corpus, pieces, settings: see there.
        seed: of everything random.
    """

    corpus: Corpus
    pieces: Pieces
    settings: InstanceSettings
    seed: int

    def part(self, epoch: int, first: int, last: int, text_bytes: int) -> Part:
        """The instances of documents `first` to `last` (without it) in an epoch."""
        make = InstanceMaker(self.settings, self.pieces.vocabulary, self.pieces.special)
        lines = []
        for document in range(first, last):
            rng = random.Random(f"{self.seed}/{epoch}/{document}")
            segments = [tokens for tokens in self.pieces(list(self.corpus.segments(document))) if tokens]
            other = _Other(self, document, rng)
            lines += [json.dumps(instance, allow_nan=False) for instance in make(segments, other, rng)]
        return Part("".join(f"{line}\n" for line in lines).encode("ascii"), len(lines), text_bytes)


class _Other:
    """Text of another document than `document`, from a random place on."""

    def __init__(self, generator: Generator, document: int, rng: random.Random) -> None:
        self._generator, self._document, self._rng = generator, document, rng

    def __call__(self) -> Iterator[list[str]]:
        corpus, pieces = self._generator.corpus, self._generator.pieces
        for _ in range(_DRAWS):
            texts = corpus.segments(*corpus.random_line(self._rng, but_not=self._document))
            found = False
            for text in texts:  # mostly one or two are wanted, so each is tokenised when it is asked for
                if tokens := pieces([text])[0]:
                    found = True
                    yield tokens
            if found:
                return
        raise UserError(f"--train_corpus: {_DRAWS} lines drawn at random gave no token at all.")


def epoch_files(directory: Path, epoch: int) -> tuple[Path, Path]:
    """Where the instances of an epoch are, and their metrics."""
    return directory / f"epoch_{epoch}.json", directory / f"epoch_{epoch}_metrics.json"


def write_epoch(
    directory: Path, epoch: int, parts: Iterator[Part], max_seq_len: int, advance: Callable[[int], object]
) -> int:
    """Write an epoch of the given parts and return the number of its instances.

    Raises:
        UserError: the disk is full or not writable, or the corpus gave no instance.
    """
    target, metrics = epoch_files(directory, epoch)
    count = 0
    with atomic_file(target) as file, file.open("wb") as stream:
        for part in parts:
            stream.write(part.lines)
            count += part.instances
            advance(part.text_bytes)
        if not count:
            raise UserError("--train_corpus: not one instance could be made of this text.")
    # Last, since it says that the epoch is complete.
    write_json(metrics, {"num_training_examples": count, "max_seq_len": max_seq_len})
    return count


@contextmanager
def workers(generator: Generator, count: int) -> Iterator[Callable[[int], Iterator[Part]]]:
    """A function that gives the parts of an epoch in order, made by `count` processes.

    Raises:
        UserError: a process died, as it does where memory runs out.
    """
    if count == 1:
        yield lambda epoch: (generator.part(epoch, *place) for place in generator.corpus.parts(_PART_BYTES))
        return
    executor = ProcessPoolExecutor(count, multiprocessing.get_context(), _start_worker, (generator,))
    try:
        yield lambda epoch: _parts_of_workers(executor, generator.corpus, epoch, 2 * count)
    except BrokenProcessPool as error:
        raise UserError("A worker process died (out of memory?); --num_workers 1 needs the least.") from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _parts_of_workers(executor: ProcessPoolExecutor, corpus: Corpus, epoch: int, ahead: int) -> Iterator[Part]:
    """At most `ahead` parts are waiting: a slow disk must not fill the memory."""
    pending: deque[Future[Part]] = deque()
    for place in corpus.parts(_PART_BYTES):
        pending.append(executor.submit(_work, epoch, *place))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


_generator: Generator | None = None  # of a worker process


def _start_worker(generator: Generator) -> None:
    global _generator
    _generator = generator
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the main process ends the others
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _work(epoch: int, first: int, last: int, text_bytes: int) -> Part:
    assert _generator is not None
    return _generator.part(epoch, first, last, text_bytes)
