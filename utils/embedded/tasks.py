"""Writes the grammar's tasks in the file formats of GLUE (TSV, its real headers), SQuAD v1.1 (JSON) and CoNLL."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.embedded import grammar
from utils.embedded.entities import Tagged, tagged_sentence

Row = tuple[str, ...]  # the text fields of one example


@dataclass(frozen=True)
class TaskFiles:
    """How one task of the grammar becomes a folder of TSV files.

    `splits` are names and numbers of rows; `cells` turns (number of the row, text fields, label name) into
    the columns of `header`, `test_cells` does without the label.
    """

    folder: str
    labels: tuple[str, ...]
    generate: Callable[[random.Random, int], str | tuple[str, str]]
    splits: tuple[tuple[str, int], ...]
    header: str
    test_header: str
    cells: Callable[[int, Row, str], Sequence[str]]
    test_cells: Callable[[int, Row], Sequence[str]]


def _numbered_pair(number: int, texts: Row, label: str) -> Sequence[str]:
    return (str(number), *texts, label)


def _numbered(number: int, texts: Row) -> Sequence[str]:
    return (str(number), *texts)


def _identifiers(number: int) -> tuple[str, str]:
    return str(2 * number + 1), str(2 * number + 2)


def _mnli_start(number: int) -> tuple[str, ...]:
    """index, promptID, pairID, genre and the four parse columns, which nothing here reads."""
    return (str(number), str(number), f"{number}g", "grammar", "-", "-", "-", "-")


_MNLI_START = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse"
    "\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2"
)
_SIZES = (("train", 24000), ("dev", 400), ("test", 200))


TASK_FILES: dict[str, TaskFiles] = {
    "sst2": TaskFiles(
        folder="SST-2",
        labels=("0", "1"),
        generate=grammar.sentiment,
        splits=_SIZES,
        header="sentence\tlabel",
        test_header="index\tsentence",
        cells=lambda number, texts, label: (*texts, label),
        test_cells=_numbered,
    ),
    "mrpc": TaskFiles(
        folder="MRPC",
        labels=("0", "1"),
        generate=grammar.paraphrase,
        splits=_SIZES,
        header="Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        test_header="index\t#1 ID\t#2 ID\t#1 String\t#2 String",
        cells=lambda number, texts, label: (label, *_identifiers(number), *texts),
        test_cells=lambda number, texts: (str(number), *_identifiers(number), *texts),
    ),
    "rte": TaskFiles(
        folder="RTE",
        labels=("entailment", "not_entailment"),
        generate=grammar.entailment,
        splits=_SIZES,
        header="index\tsentence1\tsentence2\tlabel",
        test_header="index\tsentence1\tsentence2",
        cells=_numbered_pair,
        test_cells=_numbered,
    ),
    "mnli": TaskFiles(
        folder="MNLI",
        labels=("entailment", "neutral", "contradiction"),
        generate=grammar.inference,
        splits=(
            ("train", 24000),
            ("dev_matched", 400),
            ("dev_mismatched", 400),
            ("test_matched", 200),
            ("test_mismatched", 200),
        ),
        header=f"{_MNLI_START}\tlabel1\tgold_label",
        test_header=_MNLI_START,
        cells=lambda number, texts, label: (*_mnli_start(number), *texts, label, label),
        test_cells=lambda number, texts: (*_mnli_start(number), *texts),
    ),
    "qnli": TaskFiles(
        folder="QNLI",
        labels=("entailment", "not_entailment"),
        generate=grammar.answerability,
        splits=_SIZES,
        header="index\tquestion\tsentence\tlabel",
        test_header="index\tquestion\tsentence",
        cells=_numbered_pair,
        test_cells=_numbered,
    ),
    "qqp": TaskFiles(
        folder="QQP",
        labels=("0", "1"),
        generate=grammar.question_pair,
        splits=_SIZES,
        header="id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        test_header="id\tquestion1\tquestion2",
        cells=lambda number, texts, label: (str(number), *_identifiers(number), *texts, label),
        test_cells=_numbered,
    ),
}

READING_SIZES = (("train", 12000), ("dev", 400))
_SQUAD_PARAGRAPHS_PER_ARTICLE = 50


def draw_rows(
    task: TaskFiles, count: int, rng: random.Random, barred: set[Row], *, distinct: bool
) -> list[tuple[Row, int]]:
    """`count` rows in random order, none of them in `barred`; every class is as frequent as the next (+-1).

    With `distinct` no row comes twice, and all are added to `barred`. Training rows may come twice: there are few
    different short sentences, and leaving out what was drawn already would make them rare.
    """
    rows: list[tuple[Row, int]] = []
    while len(rows) < count:
        label = len(rows) % len(task.labels)
        drawn = task.generate(rng, label)
        texts = (drawn,) if isinstance(drawn, str) else drawn
        if texts not in barred:
            rows.append((texts, label))
            if distinct:
                barred.add(texts)
    rng.shuffle(rows)
    return rows


def write_glue(task: TaskFiles, folder: Path, seed: int) -> int:
    """Writes one task under `folder`/<GLUE folder>, no row in two splits. Returns the number of rows."""
    target = folder / task.folder
    target.mkdir(parents=True)
    rng = random.Random(f"{seed}:{task.folder}")
    held_out: set[Row] = set()
    # Held-out splits first, so that training can keep clear of them.
    for split, size in sorted(task.splits, key=lambda item: item[0] == "train"):
        share = draw_rows(task, size, rng, held_out, distinct=split != "train")
        if split.startswith("test"):
            lines = [
                task.test_header,
                *("\t".join(task.test_cells(i, texts)) for i, (texts, _) in enumerate(share)),
            ]
        else:
            lines = [
                task.header,
                *("\t".join(task.cells(i, texts, task.labels[label])) for i, (texts, label) in enumerate(share)),
            ]
        (target / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sum(size for _, size in task.splits)


def write_squad(folder: Path, seed: int) -> int:
    """Writes train-v1.1.json and dev-v1.1.json, no context in both. Returns the number of questions."""
    folder.mkdir(parents=True)
    rng = random.Random(f"{seed}:squad")
    total = sum(size for _, size in READING_SIZES)
    readings: dict[str, grammar.Reading] = {}
    while len(readings) < total:
        drawn = grammar.reading(rng)
        readings.setdefault(drawn.context, drawn)
    pool = iter(readings.values())
    for split, size in READING_SIZES:
        paragraphs = [_paragraph(f"{split}-{number}", next(pool)) for number in range(size)]
        articles = [
            {
                "title": f"Grammar {start}",
                "paragraphs": paragraphs[start : start + _SQUAD_PARAGRAPHS_PER_ARTICLE],
            }
            for start in range(0, size, _SQUAD_PARAGRAPHS_PER_ARTICLE)
        ]
        text = json.dumps({"version": "1.1", "data": articles}, allow_nan=False)
        (folder / f"{split}-v1.1.json").write_text(text + "\n", encoding="utf-8")
    return total


TAGGED_SIZES = (("dev", 400), ("test", 200), ("train", 24000))


def write_tagged(folder: Path, seed: int, sizes: Sequence[tuple[str, int]] = TAGGED_SIZES) -> int:
    """Writes train.txt, dev.txt and test.txt with a word and its tag per line. Returns the number of sentences.

    No sentence of dev or test comes a second time; `sizes` names them before train, which keeps clear of them.
    """
    from dataset.conll import DOCUMENT_START, write_conll  # imports torch, which most calls do without

    rng = random.Random(f"{seed}:conll")
    held_out: set[tuple[Tagged, ...]] = set()
    for split, size in sizes:
        sentences: list[tuple[Tagged, ...]] = [((DOCUMENT_START, "O"),)]
        while len(sentences) <= size:
            drawn = tagged_sentence(rng)
            if drawn not in held_out:
                sentences.append(drawn)
                if split != "train":
                    held_out.add(drawn)
        write_conll(folder / f"{split}.txt", sentences)
    return sum(size for _, size in sizes)


def _paragraph(identifier: str, reading: grammar.Reading) -> dict[str, object]:
    answer = {"text": reading.answer, "answer_start": reading.answer_start}
    question = {"id": identifier, "question": reading.question, "answers": [answer]}
    return {"context": reading.context, "qas": [question]}
