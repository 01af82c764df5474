"""Readers of data meet any bytes: they give a usable result or one of the toolkit's own errors, and come to an end."""

from __future__ import annotations

import json
import math
from pathlib import Path

from hypothesis import strategies as st

from dataset.conll import read_conll
from dataset.glue import read_glue
from dataset.pregenerated import EncodedEpoch, PretrainingCollator, find_epochs
from dataset.squad import read_squad
from dataset.tasks import SPLITS, TASKS, Split, Task
from dataset.tokens import read_tagged
from tests.helpers_fuzz import fuzz, inputs, json_files, text_files, written
from tests.helpers_pregenerate import INSTANCE

GLUE = [task for task in TASKS.values() if task.hub_name]
TAGGED = [task for task in TASKS.values() if task.kind == "token_classification"]
VOCABULARY = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3, "a": 4, "b": 5}
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "it is a film",
                    "qas": [
                        {"id": "1", "question": "is it", "answers": [{"text": "a film", "answer_start": 6}]},
                        {"id": "2", "question": "what", "answers": [{"text": "it"}, {"text": "film"}]},
                    ],
                }
            ],
        }
    ],
}
METRICS = {"num_training_examples": 2, "max_seq_len": 6}


def glue_files(task: Task, split: Split) -> st.SearchStrategy[tuple[Task, Split, bytes]]:
    """Files that often begin with the header that they need, and have rows that are nearly right."""
    columns = [*task.file_columns, task.file_label_column]
    header = "\t".join(columns) + "\n"
    row = "\t".join(["x"] * len(task.file_columns) + [task.file_labels[0] if task.file_labels else "2.5"]) + "\n"
    rows = text_files(*columns, row, row, *task.file_labels, "nan", "1e999", "-1_0")
    beginning = st.sampled_from([header.encode(), header.encode(), b"\n" + header.encode(), b""])
    return st.builds(lambda first, rest: (task, split, first + rest), beginning, rows)


@inputs
def test_glue_tsv(tmp_path: Path, count: int) -> None:
    """Rows have texts and a label of the task, which only a test set may lack."""

    def check(given: tuple[Task, Split, bytes]) -> None:
        task, split, content = given
        written(tmp_path / task.split_file(split), content)
        examples = read_glue(task, tmp_path, split)
        assert [example.index for example in examples] == list(range(len(examples))) and examples
        for example in examples:
            assert len(example.texts) == len(task.columns) and all(text.encode() is not None for text in example.texts)
            if task.kind == "regression" and example.label is not None:
                assert math.isfinite(example.label)
            else:
                assert example.label in ([None] if example.label is None else range(task.num_labels))
            assert example.label is not None or split == "test"

    fuzz(count, st.sampled_from([(task, split) for task in GLUE for split in SPLITS]).flatmap(_glue), check)


def _glue(choice: tuple[Task, Split]) -> st.SearchStrategy[tuple[Task, Split, bytes]]:
    return glue_files(*choice)


@inputs
def test_conll_columns(tmp_path: Path, count: int) -> None:
    """Sentences have at least one token, every line has the same columns, and none of them is empty."""

    def check(given: tuple[bytes, bool]) -> None:
        sentences = list(read_conll(written(tmp_path / "train.txt", given[0]), tagged=given[1]))
        widths = {len(row) for sentence in sentences for row in sentence.rows}
        assert sentences and len(widths) == 1 and all(sentence.tokens for sentence in sentences)
        assert min(widths) >= 1 + given[1]
        assert all(cell for sentence in sentences for row in sentence.rows for cell in row)

    words = ("word", "word O\n", "word\tO\n", "EU NNP B-ORG\n", "-DOCSTART- -X- O\n")
    fuzz(count, st.tuples(text_files(*words), st.booleans()), check)


@inputs
def test_tagged_words(tmp_path: Path, count: int) -> None:
    """Every word has one label of the task, or no word has any."""

    def check(given: tuple[Task, Split, bytes]) -> None:
        task, split, content = given
        for name in ("train", "dev", "test"):
            written(tmp_path / f"{name}.txt", content)
        for row in read_tagged(task, tmp_path, split):
            assert row.tags is None or len(row.tags) == len(row.words)
            assert row.tags is not None or split == "test"
            assert all(0 <= tag < task.num_labels for tag in row.tags or ())

    tags = [f"word {tag}\n" for tag in ("O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-person", "I-person", "I-")]
    fuzz(count, st.tuples(st.sampled_from(TAGGED), st.sampled_from(SPLITS), text_files(*tags, "word\n")), check)


@inputs
def test_squad_json(tmp_path: Path, count: int) -> None:
    """Every question has a context and an answer, in text that can be written down."""

    def check(content: bytes) -> None:
        examples = read_squad(written(tmp_path / "train-v1.1.json", content), "train")
        assert examples and all(example.answers for example in examples)
        for example in examples:
            assert all(text.encode() is not None for text in (example.id, *example.texts, *example.answers))

    fuzz(count, json_files(SQUAD), check)


@inputs
def test_pregenerated_lines(tmp_path: Path, count: int) -> None:
    """Every line of an epoch becomes a row that can be put into a batch; in memory and in files alike."""
    line = json.dumps(INSTANCE).encode()
    written(tmp_path / "epoch_0_metrics.json", json.dumps(METRICS).encode())

    def check(given: tuple[bytes, int | None, bool]) -> None:
        damaged, cut, cached = given
        written(tmp_path / "epoch_0.json", line + b"\n" + damaged.replace(b"\n", b"") + b"\n")
        _check_epoch(tmp_path, cut, tmp_path / "cache" if cached else None)

    fuzz(count, st.tuples(json_files(INSTANCE), st.sampled_from([None, 3, 5]), st.integers(0, 9).map(bool)), check)


def _check_epoch(folder: Path, cut: int | None, cache: Path | None) -> None:
    rows = EncodedEpoch(find_epochs(folder)[0], VOCABULARY, cut, cache)
    for row in rows:
        assert set(row.input_ids) <= set(VOCABULARY.values()) and 0 <= row.second_at <= len(row.input_ids)
        assert set(row.masked_labels) <= set(VOCABULARY.values())
        assert all(0 <= place < len(row.input_ids) for place in row.masked_positions)
    batch = PretrainingCollator(0)(list(rows))
    assert batch["labels"].shape == batch["input_ids"].shape == (len(rows), int(rows.lengths.max()))


@inputs
def test_pregenerated_metrics(tmp_path: Path, count: int) -> None:
    """Of the metrics two whole numbers are taken."""
    written(tmp_path / "epoch_0.json", json.dumps(INSTANCE).encode())

    def check(content: bytes) -> None:
        written(tmp_path / "epoch_0_metrics.json", content)
        found = find_epochs(tmp_path)[0]
        assert all(type(number) is int and number >= 0 for number in (found.num_examples, found.max_seq_len))

    fuzz(count, json_files(METRICS), check)
