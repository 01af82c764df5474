"""Sentences with a tag per word (named entities): their files, their features, and their batches.

Shapes: B sentences, L length in pieces.
"""

import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from dataset.chunking import chunked
from dataset.classification import PairCollator, PairFeature, marks_of
from dataset.collate import Batch
from dataset.conll import ConllSentence, read_conll
from dataset.errors import DataError
from dataset.features import IGNORED, Feature
from dataset.sources import HUB, candidate_folders, listing
from dataset.tasks import Split, Task, known_split
from dataset.tokenisation import beginning, token_ids

logger = logging.getLogger(__name__)

_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "valid": ("dev", "valid"), "test": ("test",)}
_ENDINGS = (".txt", ".tsv", ".conll")
_CHUNK = 512  # sentences whose words are tokenised at once
OUTSIDE = 0  # label id of "O" in every task with tagged words
NO_PIECE = -1


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """One sentence: `tags` holds a label id per word, None where they are hidden; `rows` the file's columns."""

    index: int
    words: tuple[str, ...]
    tags: tuple[int, ...] | None
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class TokenFeature(PairFeature):
    """An encoded sentence.

    Attributes:
        starts: of every word the position of its first piece in `input_ids`; -1 where that is not there, as the word
            gives no piece at all (a zero-width space) or lies behind the longest length.
        tags: of every word its label id; None where they are hidden.
    """

    starts: Sequence[int] = ()
    tags: Sequence[int] | None = None

    @property
    def is_seen(self) -> bool:
        """Whether a model sees any of its words."""
        return any(start != NO_PIECE for start in self.starts)


@dataclass(frozen=True)
class TokenCollator:
    """Pads `TokenFeature` rows as `collate` does; `labels` (B, L) int64 are -100 but at the first pieces of words."""

    collate: PairCollator

    def __call__(self, rows: Sequence[Feature], reference: Sequence[Feature] | None = None) -> Batch:
        """See `Collator`; there are no `labels` where they are hidden."""
        batch = self.collate(rows, reference)
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for at, row in enumerate(rows):
            assert isinstance(row, TokenFeature)
            if row.tags is None:
                return batch
            seen = [(start, tag) for start, tag in zip(row.starts, row.tags, strict=True) if start != NO_PIECE]
            if seen:
                starts, tags = zip(*seen, strict=True)
                labels[at, list(starts)] = torch.tensor(tags)
        return {**batch, "labels": labels}


# --- files ----------------------------------------------------------------------------------------


def read_tagged(task: Task, data_path: str | Path, split: str, file: str | None = None) -> list[TaggedSentence]:
    """Every sentence of one split, in file order.

    Tags are BIO. A file whose entities begin with I- wherever BIO is not needed to part them (IOB1, as CoNLL-2003 was
    first published) is read as BIO too, with a warning. Test files may do without tags.

    Args:
        task: one whose words are tagged.
        data_path: a folder with {train,dev,test}.txt (.tsv, .conll; valid for dev) in CoNLL's columns, or a parent of
            it (`data_path/conll`, `data_path/CoNLL-2003` …).
        split: train, valid or test.
        file: name of another file in that folder.

    Raises:
        DataError: nothing to read there, a broken line, a tag that the task does not have, or tags that are neither
            BIO nor IOB1; the message names file and line.
    """
    which = known_split(split)
    if task.kind != "token_classification":
        raise DataError(f"{task.name} is not a task of tagged words")
    if str(data_path) == HUB:
        raise DataError(f"--data-dir {HUB}: {task.name} is read from a folder with files in CoNLL's columns")
    names = (file,) if file else tuple(name + ending for name in _NAMES[which] for ending in _ENDINGS)
    path = _find(task, Path(data_path), names)
    sentences = list(read_conll(path, tagged=which != "test"))
    hidden = len(sentences[0].rows[0]) < 2
    tags = [None] * len(sentences) if hidden else _label_ids(task, sentences, path)
    return [
        TaggedSentence(index, sentence.tokens, ids, sentence.rows)
        for index, (sentence, ids) in enumerate(zip(sentences, tags, strict=True))
    ]


def _find(task: Task, root: Path, names: Sequence[str]) -> Path:
    folders = candidate_folders(root, (task.name, task.folder))
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    below = ", ".join(str(folder.relative_to(root)) for folder in folders if folder != root)
    there = "; ".join(f"{folder}: {listing(folder)}" for folder in folders if folder.is_dir())
    raise DataError(
        f"--data-dir {root}: no {' or '.join(names)} of {task.name}, there or in its subfolders {below}; "
        f"{there or f'{root}: {listing(root)}'}"
    )


def _label_ids(task: Task, sentences: Sequence[ConllSentence], path: Path) -> list[tuple[int, ...] | None]:
    """The label ids of every sentence's words."""
    ids = {tag: label for label, tag in enumerate(task.labels)}
    for sentence in sentences:
        for at, tag in enumerate(sentence.tags):
            if tag not in ids:
                where = f"{path}:{sentence.line + at}"
                raise DataError(f"{where}: the tag {tag!r} is none of {task.name}'s: {', '.join(task.labels)}")
    tags = [sentence.tags for sentence in sentences]
    if (opened := _first(sentences, "I-")) is not None:
        if (begun := _first(sentences, "B-")) is not None:
            raise DataError(
                f"{path}:{opened[0]}: the tag {opened[2]} comes after {opened[1]}, expected B-{opened[2][2:]}: these "
                f"are no BIO tags (nor IOB1: line {begun[0]} has {begun[2]} after {begun[1]})"
            )
        logger.warning("%s: the tags are IOB1 (line %d begins with %s): they are read as BIO", path, *opened[::2])
        tags = [_bio(row) for row in tags]
    return [tuple(ids[tag] for tag in row) for row in tags]


def _first(sentences: Sequence[ConllSentence], prefix: str) -> tuple[int, str, str] | None:
    """The first tag with this prefix that goes on with no entity: its line, the tag before, itself."""
    for sentence in sentences:
        for at, (before, tag) in enumerate(pairwise(("O", *sentence.tags))):
            if tag.startswith(prefix) and before[2:] != tag[2:]:
                return sentence.line + at, before if at else "the sentence's start", tag
    return None


def _bio(tags: Sequence[str]) -> tuple[str, ...]:
    """BIO tags of IOB1 ones: the first of an entity's gets its B-."""
    opens = (tag[:2] == "I-" and before[2:] != tag[2:] for before, tag in pairwise(("O", *tags)))
    return tuple(f"B-{tag[2:]}" if first else tag for tag, first in zip(tags, opens, strict=True))


# --- features -------------------------------------------------------------------------------------


def encode_tagged(sentences: Iterable[TaggedSentence], tokenizer: object, max_length: int) -> Iterator[TokenFeature]:
    """Features, in order: `[CLS] pieces [SEP]` of a BERT, `pieces </s>` of a T5.

    Each word is cut into pieces by itself. One that gives none leaves no trace, and shifts no tag.

    Args:
        sentences: rows of a task.
        tokenizer: a BERT's or T5's.
        max_length: most tokens of a row, special ones included.

    Raises:
        DataError: the tokenizer lacks these tokens, or `max_length` leaves no room for text.
    """
    marks = marks_of(tokenizer, max_length)
    for rows in chunked(sentences, _CHUNK):
        words = list(dict.fromkeys(word for row in rows for word in row.words))
        texts = [beginning(tokenizer, word, max_length) for word in words]
        pieces = dict(zip(words, token_ids(tokenizer, texts), strict=True))
        for row in rows:
            yield _feature(row, [pieces[word] for word in row.words], marks, max_length)


def _feature(
    row: TaggedSentence, pieces: Sequence[Sequence[int]], marks: tuple[list[int], int], max_length: int
) -> TokenFeature:
    first, end = marks
    ids, starts = list(first), []
    for word in pieces:
        room = max_length - 1 - len(ids)
        starts.append(len(ids) if word and room else NO_PIECE)
        ids += word[:room]
    ids.append(end)
    is_cut = len(ids) < len(first) + 1 + sum(map(len, pieces))
    return TokenFeature(
        row.index, array("i", ids), is_cut=is_cut, second_at=len(ids), starts=array("i", starts), tags=row.tags
    )
