"""The frozen table of tasks: columns, labels, metrics, prompts, verbalizers.

Prompts and verbalizers are those of Variator (section 4 of the paper, released templates). Tasks the paper
leaves out (cola, stsb, wnli) have neither; they still can be read, and trained with a classification head.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from dataset.errors import DataError

TaskKind = Literal["classification", "regression", "question_answering", "span_corruption", "token_classification"]
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class Task:
    """What the toolkit knows about one task.

    Attributes:
        name: short name, as given to ``--task_name``.
        kind: what is predicted.
        folder: name of the task's folder in the GLUE download, or as its data are usually called ("" where neither is).
        labels: class names in label-id order (the order of the Hugging Face hub); of tokens the tags, "O" first.
        file_labels: the same classes as they are spelt in the GLUE TSV files.
        columns: text columns, in the order in which the prompt shows them (hub names).
        file_columns: the same columns as they are headed in the TSV files.
        file_label_column: header of the label column in the TSV files.
        metrics: names understood by the metric package.
        selection_metric: the metric by which the best model is chosen.
        prompt: template with one ``{column}`` slot per column, None where Variator has none.
        verbalizer: one word per label, in label order, () where there is no prompt.
        hub_name: configuration of the hub's GLUE repository.
        valid_split, test_split: their names on the hub.
        valid_file, test_file: their names in the GLUE download.
        skip_short_rows: the published TSV files hold broken rows, which the hub drops as well.
    """

    name: str
    kind: TaskKind
    folder: str = ""
    labels: tuple[str, ...] = ()
    file_labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    file_columns: tuple[str, ...] = ()
    file_label_column: str = "label"
    metrics: tuple[str, ...] = ("accuracy",)
    selection_metric: str = "accuracy"
    prompt: str | None = None
    verbalizer: tuple[str, ...] = ()
    hub_name: str = ""
    valid_split: str = "validation"
    test_split: str = "test"
    valid_file: str = "dev.tsv"
    test_file: str = "test.tsv"
    skip_short_rows: bool = False

    @property
    def num_labels(self) -> int:
        """Outputs of a classification head: the number of classes, 1 for regression."""
        return 1 if self.kind == "regression" else len(self.labels)

    def hub_split(self, split: Split) -> str:
        """Name of ``split`` on the hub and in saved datasets."""
        return {"train": "train", "valid": self.valid_split, "test": self.test_split}[split]

    def split_file(self, split: Split) -> str:
        """Name of the TSV file of ``split``."""
        return {"train": "train.tsv", "valid": self.valid_file, "test": self.test_file}[split]


def _bio(*types: str) -> tuple[str, ...]:
    """The tags of these entity types: O, and B- and I- of each."""
    return ("O", *(f"{prefix}-{name}" for name in types for prefix in "BI"))


_ENTAILMENT = ("entailment", "not_entailment")
_MNLI = Task(
    name="mnli",
    kind="classification",
    folder="MNLI",
    labels=("entailment", "neutral", "contradiction"),
    file_labels=("entailment", "neutral", "contradiction"),
    columns=("premise", "hypothesis"),
    file_columns=("sentence1", "sentence2"),
    file_label_column="gold_label",
    prompt=("Sentence 1: {premise} Sentence 2: {hypothesis} Does sentence 1 entails sentence 2? <extra_id_0>."),
    verbalizer=("Yes", "Maybe", "No"),
    hub_name="mnli",
    valid_split="validation_matched",
    test_split="test_matched",
    valid_file="dev_matched.tsv",
    test_file="test_matched.tsv",
)

_ALL = (
    Task(
        name="cola",
        kind="classification",
        folder="CoLA",
        labels=("unacceptable", "acceptable"),
        file_labels=("0", "1"),
        columns=("sentence",),
        file_columns=("sentence",),
        metrics=("matthews",),
        selection_metric="matthews",
        hub_name="cola",
    ),
    _MNLI,
    # The second development set of MNLI; its training set is MNLI's.
    replace(
        _MNLI,
        name="mnlimm",
        valid_split="validation_mismatched",
        test_split="test_mismatched",
        valid_file="dev_mismatched.tsv",
        test_file="test_mismatched.tsv",
    ),
    Task(
        name="mrpc",
        kind="classification",
        folder="MRPC",
        labels=("not_equivalent", "equivalent"),
        file_labels=("0", "1"),
        columns=("sentence1", "sentence2"),
        file_columns=("#1 String", "#2 String"),
        file_label_column="Quality",
        metrics=("accuracy", "f1"),
        selection_metric="f1",
        prompt=(
            "Sentence 1: {sentence1}\nSentence 2: {sentence2}\n"
            "Are the two sentences paraphrase of each other? <extra_id_0>."
        ),
        verbalizer=("No", "Yes"),
        hub_name="mrpc",
    ),
    Task(
        name="qnli",
        kind="classification",
        folder="QNLI",
        labels=_ENTAILMENT,
        file_labels=_ENTAILMENT,
        columns=("question", "sentence"),
        file_columns=("question", "sentence"),
        prompt=(
            "Question: {question}\nSentence: {sentence}\n"
            "Does the sentence contains the answer to the question? <extra_id_0>."
        ),
        verbalizer=("Yes", "No"),
        hub_name="qnli",
    ),
    Task(
        name="qqp",
        kind="classification",
        folder="QQP",
        labels=("not_duplicate", "duplicate"),
        file_labels=("0", "1"),
        columns=("question1", "question2"),
        file_columns=("question1", "question2"),
        file_label_column="is_duplicate",
        metrics=("accuracy", "f1"),
        prompt=(
            "Question 1: {question1}\nQuestion 2: {question2}\n"
            "Are the two questions paraphrase of each other? <extra_id_0>."
        ),
        verbalizer=("No", "Yes"),
        hub_name="qqp",
        skip_short_rows=True,
    ),
    Task(
        name="rte",
        kind="classification",
        folder="RTE",
        labels=_ENTAILMENT,
        file_labels=_ENTAILMENT,
        columns=("sentence1", "sentence2"),
        file_columns=("sentence1", "sentence2"),
        prompt=("Sentence 1: {sentence1}\nSentence 2: {sentence2}\nDoes sentence 1 entails sentence 2? <extra_id_0>."),
        verbalizer=("Yes", "No"),
        hub_name="rte",
    ),
    Task(
        name="sst2",
        kind="classification",
        folder="SST-2",
        labels=("negative", "positive"),
        file_labels=("0", "1"),
        columns=("sentence",),
        file_columns=("sentence",),
        prompt=("Sentence: {sentence}\nDoes this sentence express positive or negative emotions? <extra_id_0>."),
        verbalizer=("negative", "positive"),
        hub_name="sst2",
    ),
    Task(
        name="stsb",
        kind="regression",
        folder="STS-B",
        columns=("sentence1", "sentence2"),
        file_columns=("sentence1", "sentence2"),
        file_label_column="score",
        metrics=("pearson", "spearman"),
        selection_metric="pearson_spearman",
        hub_name="stsb",
    ),
    Task(
        name="wnli",
        kind="classification",
        folder="WNLI",
        labels=("not_entailment", "entailment"),
        file_labels=("0", "1"),
        columns=("sentence1", "sentence2"),
        file_columns=("sentence1", "sentence2"),
        hub_name="wnli",
    ),
    Task(
        name="squad",
        kind="question_answering",
        folder="SQuAD",
        columns=("question", "context"),
        metrics=("exact_match", "f1"),
        selection_metric="exact_match",
        prompt="Question: {question}\nContext: {context}\nAnswer: <extra_id_0>",
    ),
    Task(name="wiki", kind="span_corruption", columns=("text",)),
    # Label ids as in MiniDisc.
    Task(
        name="conll",
        kind="token_classification",
        folder="CoNLL-2003",
        labels=_bio("PER", "ORG", "LOC", "MISC"),
        columns=("tokens",),
        metrics=("f1", "precision", "recall"),
        selection_metric="f1",
    ),
    # Entity types in alphabetical order, as on the hub.
    Task(
        name="wnut17",
        kind="token_classification",
        folder="WNUT-17",
        labels=_bio("corporation", "creative-work", "group", "location", "person", "product"),
        columns=("tokens",),
        metrics=("f1", "precision", "recall"),
        selection_metric="f1",
    ),
)

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _ALL})


def _key(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def get_task(name: str) -> Task:
    """The task called ``name``; the folder's spelling (``SST-2``, ``CoNLL-2003``) is understood too.

    Raises:
        DataError: there is no such task; the message proposes near names.
    """
    key = _key(name)
    if key in TASKS:
        return TASKS[key]
    for task in _ALL:
        if task.folder and key == _key(task.folder):
            return task
    near = near_tasks(name)
    proposal = f"did you mean {' or '.join(near)}? " if near else ""
    raise DataError(f"unknown dataset {name!r}: {proposal}known are {', '.join(TASKS)}")


def near_tasks(name: str) -> list[str]:
    """Tasks that a name which is none may mean: those that begin as it does (`sst`, `sts`), else those spelt alike."""
    key = _key(name)
    begun = [task for task in TASKS if key and task.startswith(key)]
    return begun or difflib.get_close_matches(key, TASKS, n=3, cutoff=0.5)


def known_split(split: str) -> Split:
    """``split`` itself, checked to be train, valid or test."""
    for known in SPLITS:
        if split == known:
            return known
    raise DataError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
