"""Loading a backbone and its tokenizer from whatever a user has: hub id, directory, original checkpoint."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, T5ForConditionalGeneration
from transformers.utils import logging

from model import LoraConfig, ModelError, apply_edit, find_edit
from model.delta import is_delta, load_delta, load_delta_state
from model.modelcenter import config_from_modelcenter, convert_modelcenter
from model.plugin.published import ORIGINAL_DECODER_START
from model.weights import read_json, read_torch_file
from utils.errors import UserError

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
    directory = checkpoint if checkpoint is not None and (checkpoint / "config.json").is_file() else None
    if checkpoint is not None and directory is None:
        _check_checkpoint(checkpoint)
    model = _from_directory(str(directory)) if directory else _base_model(model_config)
    decoder_start = None
    if checkpoint is not None and checkpoint.is_file():
        state = read_torch_file(checkpoint)
        _load_original(model, state, checkpoint)
        _load_original_lora(model, state, checkpoint)
        decoder_start = ORIGINAL_DECODER_START
    elif checkpoint is not None and directory is None:
        load_delta(model, "lora", checkpoint)
    trained = checkpoint if checkpoint is not None else Path(model_config)
    if (trained / TASK_FILE).is_file():
        decoder_start = read_json(trained / TASK_FILE).get("decoder_start")
    has_tokenizer = directory is not None and (directory / "tokenizer_config.json").is_file()
    loaded = load_tokenizer(str(directory) if has_tokenizer else model_config) if tokenizer else None
    return Loaded(model, loaded, decoder_start)


def set_dropout(model: Any, rate: float) -> None:
    """Dropout of all layers and attention probabilities; the saved config keeps 0, as evaluation needs none."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = rate


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a hub id or directory."""
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise UserError(f"No tokenizer could be loaded from {source}: {_first_line(error)}") from error


def copy_task_file(source: Path, target: Path) -> None:
    """Put a model's task.json, if it has one, beside another form of the model: how it is asked belongs to it."""
    if (source / TASK_FILE).is_file():
        shutil.copyfile(source / TASK_FILE, target / TASK_FILE)


def write_task_file(directory: Path, dataset: str, decoder_start: int, logit_scale: str) -> None:
    """Keep beside the weights what a later stage must agree with."""
    values = {"dataset": dataset, "decoder_start": decoder_start, "logit_scale": logit_scale}
    (directory / TASK_FILE).write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _check_checkpoint(checkpoint: Path) -> None:
    if not checkpoint.exists():
        raise UserError(f"--checkpoint {checkpoint} does not exist.")
    if checkpoint.is_dir() and not is_delta(checkpoint, "lora"):
        hint = " It holds plugins: pass it as --plugin-path." if is_delta(checkpoint, "plugin") else ""
        raise UserError(f"--checkpoint {checkpoint} holds no model (no config.json) and no LoRA.{hint}")


def _base_model(source: str) -> Any:
    values = read_json(Path(source) / "config.json") if (Path(source) / "config.json").is_file() else {}
    if "dim_model" not in values:
        return _from_directory(source)
    model = T5ForConditionalGeneration(config_from_modelcenter(values))
    weights = Path(source) / "pytorch_model.pt"
    if not weights.is_file():
        raise UserError(f"--model-config {source} is a ModelCenter directory without pytorch_model.pt.")
    _load_original(model, read_torch_file(weights), weights)
    return model


def _from_directory(source: str) -> Any:
    path = Path(source)
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"{source} is a directory without config.json: no Hugging Face or ModelCenter model.")
    with loading_errors(source):
        config = AutoConfig.from_pretrained(source)
        if hasattr(config, "dropout_rate"):
            config.dropout_rate = 0.0  # the original trains without dropout, and so do all golden numbers
        # Parameters are float32 whatever the file holds: lower precision is autocast's (`--precision`).
        with without_report():
            model, info = AutoModelForSeq2SeqLM.from_pretrained(
                source, config=config, dtype=torch.float32, output_loading_info=True
            )
    check_complete(source, info["missing_keys"])
    return model


def check_complete(source: str, missing: Iterable[str]) -> None:
    """Refuse a model of which tensors were not found, and which Transformers has therefore drawn at random.

    Raises:
        UserError: with their number, and the first.
    """
    if names := sorted(missing):
        raise UserError(f"{source} lacks {len(names)} tensors of the model in its config.json, {names[0]} for one.")


@contextmanager
def without_report() -> Iterator[None]:
    """Without Transformers' table of missing and superfluous tensors: what matters of it is checked here."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def loading_errors(source: str) -> Iterator[None]:
    """What goes wrong when a model is loaded from a hub id or directory, as one sentence.

    Raises:
        UserError: it does.
    """
    try:
        yield
    except SafetensorError as error:
        sizes = ", ".join(f"{p.name} ({p.stat().st_size} bytes)" for p in sorted(Path(source).glob("*.safetensors")))
        raise UserError(f"{source}: {sizes or 'the weight file'} is not a whole safetensors file: {error}.") from error
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"No model could be loaded from {source}: its pytorch_model.bin is damaged or holds more than plain "
            "tensors; nothing in it was executed."
        ) from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise UserError(
            f"No model could be loaded from {source}: its weights have other shapes than its config.json says."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"No model could be loaded from {source}: {_first_line(error)}") from error


def _load_original(model: Any, original: dict[str, Tensor], path: Path) -> None:
    state = convert_modelcenter(original, str(path))
    expected = {k for k in model.state_dict() if not k.endswith("embed_tokens.weight") and k != _HEAD}
    if model.config.scale_decoder_outputs:  # tied: the head is the embedding
        state.pop(_HEAD, None)
    else:
        expected.add(_HEAD)
    if missing := sorted(expected - set(state)):
        raise UserError(
            f"{path} lacks {len(missing)} tensors of this T5, {missing[0]} for one: is --model-config right?"
        )
    shapes = model.state_dict()
    for name, tensor in state.items():
        if name in shapes and shapes[name].shape != tensor.shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, --model-config gives {tuple(shapes[name].shape)}."
            )
    if _HEAD in state and model.lm_head.weight is model.shared.weight:  # loading would overwrite the embedding
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.lm_head.weight))
    model.load_state_dict(state, strict=False)


def _load_original_lora(model: Any, original: dict[str, Tensor], path: Path) -> None:
    """The LoRA matrices of a full original checkpoint that was trained with `--delta-tuning`, if it holds any."""
    state = {k: v for k, v in original.items() if k.startswith("project_") and ".lora_" in k}
    if not state:
        return
    edit = LoraConfig(rank=next(v.shape[0] for k, v in state.items() if k.endswith("lora_A")))
    if find_edit(model, LoraConfig) is None:
        apply_edit(model, edit)
    used = edit.own_modules(model)  # the original also made decoder entries beyond the decoder's depth
    load_delta_state(model, edit, {k: v for k, v in state.items() if k.rpartition(".")[0] in used}, str(path))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
