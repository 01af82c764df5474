"""Sentences with a tag per word (named entities): their files, their features, and their batches.

Shapes: B sentences, L length in pieces.
"""

import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dataset.chunking import chunked
from dataset.classification import PairCollator, PairFeature, marks_of
from dataset.collate import Batch
from dataset.conll import ConllSentence, read_conll
from dataset.errors import DataError, shown
from dataset.features import IGNORED, Feature
from dataset.sources import HUB, candidate_folders, is_hub, not_found
from dataset.tasks import Split, Task, known_split
from dataset.tokenisation import beginning, token_ids

logger = logging.getLogger(__name__)

_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "valid": ("dev", "valid"), "test": ("test",)}
_ENDINGS = (".txt", ".tsv", ".conll")
#: Other names of their folders.
_FOLDERS = {"conll": ("CoNLL", "conll2003"), "wnut17": ("WNUT17", "wnut_17")}
_LINES_NAMED = 3
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


def read_tagged(
    task: Task, data_path: str | Path, split: str, file: str | None = None, flag: str = "--data_dir"
) -> list[TaggedSentence]:
    """Every sentence of one split, in file order.

    Entities are read as conlleval reads them: one begins at B-, and at I- after O or after another type. So BIO, IOB1
    (as CoNLL-2003 was first published) and mixtures of both are read alike; the labels are BIO. Entities that do not
    begin with B- are counted in a warning. Test files may do without tags.

    Args:
        task: one whose words are tagged.
        data_path: see ``find_tagged``.
        split: train, valid or test.
        file: name of another file in that folder.
        flag: the option that gave `data_path`, for messages.

    Raises:
        DataError: nothing to read there, a broken line, or a tag that the task does not have; the message names file
            and line.
    """
    which = known_split(split)
    path = find_tagged(task, data_path, which, file, flag)
    sentences = list(read_conll(path, tagged=which != "test"))
    hidden = len(sentences[0].rows[0]) < 2
    tags = [None] * len(sentences) if hidden else _label_ids(task, sentences, path, which)
    return [
        TaggedSentence(index, sentence.tokens, ids, sentence.rows)
        for index, (sentence, ids) in enumerate(zip(sentences, tags, strict=True))
    ]


def find_tagged(
    task: Task, data_path: str | Path, split: Split, file: str | None = None, flag: str = "--data_dir"
) -> Path:
    """The file with the sentences of a split; the nearest.

    Args:
        data_path: a folder with {train,dev,test}.txt (.tsv, .conll; valid for dev) in CoNLL's columns, or a parent of
            it (`data_path/conll`, `data_path/CoNLL-2003` …).
        file: name of another file than the split's.

    Raises:
        DataError: there is none; the message says what is.
    """
    if task.kind != "token_classification":
        raise DataError(f"{task.name} is not a task of tagged words")
    if is_hub(data_path):
        raise DataError(f"{flag} {HUB}: {task.name} is read from a folder with files in CoNLL's columns")
    root = Path(data_path)
    names = (file,) if file else tuple(name + ending for name in _NAMES[split] for ending in _ENDINGS)
    folders = candidate_folders(root, (task.name, task.folder, *_FOLDERS.get(task.name, ())))
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise DataError(not_found(root, folders, f"no {' or '.join(names)} of {task.name}", flag))


def _label_ids(
    task: Task, sentences: Sequence[ConllSentence], path: Path, split: Split
) -> Sequence[tuple[int, ...] | None]:
    """The label ids of every sentence's words; None where a test file has placeholders."""
    ids = {tag: label for label, tag in enumerate(task.labels)}
    begun: list[int] = []
    found: list[tuple[int, ...]] = []
    for sentence in sentences:
        labels, before = [], "O"
        for at, tag in enumerate(sentence.tags):
            if tag not in ids:
                problem = _unknown(task, sentence, at, path)
                if split == "test":
                    logger.warning("%s; the tags of this test file are not looked at", problem)
                    return [None] * len(sentences)
                raise DataError(problem)
            if tag[:2] == "I-" and before[2:] != tag[2:]:
                begun.append(sentence.line + at)
                labels.append(ids[f"B-{tag[2:]}"])
            else:
                labels.append(ids[tag])
            before = tag
        found.append(tuple(labels))
    if begun:
        _warn_begun(path, begun)
    return found


def _unknown(task: Task, sentence: ConllSentence, at: int, path: Path) -> str:
    word, tag = sentence.tokens[at], sentence.tags[at]
    hint = ""
    if word in task.labels and len(sentence.rows[at]) > 1:
        hint = "; the first column holds tags: the token is expected first and its tag last"
    elif tag[:2] in {"E-", "S-", "L-", "U-"} and f"B-{tag[2:]}" in task.labels:
        hint = "; the file is BIOES or BILOU: write the tags as BIO"
    return f"{path}:{sentence.line + at}: the tag {shown(tag)} is none of {task.name}'s: {', '.join(task.labels)}{hint}"


def _warn_begun(path: Path, lines: Sequence[int]) -> None:
    first = ", ".join(map(str, lines[:_LINES_NAMED])) + (" …" if len(lines) > _LINES_NAMED else "")
    begin, those = ("entity begins", "it is") if len(lines) == 1 else ("entities begin", "they are")
    logger.warning(
        "%s: %s %s with I- and not with B- (line %s); %s read as conlleval does: I- after O or after another type "
        "begins an entity",
        *(path, f"{len(lines):,}", begin, first, those),
    )


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
