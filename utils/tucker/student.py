"""The student of a distillation: where its weights come from, and its decomposition."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from transformers import AutoModel, PreTrainedModel

from dataset import Task
from model import DecompositionConfig, EditConfig, apply_edit, find_edit, relative_errors
from model.backbone import BERT, T5, family_of, spec_for
from model.decomposition import asked_in_config
from model.decomposition.config import RANKS
from model.decomposition.embeddings import EmbeddingConfig
from model.decomposition.embeddings.config import TYPES
from model.pretrained import new_model
from utils.errors import UserError
from utils.heartbeat import doing
from utils.opening.files import has_weights
from utils.opening.places import model_directory
from utils.outputs import is_same
from utils.tucker.arguments import DecompositionArguments
from utils.tucker.loading import classifier_class, load_classifier, load_encoder, read_config, set_classes
from utils.tucker.ranks import advice, check_ranks, flags_for

#: Keys of the original's config that say how a student is to be decomposed; a decomposed one says it in `compression`.
_REQUEST = (
    *("rank_layer", "rank_condim", "rank_dim", "ops", "is_expand", "rank_left_expdim", "rank_right_expdim"),
    *("load_compressed_model", "compression_from_scratch", "requires_grad"),
    *("embedding_type", "embedding_order", "embedding_rank"),
)


def build_student(
    source: str,
    flags: DecompositionArguments,
    task: Task | None = None,
    trained: bool = False,
    needs_weights: bool = False,
) -> tuple[PreTrainedModel, str]:
    """The student, decomposed if `--use_swap` says so, and a sentence on how it was made.

    A directory with a config.json and nothing that could be weights gives a student of random weights.

    Args:
        source: hub id, directory or run directory.
        task: give it a classifier for this task, from the checkpoint where that has one.
        trained: the checkpoint has to have one.
        needs_weights: random ones are for `--from_scratch` only.

    Raises:
        UserError, ModelError: it cannot be loaded or decomposed.
    """
    directory = model_directory(source)
    config = read_config(directory, classifier=task is not None)
    edits = requested_edits(config, flags) if flags.use_swap else []
    if not trained and not has_weights(directory):
        if needs_weights and not flags.from_scratch:
            raise UserError(
                f"{directory} has a config.json and no weights (model.safetensors or pytorch_model.bin): fine-tuning "
                "begins from a trained model; add --from_scratch to begin from random weights."
            )
        model, how = _drawn(config, task), f"random weights (no weights in {directory})"
    elif task is None:
        model, how = load_encoder(source, dense=flags.use_swap), f"weights of {source}"
    else:
        model, how = load_classifier(source, task, trained, dense=flags.use_swap), f"weights of {source}"
    for edit in edits:
        if find_edit(model, type(edit)) is not None:
            raise UserError(f"--use_swap: {source} has the edit {edit.kind!r} already; leave the flag out.")
        with doing(f"making the {edit.kind} of the student"):
            apply_edit(model, edit, from_scratch=flags.from_scratch)
        how = f"{how}, {_described(model, edit, flags.from_scratch)}"
    for name in _REQUEST if edits else ():
        if hasattr(model.config, name):
            delattr(model.config, name)
    return model, how


def requested_edits(config: Any, flags: DecompositionArguments) -> list[EditConfig]:
    """What the flags ask for, and where they are silent the student's config.json.

    Raises:
        UserError, ModelError: ranks are missing, or a value cannot be.
    """
    embedding = _requested_embedding(config, flags)
    ranks = [getattr(place, name, None) for place in (flags, config) for name in RANKS["IV"]]
    if embedding is not None and all(rank is None for rank in ranks):
        return [embedding]
    return [_requested_decomposition(config, flags), *([] if embedding is None else [embedding])]


def _requested_decomposition(config: Any, flags: DecompositionArguments) -> DecompositionConfig:
    names = ("protocol", "ops", "rank_layer", "rank_condim", "rank_dim")
    given = {name: value for name in names if (value := getattr(flags, name)) is not None}
    values = asked_in_config(config)
    protocol = given.get("protocol", "IV")
    unused = {name for name in RANKS["IV"] if name not in RANKS.get(protocol, RANKS["IV"])}
    values = {name: value for name, value in values.items() if name not in unused} | given
    if missing := [name for name in RANKS.get(protocol, ()) if values.get(name) is None]:
        told = advice(config, protocol, str(values.get("ops", "san_ffn")))
        raise UserError(f"--use_swap needs {', '.join(missing)}: give {told}, or write them into its config.json.")
    edit = DecompositionConfig.from_dict(values)
    check_ranks(config, edit, flags)
    return edit


def _requested_embedding(config: Any, flags: DecompositionArguments) -> EmbeddingConfig | None:
    said = getattr(config, "embedding_type", None)
    kind = flags.embedding_type or (said if said in TYPES else None)  # the original says "other" where there is none
    given = {name: v for name in ("order", "rank") if (v := getattr(flags, f"embedding_{name}")) is not None}
    if kind is None:
        if given:
            raise UserError("--embedding_order and --embedding_rank need --embedding_type.")
        return None
    asked = {name: v for name in ("order", "rank") if (v := getattr(config, f"embedding_{name}", None)) is not None}
    return EmbeddingConfig.from_dict({"embedding_type": kind, **asked, **given})


def check_differs(teacher: str, student: str, flags: DecompositionArguments) -> None:
    """Refuse to distil a model into itself: there is nothing that it could learn.

    Raises:
        UserError: they are one folder, and nothing is decomposed; with flags that would.
    """
    places = [Path(model_directory(source)) for source in (teacher, student)]
    if flags.use_swap or not is_same(*places):
        return
    config = read_config(str(places[0]), classifier=True)
    how = shlex.join(flags_for(BERT.sizes(config))) if family_of(config) == BERT.family else "--mode sparsify"
    raise UserError(
        f"--student_model {student} is the --teacher_model itself, which has nothing to learn from it: name another "
        f"student, or make one of it with {how}."
    )


def unused_request(source: str, flags: DecompositionArguments, learns: bool = False) -> str | None:
    """A warning where config.json names ranks that nothing reads, as `--use_swap` is missing.

    Args:
        learns: the model is the student of a distillation, where this is an error.

    Raises:
        UserError: flags name ranks, or config.json does and the model is a student.
    """
    if flags.use_swap:
        return None
    names = ("protocol", "ops", *RANKS["IV"], "embedding_type", "embedding_order", "embedding_rank")
    given = [name for name in names if getattr(flags, name) is not None]
    directory = model_directory(source)
    if given or (flags.from_scratch and has_weights(directory)):
        raise UserError(f"--{given[0] if given else 'from_scratch'} needs --use_swap, which decomposes the student.")
    config = read_config(directory, classifier=True)
    if getattr(config, "compression", None) or getattr(config, "load_compressed_model", False):
        return None
    named = [f"{name} {getattr(config, name)}" for name in RANKS["IV"] if hasattr(config, name)]
    if not named:
        return None
    told = f"config.json of {source} names {', '.join(named)}, but without --use_swap the model stays dense"
    if learns:
        raise UserError(f"{told}: add --use_swap, or take these lines out of the file to distil a dense student.")
    return f"{told}."


def _drawn(config: Any, task: Task | None) -> PreTrainedModel:
    if task is None:
        return new_model(AutoModel, config)
    if family_of(config) == T5.family:
        raise UserError(f"{config.name_or_path} has no weights: an EncT5 begins from those of a T5.")
    set_classes(config, task)
    return new_model(classifier_class(task), config)


def _described(model: PreTrainedModel, edit: EditConfig, from_scratch: bool) -> str:
    error = 0.0
    if isinstance(edit, EmbeddingConfig):
        what = f"word embedding as {edit.embedding_type} (order {edit.order}, rank {edit.rank})"
        if not from_scratch:
            error = float(getattr(spec_for(model).embeddings(model).module, "relative_error", 0.0))
    else:
        assert isinstance(edit, DecompositionConfig)
        ranks = ", ".join(f"{name} {getattr(edit, name)}" for name in RANKS[edit.protocol])
        what = f"decomposed by protocol {edit.protocol} ({edit.ops}; {ranks})"
        error = 0.0 if from_scratch else relative_errors(model).overall
    return f"{what}, factors drawn at random" if from_scratch else f"{what}, relative error {error:.4f}"
