"""BERTs and EncT5s from what a user has: hub id, directory, run directory, original checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    T5ForConditionalGeneration,
)

from dataset import Task
from model.backbone import BERT, ENCT5, T5, family_of
from model.decomposition import is_original, load_original
from model.enct5 import enct5_from_t5
from model.errors import ModelError
from model.weights import check_finite
from utils.errors import UserError
from utils.opening.classes import class_names, order_of, sort_classes
from utils.opening.errors import loading_errors
from utils.opening.files import check_files, open_config
from utils.opening.places import model_directory
from utils.opening.sizes import held_in
from utils.opening.weights import Loaded, check_complete, load_weights
from utils.telling import tell
from utils.tucker.tasks import is_tagged

#: Families that can classify; a plain T5 becomes an EncT5.
_CLASSIFIERS = (BERT.family, ENCT5.family, T5.family)
_CLASSIFIER = "classifier."
_POOLERS = ("pooler.", "bert.pooler.")
#: Parts that a checkpoint may lack if they are trained later.
_HEAD = (_CLASSIFIER, *_POOLERS)


def read_config(directory: str, classifier: bool = False) -> Any:
    """The config of a BERT; keys that BERT does not have stay attributes of it.

    Args:
        classifier: an EncT5, and a T5, which becomes one, will do as well.

    Raises:
        UserError, ModelError: there is none, it cannot be used, or it is another model's.
    """
    config = open_config(directory)
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
    loaded = _load(AutoModel, directory, config, dense, _POOLERS)
    if loaded.new:
        tell(f"{directory} has no pooler: a new one is drawn at random, which only a classifier of whole rows reads.")
    model: PreTrainedModel = loaded.model
    return model


def load_saved(kind: Any, directory: str, config: Any) -> PreTrainedModel:
    """A saved model with all of the tensors of its class (`kind`), in Hugging Face's or in the original's format.

    Raises:
        UserError, ModelError: it cannot be loaded, or lacks weights.
    """
    model: PreTrainedModel = _load(kind, directory, config, False, ()).model
    return model


def load_classifier(source: str, task: Task, trained: bool, dense: bool = False) -> PreTrainedModel:
    """A BERT or EncT5 with a classifier for `task`, of whole rows or of tokens, its classes in the task table's order.

    A plain T5 becomes an EncT5, whose classifier is new.

    Args:
        trained: the classifier has to come with the checkpoint, for these classes; else one of another task is
            replaced by a new one, and so is a pooler that is not there.
        dense: see `load_encoder`.

    Raises:
        UserError, ModelError: it cannot be loaded, or lacks weights, or its classes are others.
    """
    directory = model_directory(source)
    config = read_config(directory, classifier=True)
    names = class_names(config)
    set_classes(config, task)
    if family_of(config) == T5.family:
        loaded = _enct5(directory, config, task)
    else:
        loaded = _load(classifier_class(task), directory, config, dense, _HEAD, other_heads=True)
        set_classes(loaded.model.config, task)
    new = {"classifier" if name.startswith(_CLASSIFIER) else "pooler" for name in loaded.new}
    if trained and "classifier" in new:
        raise UserError(
            f"{directory} has no classifier for {task.name} (outputs: {task.num_labels}): fine-tune or distil it first."
        )
    if trained:
        check_complete(directory, loaded.new)
    model: PreTrainedModel = loaded.model
    if "classifier" not in new and task.kind != "regression":
        if trained or order_of(names, task.labels) is not None:
            sort_classes(model, names, task.labels, task.name, directory)
        else:
            _draw_classifier(model, task.num_labels)
            new.add(f"classifier (it had one for {', '.join(names)})")
    if new:
        tell(f"{directory}: new for {task.name} and drawn at random: the {' and the '.join(sorted(new))}.")
    return model


def classifier_class(task: Task) -> Any:
    """The `Auto…` class of models for `task`."""
    return AutoModelForTokenClassification if is_tagged(task) else AutoModelForSequenceClassification


def _load(
    kind: Any, directory: str, config: Any, dense: bool, may_lack: tuple[str, ...], other_heads: bool = False
) -> Loaded:
    """A model in Hugging Face's or in the original's format."""
    if dense or not is_original(Path(directory)):
        return load_weights(kind, directory, config, may_lack, other_heads)
    held_in(check_files(directory))
    drawn: list[str] = []
    with loading_errors(directory):
        model = load_original(Path(directory), kind, drawn)
    if other_heads and model.num_labels != config.num_labels:
        _draw_classifier(model, config.num_labels)
        drawn += ["classifier.weight", "classifier.bias"]
    check_complete(directory, (name for name in drawn if not name.startswith(may_lack)))
    check_finite(model.named_parameters(), directory)
    return Loaded(model, frozenset(drawn))


def _enct5(directory: str, config: Any, task: Task) -> Loaded:
    """An EncT5 that begins from a plain T5."""
    if config.model_type != T5.family:
        raise ModelError(f"EncT5 begins from a plain T5, but {directory} holds a model of type {config.model_type!r}.")
    unused = ("decoder.", "lm_head.") if is_tagged(task) else ("lm_head.",)
    t5 = load_weights(T5ForConditionalGeneration, directory, config, unused).model
    model = enct5_from_t5(t5, task.num_labels, "token" if is_tagged(task) else "sequence")
    set_classes(model.config, task)
    return Loaded(model, frozenset(name for name in model.state_dict() if name.startswith(_CLASSIFIER)))


def _draw_classifier(model: Any, num_labels: int) -> None:
    """A new classifier in place of one for other classes."""
    model.num_labels = num_labels
    model.classifier = nn.Linear(model.classifier.in_features, num_labels)
    nn.init.normal_(model.classifier.weight, std=getattr(model.config, "initializer_range", None) or 0.02)
    nn.init.zeros_(model.classifier.bias)


def set_classes(config: Any, task: Task) -> None:
    """Write the task's classes into a model's config."""
    labels = task.labels or ("score",)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    kinds = {"regression": "regression", "classification": "single_label_classification"}
    config.problem_type = kinds.get(task.kind)  # Transformers has no word for tagged tokens


def check_length(model: Any, max_length: int) -> None:
    """Refuse rows that the model has no positions for.

    Raises:
        UserError: with both numbers.
    """
    most = getattr(model.config, "max_position_embeddings", None)  # T5 has relative positions
    if most is not None and most < max_length:
        raise UserError(f"--max_seq_length {max_length}: the model has {most} positions.")
