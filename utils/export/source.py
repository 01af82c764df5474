"""The model that is to be exported: loaded, with the choices that an exported file has to make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from model import available_ratios, edits_of, find_edit, set_ratio
from model.backbone import BERT, family_of
from model.plugin.config import PluginConfig
from model.weights import read_json
from utils.errors import UserError
from utils.opening.files import architecture_in, open_config
from utils.opening.places import delta_directory, model_directory
from utils.opening.weights import load_weights, open_delta

#: End of an architecture's name -> the class that loads it.
_LOADERS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForPreTraining": "AutoModelForPreTraining",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "EncoderModel": "AutoModelForTextEncoding",
    "Model": "AutoModel",
}
#: What a file gives, of what the model's output has: the first of these rows of which there is one.
_OUTPUTS = (
    ("logits", "start_logits", "end_logits", "prediction_logits", "seq_relationship_logits"),
    ("last_hidden_state", "pooler_output"),
)


@dataclass(frozen=True)
class Source:
    """A model with the ratio that the file is to have.

    Attributes:
        model: in evaluation mode, at the ratio.
        directory: where it was loaded from.
        loader: name of the `Auto…` class of its head.
        ratio, task: of its plugins; 1 without.
    """

    model: Any
    directory: Path
    loader: str
    ratio: int = 1
    task: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what its forward is given, in the file's order."""
        names = ["input_ids", "attention_mask"]
        if family_of(self.model.config) == BERT.family and self.model.config.type_vocab_size > 1:
            names.append("token_type_ids")
        if self.model.config.is_encoder_decoder and self.loader != "AutoModelForTextEncoding":
            names.append("decoder_input_ids")
        return tuple(names)

    @property
    def edits(self) -> list[dict[str, Any]]:
        """Its edits, as config.json has them."""
        return [edit.to_dict() for edit in edits_of(self.model)]


def load_source(directory: str, ratio: int | None, task: str, plugins: Path | None, needs_ratio: bool) -> Source:
    """The model of a directory (or of a run's best model).

    Args:
        ratio: of its plugins; None is 1, unless there is a choice and it has to be made.
        task: whose plugins, in a bank of several tasks.
        plugins: a directory of plugins that were saved without the backbone.
        needs_ratio: whether the choice is for good.

    Raises:
        UserError, ModelError: it cannot be loaded, is no model of a known family, or has no such plugins.
    """
    place = Path(model_directory(directory))
    if not (place / "config.json").is_file():
        raise UserError(f"--model {directory}: there is no config.json in it, so it is no directory of a saved model.")
    loader = _loader(place)
    model = load_weights(getattr(transformers, loader), str(place), open_config(str(place))).model
    if plugins is not None:
        open_delta(model, PluginConfig.kind, delta_directory(plugins, PluginConfig.kind))
    _check_ratio(model, ratio, task, needs_ratio)
    set_ratio(model.eval().requires_grad_(False), ratio or 1, task)
    return Source(model, place, loader, ratio or 1, task)


def _loader(directory: Path) -> str:
    name = architecture_in(read_json(directory / "config.json"))
    for ending, loader in _LOADERS.items():
        if name.endswith(ending):
            return loader
    raise UserError(
        f"{directory / 'config.json'}: architectures is {name!r}, expected one whose name ends in "
        f"{', '.join(_LOADERS)}, so that the head is known."
    )


def _check_ratio(model: Any, ratio: int | None, task: str, needs_ratio: bool) -> None:
    edit = find_edit(model, PluginConfig)
    if edit is None:
        if ratio not in (None, 1) or task:
            raise UserError("--ratio and --task_name choose a plugin, and this model has none.")
        return
    if task not in ("", *edit.tasks) or (ratio not in (None, 1) and task not in edit.tasks):
        raise UserError(
            f"--task_name {task or 'is not given'}: the model has plugins of the tasks {', '.join(edit.tasks)}."
        )
    known = available_ratios(model, task or edit.tasks[0])
    if ratio is None and needs_ratio:
        raise UserError(
            f"The file computes with one ratio: choose it with --ratio, one of {', '.join(map(str, known))}."
        )
    if ratio is not None and ratio not in known:
        raise UserError(f"--ratio {ratio}: the model has the ratios {', '.join(map(str, known))}.")


class Forward(nn.Module):
    """A model as a function of tensors alone: its inputs in order -> a tuple of its outputs."""

    def __init__(self, model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.inputs, self.outputs = inputs, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """(B, L) each, the decoder's (B, T) -> what `outputs` names."""
        given: dict[str, Any] = dict(zip(self.inputs, tensors, strict=True))
        if "decoder_input_ids" in given:
            given["use_cache"] = False
        found = self.model(**given, return_dict=True)
        return tuple(found[name] for name in self.outputs)


@torch.no_grad()
def output_names(model: Any, inputs: dict[str, Tensor]) -> tuple[str, ...]:
    """What a file of `model` gives: its logits, or its last hidden states where it has no head."""
    found = model(**inputs, return_dict=True)
    for names in _OUTPUTS:
        if present := tuple(name for name in names if isinstance(found.get(name), Tensor)):
            return present
    raise UserError(f"{type(model).__name__} gives neither logits nor hidden states: {', '.join(found)}.")
