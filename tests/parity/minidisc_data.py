"""Parity with MiniDisc's readers, features (M5) and metrics (M6).

Where the original goes wrong (percentages, division by zero, tags shifted by a word without pieces, errors on broken
rows) the right result is checked instead; each is a line in docs/differences.md.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from transformers import BertTokenizerFast, T5Tokenizer

from dataset import TaggedSentence, Task, encode_tagged, get_task, read_glue, read_tagged
from dataset.batches import Collate
from dataset.classification import PairCollator, PairFeature, encode_pairs
from dataset.collate import Collator
from dataset.features import IGNORED
from dataset.glue import GlueExample
from dataset.tokens import TokenCollator, TokenFeature
from metric import MetricError, glue
from metric.chunks import chunk_scores
from tests.parity.cases import close, load, optional

#: The original's names of splits.
_SPLITS = {"train": "train", "dev": "valid", "test": "test"}
#: Ours by the original's name, without the mean of accuracy and F1.
_METRICS = {
    **{"acc": "accuracy", "f1": "f1", "mcc": "matthews"},
    **{"pearson_corr": "pearson", "spearman_corr": "spearman", "corr": "pearson_spearman"},
}


def check_pipeline(directory: Path, name: str) -> None:
    """Features of one split, of a BERT at several lengths or of a T5: ids, masks, segments and labels."""
    golden, arrays = load(directory, name)
    files = _files(directory)
    task = get_task(golden["task"])
    split = name.rpartition("_")[2]
    tokenizer = _sentence_pieces(files) if "tokenizer" in golden else _word_pieces(files)
    _check_pieces(tokenizer, optional(golden, "tokenize_examples"))
    collate, label_map = _collator(task, tokenizer), _label_maps(files.parent).get(task.name)
    for prefix in sorted({key.rpartition("/")[0] for key in arrays}):
        expected = {key.rpartition("/")[2]: value for key, value in arrays.items() if key.rpartition("/")[0] == prefix}
        length = expected["text_indices"].shape[1]
        features = _features(task, files, _SPLITS[split], tokenizer, length)
        batch = collate(features, [PairFeature(-1, [0] * length)])
        for ours, theirs in (
            ("input_ids", "text_indices"),
            ("attention_mask", "text_mask"),
            ("token_type_ids", "text_segments"),
        ):
            if theirs in expected:
                assert batch[ours].tolist() == expected[theirs].long().tolist(), f"{name} {prefix} {theirs}"
        if task.kind == "token_classification":
            wanted = expected["labels"].masked_fill(~expected["label_mask"].bool(), IGNORED)
            assert batch["labels"].tolist() == wanted.tolist(), f"{name} {prefix} labels"
        elif split != "test":  # the original puts placeholders there
            _compare_labels(task, batch["labels"], expected["label"], label_map, f"{name} {prefix}")


def check_readers(directory: Path, name: str) -> None:
    """Examples and labels of all tasks, word pieces, and what odd input becomes."""
    golden = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
    files = _files(directory)
    tokenizer = _word_pieces(files)
    _check_pieces(tokenizer, optional(golden, "tokenize_examples"))
    for task_name, expected in optional(golden, "tasks").items():
        task = get_task(task_name)
        assert task.num_labels == expected["num_labels"], task_name
        if task.kind == "token_classification":
            assert {tag: i for i, tag in enumerate(task.labels)} == expected["label_map"]
        elif task.kind == "classification":
            assert set(task.file_labels) == set(expected["label_map"]), task_name
        for split in (split for split in _SPLITS if split in expected):
            _compare_examples(task, files, split, expected[split])
    if odd := optional(golden, "odd_inputs"):
        _check_odd_inputs(odd, tokenizer)


def check_metrics(directory: Path, name: str) -> None:
    """Chunk scores as fractions, and GLUE's measures."""
    golden = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
    for case, values in optional(golden, "conlleval").items():
        _check_chunks(case, values)
    for values in optional(golden, "glue_metrics"):
        _check_glue(values)


# --- features -------------------------------------------------------------------------------------


def _files(directory: Path) -> Path:
    """The raw files, beside the cases or one folder up."""
    return next(root / "M5_files" for root in (directory, directory.parent) if (root / "M5_files").is_dir())


def _word_pieces(files: Path) -> Any:
    return BertTokenizerFast(vocab=str(files / "vocab.txt"), do_lower_case=True)


def _sentence_pieces(files: Path) -> Any:
    return T5Tokenizer.from_pretrained(files, extra_ids=0)


def _check_pieces(tokenizer: Any, examples: dict[str, list[str]]) -> None:
    for text, pieces in examples.items():
        assert tokenizer.tokenize(text) == pieces, f"pieces of {text!r}"


def _collator(task: Task, tokenizer: Any) -> Collate:
    pairs = PairCollator(Collator(tokenizer.pad_token_id))
    return TokenCollator(pairs) if task.kind == "token_classification" else pairs


def _features(task: Task, files: Path, split: str, tokenizer: Any, length: int) -> list[PairFeature]:
    if task.kind == "token_classification":
        return list(encode_tagged(read_tagged(task, files / "datasets", split), tokenizer, length))
    return list(encode_pairs(read_glue(task, files / "datasets", split), tokenizer, length))


@cache
def _label_maps(directory: Path) -> dict[str, dict[str, int]]:
    """The original's label ids by the words in its files."""
    golden = json.loads((directory / "M5_readers.json").read_text(encoding="utf-8"))
    return {
        name: task["label_map"]
        for name, task in optional(golden, "tasks").items()
        if isinstance(task["label_map"], dict)
    }


def _compare_labels(task: Task, found: Tensor, expected: Tensor, label_map: dict[str, int] | None, what: str) -> None:
    if label_map is None:
        close(found, expected, what, 1e-6)
    else:  # orders differ; names say which class is meant
        assert [label_map[task.file_labels[i]] for i in found.tolist()] == expected.tolist(), f"{what} labels"


# --- readers --------------------------------------------------------------------------------------


def _compare_examples(task: Task, files: Path, split: str, golden: list[dict[str, Any]]) -> None:
    where = f"{task.name} {split}"
    if task.kind == "token_classification":
        sentences = read_tagged(task, files / "datasets", _SPLITS[split])
        assert [list(sentence.words) for sentence in sentences] == [row["tokens"] for row in golden], where
        tags = [[task.labels[tag] for tag in sentence.tags or ()] for sentence in sentences]
        assert tags == [row["labels"] for row in golden], where
        return
    examples = read_glue(task, files / "datasets", _SPLITS[split])
    assert [(row.text_a, row.text_b) for row in examples] == [(row["text_a"], row["text_b"]) for row in golden], where
    if split == "test":
        return
    for example, row in zip(examples, golden, strict=True):
        label = float(row["label"]) if task.kind == "regression" else task.file_labels.index(row["label"])
        assert example.label == label, f"{where} {row['uid']}"


def _check_odd_inputs(golden: dict[str, Any], tokenizer: Any) -> None:
    """The features of which the recorded case shows the text, and what is said where the original crashes."""
    (single,) = golden["empty text_b is treated as single sentence"]
    (feature,) = encode_pairs([GlueExample(0, _text(tokenizer, single), "", 0)], tokenizer, 8)
    assert list(feature.input_ids) == single["text_indices"]
    # The original shifts the tags behind such a word; here its neighbours keep theirs.
    for what, tag in (("tag O", "O"), ("tag B-PER", "B-PER")):
        (row,) = golden[f"NER word that tokenises to nothing, {what}"]
        first, last = _text(tokenizer, row).split()
        behind = "B-PER" if tag == "O" else "I-PER"
        found = _encoded(tokenizer, (first, "\u200b", last), ("O", tag, behind), 8)
        assert found == (row["text_indices"], {1: "O", 2: behind}), what
    for what in ("NER first word is I-: kept as I-", "NER truncation to 8"):
        (row,) = golden[what]
        words, tags = _words(tokenizer, row)
        starts = [at for at, counts in enumerate(row["label_mask"]) if counts]
        assert _encoded(tokenizer, words, tags, 8) == (row["text_indices"], dict(zip(starts, tags, strict=True))), what


def _text(tokenizer: Any, row: dict[str, Any]) -> str:
    return str(tokenizer.decode(row["text_indices"], skip_special_tokens=True))


def _words(tokenizer: Any, row: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words and tags of a recorded row: a word begins where its label counts."""
    labels = get_task("conll").labels
    words: list[str] = []
    tags: list[str] = []
    pieces = tokenizer.convert_ids_to_tokens(row["text_indices"])
    for piece, label, counts in list(zip(pieces, row["labels"], row["label_mask"], strict=True))[1:-1]:
        if counts:
            words.append("")
            tags.append(labels[label])
        words[-1] += piece.removeprefix("##")
    return tuple(words), tuple(tags)


def _encoded(
    tokenizer: Any, words: tuple[str, ...], tags: tuple[str, ...], length: int
) -> tuple[list[int], dict[int, str]]:
    """The ids of a sentence, and the tag at each position that counts."""
    labels = get_task("conll").labels
    sentence = TaggedSentence(0, words, tuple(labels.index(tag) for tag in tags), ())
    (feature,) = encode_tagged([sentence], tokenizer, length)
    assert isinstance(feature, TokenFeature)
    row = _collator(get_task("conll"), tokenizer)([feature], None)["labels"][0].tolist()
    return list(feature.input_ids), {at: labels[label] for at, label in enumerate(row) if label != IGNORED}


# --- metrics --------------------------------------------------------------------------------------


def _check_chunks(case: str, golden: dict[str, Any]) -> None:
    labels, predictions = golden["true"], golden["pred"]
    if "precision" not in golden or len(labels) != len(predictions):
        with pytest.raises(MetricError):
            chunk_scores([predictions], [labels])
        return
    found = chunk_scores([predictions], [labels])
    for metric in ("precision", "recall", "f1"):
        close(found[metric], golden[metric] / 100, f"{case} {metric}", 1e-12)


def _check_glue(golden: dict[str, Any]) -> None:
    task = get_task(golden["task"])
    found = glue.compute(golden["task"], golden["preds"], golden["labels"])
    assert task.selection_metric in found
    if "error" in golden["result"]:  # the original imports no Matthews correlation
        assert golden["task"] == "cola" and -1 <= found["matthews"] <= 1
        return
    for metric, value in golden["result"].items():
        ours = (found["accuracy"] + found["f1"]) / 2 if metric == "acc_and_f1" else found[_METRICS[metric]]
        close(ours, value, f"{task.name} {metric}", 1e-12)
