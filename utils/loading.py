"""Loading a backbone and its tokenizer from whatever a user has: hub id, directory, original checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, T5ForConditionalGeneration

from model import LoraConfig, apply_edit, find_edit
from model.backbone import T5, family_of
from model.delta import is_delta, load_delta_state
from model.folders import CONFIG
from model.modelcenter import config_from_modelcenter, convert_modelcenter
from model.plugin.published import ORIGINAL_DECODER_START
from model.weights import check_finite, read_json, read_torch_file
from utils.arguments.reading import is_hub_id
from utils.errors import UserError
from utils.opening.errors import loading_errors
from utils.opening.files import check_config, is_modelcenter, open_config
from utils.opening.places import delta_directory, expanded, model_directory
from utils.opening.sizes import held_in, no_larger_than
from utils.opening.tokenizers import T5_TOKENS, has_tokenizer, open_tokenizer
from utils.opening.weights import explained, load_weights, open_delta
from utils.writing import write_json

#: Written beside a fine-tuned model: what its task head was trained with.
TASK_FILE = "task.json"
#: T5 v1.1 has an output projection of its own. Transformers ties every new T5 and unties it on loading.
_HEAD = "lm_head.weight"


class Loaded(NamedTuple):
    """A model, its tokenizer and the decoder start that its classification was trained with (None: unknown)."""

    model: Any
    tokenizer: Any
    decoder_start: int | None


def load_t5(model_config: str, checkpoint: Path | None, tokenizer: bool = True) -> Loaded:
    """The T5 of `model_config` with the weights of `checkpoint` where one is given. Dropout is set to 0.
    With `tokenizer=False` none is loaded.

    Raises:
        UserError, ModelError: something is missing or does not fit, named in one sentence.
    """
    checkpoint = None if checkpoint is None else _checkpoint(checkpoint)
    directory = checkpoint if checkpoint is not None and (checkpoint / CONFIG).is_file() else None
    # A whole model needs nothing of --model_config, which the hub would be asked for.
    is_whole = directory is not None and has_tokenizer(directory)
    base = model_config if is_whole and is_hub_id(model_config) else model_directory(model_config)
    model = _base_model(base) if directory is None else _from_directory(str(directory))
    decoder_start = None
    if checkpoint is not None and checkpoint.is_file():
        state = read_torch_file(checkpoint)
        _load_original(model, state, checkpoint)
        _load_original_lora(model, state, checkpoint)
        decoder_start = ORIGINAL_DECODER_START
    elif checkpoint is not None and directory is None:
        open_delta(model, "lora", checkpoint)
    trained = checkpoint if checkpoint is not None else Path(base)
    if (trained / TASK_FILE).is_file():
        decoder_start = read_task_file(trained, model).get("decoder_start")
    if not tokenizer:
        return Loaded(model, None, decoder_start)
    place = str(directory) if is_whole else base
    return Loaded(model, load_tokenizer(place, models=[model]), decoder_start)


def load_tokenizer(source: str | Path, models: Sequence[Any] = ()) -> Any:
    """The tokenizer of a T5, with the tokens that its rows are made with.

    Args:
        models: what it is to be used with; each must have an embedding for every id.

    Raises:
        UserError, ModelError: there is none, or it lacks a token, or has more than a model.
    """
    return open_tokenizer(source, needs=T5_TOKENS, models=models)


def set_dropout(model: Any, rate: float) -> None:
    """Dropout of all layers and attention probabilities; the saved config keeps 0, as evaluation needs none."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = rate


def copy_task_file(source: Path, target: Path) -> None:
    """Put a model's task.json, if it has one, beside another form of the model: how it is asked belongs to it."""
    if (source / TASK_FILE).is_file():
        shutil.copyfile(source / TASK_FILE, target / TASK_FILE)


def read_task_file(directory: Path, model: Any) -> dict[str, Any]:
    """What a folder's task.json says of how its model was trained; nothing where there is none.

    Raises:
        UserError, ModelError: it is damaged, or begins answers with a token that the model does not have.
    """
    path = directory / TASK_FILE
    values = read_json(path) if path.is_file() else {}
    if (start := values.get("decoder_start")) is not None:
        check_token(start, model, f"{path}: decoder_start")
    return values


def check_token(number: Any, model: Any, name: str) -> None:
    """Refuse the id of a token that a model has no embedding for.

    Raises:
        UserError: with `name`, what was found, and what there is.
    """
    rows = model.config.vocab_size
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < rows:
        raise UserError(f"{name} is {number!r}, expected an id of the model's vocabulary, from 0 to {rows - 1}.")


def write_task_file(directory: Path, dataset: str, decoder_start: int, logit_scale: str) -> None:
    """Keep beside the weights what a later stage must agree with."""
    values = {"dataset": dataset, "decoder_start": decoder_start, "logit_scale": logit_scale}
    write_json(directory / TASK_FILE, values)


def _checkpoint(given: Path) -> Path:
    """What `--checkpoint` names: a file, a folder with a model, or one with LoRA; of a run the best of it."""
    path = expanded(given)
    if not path.exists():
        raise UserError(f"--checkpoint {given} does not exist.")
    if path.is_file():
        return path
    directory = Path(model_directory(path))
    if (directory / CONFIG).is_file():
        return directory
    directory = delta_directory(path, "lora")
    if not is_delta(directory, "lora"):
        hint = (
            " It holds plugins: pass it as --plugin_path."
            if is_delta(delta_directory(path, "plugin"), "plugin")
            else ""
        )
        raise UserError(f"--checkpoint {given} holds no model (no config.json, nor in its best/) and no LoRA.{hint}")
    return directory


def _base_model(source: str) -> Any:
    if not is_modelcenter(Path(source)):
        return _from_directory(source)
    check_config(source)
    values = read_json(Path(source) / CONFIG)
    weights = Path(source) / "pytorch_model.pt"
    if not weights.is_file():
        raise UserError(f"--model_config {source} is a ModelCenter directory without pytorch_model.pt.")
    held = held_in([weights])
    with loading_errors(source), no_larger_than(held, source):
        config = config_from_modelcenter(values)
        with torch.device("meta"):
            T5ForConditionalGeneration(config)
        model = T5ForConditionalGeneration(config)
    _load_original(model, read_torch_file(weights), weights)
    return model


def _from_directory(source: str) -> Any:
    config = open_config(source)
    if family_of(config) != T5.family:
        raise UserError(f"{source} is a model of family {family_of(config)!r}, expected a T5.")
    config.dropout_rate = 0.0  # the original trains without dropout, and so do all golden numbers
    return load_weights(AutoModelForSeq2SeqLM, source, config).model


def _load_original(model: Any, original: dict[str, Tensor], path: Path) -> None:
    state = convert_modelcenter(original, str(path))
    expected = {k for k in model.state_dict() if not k.endswith("embed_tokens.weight") and k != _HEAD}
    if model.config.scale_decoder_outputs:  # tied: the head is the embedding
        state.pop(_HEAD, None)
    else:
        expected.add(_HEAD)
    if missing := sorted(expected - set(state)):
        why = explained(missing, state.keys()) or ": is --model_config right?"
        raise UserError(f"{path} lacks {len(missing)} tensors of this T5, {missing[0]} for one{why}")
    check_finite(state.items(), str(path))
    shapes = model.state_dict()
    for name, tensor in state.items():
        if name in shapes and shapes[name].shape != tensor.shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, --model_config gives {tuple(shapes[name].shape)}."
            )
    if _HEAD in state and model.lm_head.weight is model.shared.weight:  # loading would overwrite the embedding
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.lm_head.weight))
    model.load_state_dict(state, strict=False)


def _load_original_lora(model: Any, original: dict[str, Tensor], path: Path) -> None:
    """The LoRA matrices of a full original checkpoint that was trained with `--delta_tuning`, if it holds any."""
    state = {k: v for k, v in original.items() if k.startswith("project_") and ".lora_" in k}
    if not state:
        return
    first = next((tensor for name, tensor in state.items() if name.endswith("lora_A")), None)
    if first is None or first.dim() != 2 or first.shape[1] != model.config.d_model:
        raise UserError(f"{path}: the first of its LoRA matrices is none for a width of {model.config.d_model}.")
    edit = LoraConfig(rank=first.shape[0])
    if find_edit(model, LoraConfig) is None:
        apply_edit(model, edit)
    used = edit.own_modules(model)  # the original also made decoder entries beyond the decoder's depth
    load_delta_state(model, edit, {k: v for k, v in state.items() if k.rpartition(".")[0] in used}, str(path))
