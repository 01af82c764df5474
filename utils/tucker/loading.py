"""BERTs, EncT5s and their tokenizers from what a user has: hub id, directory, run directory, original checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertTokenizerFast,
    PreTrainedModel,
)

from dataset import Task
from model.backbone import BERT, ENCT5, T5, family_of
from model.decomposition import is_original, load_original
from model.enct5 import enct5_from_t5
from model.weights import read_json
from utils.errors import UserError
from utils.loading import check_complete, load_tokenizer, loading_errors, without_report
from utils.tucker.data import is_tagged

#: Families that can classify; a plain T5 becomes an EncT5.
_CLASSIFIERS = (BERT.family, ENCT5.family, T5.family)
#: Where a run directory keeps its model.
_BEST = ("best", "prediction/best")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
#: Parts that a checkpoint may lack: they are trained later, or not at all.
_HEAD = ("classifier.", "pooler.", "bert.pooler.")


def model_directory(source: str) -> str:
    """`source`, or the best model in it where it is the directory of a run."""
    root = Path(source)
    if root.is_dir() and not (root / "config.json").is_file():
        return next((str(root / name) for name in _BEST if (root / name / "config.json").is_file()), source)
    return source


def has_weights(directory: str) -> bool:
    """Whether a local directory has a weight file; a hub id counts as having one."""
    root = Path(directory)
    return not root.is_dir() or any((root / name).is_file() for name in _WEIGHTS)


def read_config(directory: str, classifier: bool = False) -> Any:
    """The config of a BERT; keys that BERT does not have stay attributes of it.

    Args:
        classifier: an EncT5, and a T5, which becomes one, will do as well.

    Raises:
        UserError: there is none, or it is another model's.
    """
    root = Path(directory)
    if root.is_dir() and not (root / "config.json").is_file():
        raise UserError(f"{directory} is a directory without config.json: no Hugging Face model, and no run made one.")
    values = read_json(root / "config.json") if root.is_dir() else {"model_type": "?"}
    with loading_errors(directory):  # the first releases' configs do not say that they are BERT's
        config = AutoConfig.from_pretrained(directory) if "model_type" in values else BertConfig(**values)
    if family_of(config) not in (_CLASSIFIERS if classifier else (BERT.family,)):
        expected = "a BERT, EncT5 or T5" if classifier else "a BERT"
        raise UserError(f"{directory} is a model of family {family_of(config)!r}, expected {expected}.")
    return config


def load_encoder(source: str, dense: bool = False) -> PreTrainedModel:
    """A BERT without head.

    Args:
        dense: the weights are dense ones, though the config may have the original's keys of a decomposed model.

    Raises:
        UserError, ModelError: it cannot be loaded, or lacks weights.
    """
    directory = model_directory(source)
    config = read_config(directory)
    if not dense and is_original(Path(directory)):
        return load_original(Path(directory), AutoModel)
    with loading_errors(directory), without_report():
        model, info = AutoModel.from_pretrained(directory, config=config, dtype=torch.float32, output_loading_info=True)
    _check_complete(directory, info)
    return model


def load_classifier(source: str, task: Task, trained: bool, dense: bool = False) -> PreTrainedModel:
    """A BERT or EncT5 with a classifier for `task`, of whole rows or of tokens, its classes in the task table's order.

    A plain T5 becomes an EncT5, whose classifier is new.

    Args:
        trained: the classifier has to come with the checkpoint; else one of another task is replaced by a new one.
        dense: see `load_encoder`.

    Raises:
        UserError, ModelError: it cannot be loaded, or lacks weights.
    """
    directory = model_directory(source)
    config = read_config(directory, classifier=True)
    names = [str(config.id2label.get(i)) for i in range(config.num_labels)]
    set_classes(config, task)
    if family_of(config) == T5.family:
        model, new_head = _enct5(directory, task), True
    elif not dense and is_original(Path(directory)):
        model, new_head = _original_classifier(Path(directory), task)
    else:
        model, new_head = _classifier(directory, config, task)
    if new_head and trained:
        raise UserError(
            f"{directory} has no classifier for {task.name} (outputs: {task.num_labels}): fine-tune or distil it first."
        )
    if not new_head:
        _reorder_classes(model, names, list(task.labels))
    return model


def classifier_class(task: Task) -> Any:
    """The `Auto…` class of models for `task`."""
    return AutoModelForTokenClassification if is_tagged(task) else AutoModelForSequenceClassification


def _enct5(directory: str, task: Task) -> Any:
    """An EncT5 that begins from a plain T5."""
    with loading_errors(directory), without_report():
        model = enct5_from_t5(directory, task.num_labels, "token" if is_tagged(task) else "sequence")
    set_classes(model.config, task)
    return model.float()  # whatever the file holds


def _classifier(directory: str, config: Any, task: Task) -> tuple[Any, bool]:
    """A Hugging Face model, and whether its classifier is new."""
    with loading_errors(directory), without_report():
        model, info = classifier_class(task).from_pretrained(
            directory, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    _check_complete(directory, info)
    mismatched = [key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]]
    return model, any(key.startswith("classifier.") for key in [*info["missing_keys"], *mismatched])


def _original_classifier(directory: Path, task: Task) -> tuple[Any, bool]:
    """A model in the original's format, and whether its classifier is new."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load_original(directory, classifier_class(task))
    new = model.num_labels != task.num_labels or any("classifier." in str(w.message) for w in caught)
    if new:
        model.classifier = nn.Linear(model.config.hidden_size, task.num_labels)
        nn.init.normal_(model.classifier.weight, std=model.config.initializer_range)
        nn.init.zeros_(model.classifier.bias)
        model.num_labels = task.num_labels
    set_classes(model.config, task)
    return model, new


def set_classes(config: Any, task: Task) -> None:
    """Write the task's classes into a model's config."""
    labels = task.labels or ("score",)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    kinds = {"regression": "regression", "classification": "single_label_classification"}
    config.problem_type = kinds.get(task.kind)  # Transformers has no word for tagged tokens


def load_bert_tokenizer(source: str, lower_case: bool = False) -> Any:
    """The tokenizer of a hub id, directory or run directory; also of a lone vocab.txt.

    Args:
        lower_case: lower the case whatever its settings say.

    Raises:
        UserError: there is none.
    """
    directory = model_directory(source)
    root = Path(directory)
    options = {"do_lower_case": True} if lower_case else {}
    if (root / "vocab.txt").is_file() and not (root / "tokenizer_config.json").is_file():
        return BertTokenizerFast.from_pretrained(directory, **options)
    tokenizer = load_tokenizer(directory)
    return AutoTokenizer.from_pretrained(directory, **options) if options else tokenizer


def has_tokenizer(source: str) -> bool:
    """Whether a local directory holds a tokenizer; a hub id counts as having one."""
    root = Path(model_directory(source))
    return not root.is_dir() or any((root / name).is_file() for name in ("tokenizer.json", "vocab.txt"))


def _check_complete(directory: str, info: dict[str, Any]) -> None:
    check_complete(directory, (key for key in info["missing_keys"] if not key.startswith(_HEAD)))
    wrong = [str(key) for key in info["mismatched_keys"] if "classifier." not in str(key)]
    if wrong:
        raise UserError(f"{directory}: a tensor has another shape than config.json gives it: {wrong[0]}.")


def _reorder_classes(model: Any, found: list[str], wanted: list[str]) -> None:
    """Sort the classifier's rows by the names of their classes, where the checkpoint names them."""
    if found == wanted or sorted(found) != sorted(wanted):
        return
    order = [found.index(name) for name in wanted]
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter[order].clone())


def check_length(model: Any, max_length: int) -> None:
    """Refuse rows that the model has no positions for.

    Raises:
        UserError: with both numbers.
    """
    most = getattr(model.config, "max_position_embeddings", None)  # T5 has relative positions
    if most is not None and most < max_length:
        raise UserError(f"--max_seq_length {max_length}: the model has {most} positions.")
