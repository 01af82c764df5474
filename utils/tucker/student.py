"""The student of a distillation: where its weights come from, and its decomposition."""

from __future__ import annotations

from typing import Any

from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from dataset import Task
from model import DecompositionConfig, apply_edit, find_edit, relative_errors
from model.decomposition import edit_from_original_config
from model.decomposition.config import RANKS
from utils.errors import UserError
from utils.tucker.arguments import DecompositionArguments
from utils.tucker.loading import (
    has_weights,
    load_classifier,
    load_encoder,
    model_directory,
    read_config,
    set_classes,
)

#: Keys of the original's config that say how a student is to be decomposed; a decomposed one says it in `compression`.
_REQUEST = ("rank_layer", "rank_condim", "rank_dim", "ops", "load_compressed_model", "is_expand", "rank_left_expdim",
            "rank_right_expdim", "compression_from_scratch", "requires_grad")  # fmt: skip


def build_student(
    source: str, flags: DecompositionArguments, task: Task | None = None, trained: bool = False
) -> tuple[PreTrainedModel, str]:
    """The student, decomposed if `--use_swap` says so, and a sentence on how it was made.

    A directory with a config.json and no weights gives a student of random weights.

    Args:
        source: hub id, directory or run directory.
        task: give it a classifier for this task, from the checkpoint where that has one.
        trained: the checkpoint has to have one.

    Raises:
        UserError, ModelError: it cannot be loaded or decomposed.
    """
    config = read_config(model_directory(source))
    edit = requested_edit(config, flags) if flags.use_swap else None
    if not trained and not has_weights(model_directory(source)):
        model, how = _drawn(config, task), f"random weights (no weights in {model_directory(source)})"
    elif task is None:
        model, how = load_encoder(source, dense=flags.use_swap), f"weights of {source}"
    else:
        model, how = load_classifier(source, task, trained, dense=flags.use_swap), f"weights of {source}"
    if edit is None:
        return model, how
    if find_edit(model, DecompositionConfig) is not None:
        raise UserError(f"--use_swap: {source} is decomposed already; leave the flag out.")
    apply_edit(model, edit, from_scratch=flags.from_scratch)
    for name in _REQUEST:
        if hasattr(model.config, name):
            delattr(model.config, name)
    return model, f"{how}, {_described(model, edit, flags.from_scratch)}"


def requested_edit(config: Any, flags: DecompositionArguments) -> DecompositionConfig:
    """The decomposition that the flags ask for, and where they are silent the student's config.json.

    Raises:
        UserError, ModelError: ranks are missing, or a value cannot be.
    """
    names = ("protocol", "ops", "rank_layer", "rank_condim", "rank_dim")
    given = {name: value for name in names if (value := getattr(flags, name)) is not None}
    asked = edit_from_original_config(config)
    values = {} if asked is None else {k: v for k, v in asked.to_dict().items() if k != "kind"}
    protocol = given.get("protocol", values.get("protocol", "IV"))
    unused = {name for name in RANKS["IV"] if name not in RANKS.get(protocol, RANKS["IV"])}
    values = {name: value for name, value in values.items() if name not in unused} | given
    if missing := [name for name in RANKS.get(protocol, ()) if values.get(name) is None]:
        raise UserError(
            f"--use_swap needs {', '.join(missing)}: write them into the student's config.json, or give "
            f"{' '.join(f'--{name} N' for name in missing)}."
        )
    return DecompositionConfig.from_dict(values)


def unused_request(source: str, flags: DecompositionArguments) -> str | None:
    """A warning where ranks are given that nothing reads, as `--use_swap` is missing."""
    if flags.use_swap:
        return None
    if any(
        value is not None for value in (flags.protocol, flags.ops, flags.rank_layer, flags.rank_condim, flags.rank_dim)
    ):
        raise UserError("--protocol, --ops and --rank_* need --use_swap, which decomposes the student.")
    if flags.from_scratch:
        raise UserError("--from_scratch needs --use_swap, which decomposes the student.")
    config = read_config(model_directory(source))
    if getattr(config, "compression", None) or getattr(config, "load_compressed_model", False):
        return None
    if any(hasattr(config, name) for name in RANKS["IV"]):
        return f"config.json of {source} names ranks, but without --use_swap the student stays dense."
    return None


def _drawn(config: Any, task: Task | None) -> PreTrainedModel:
    if task is None:
        return AutoModel.from_config(config)
    set_classes(config, task)
    return AutoModelForSequenceClassification.from_config(config)


def _described(model: PreTrainedModel, edit: DecompositionConfig, from_scratch: bool) -> str:
    ranks = ", ".join(f"{name} {getattr(edit, name)}" for name in RANKS[edit.protocol])
    what = f"decomposed by protocol {edit.protocol} ({edit.ops}; {ranks})"
    if from_scratch:
        return f"{what}, factors drawn at random"
    return f"{what}, relative error {relative_errors(model).overall:.4f}"
