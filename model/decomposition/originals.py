"""Checkpoints and configs of the original release: a BERT whose `tucker_weighter.*` tensors are the factors.

Its layers have no dense matrices where they are decomposed, and all biases stand in one tensor. LayerNorm's epsilon is
1e-12 whatever the config says.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import BertConfig

from model.backbone import BERT
from model.compression import apply_edit
from model.decomposition.config import DecompositionConfig
from model.decomposition.embeddings.config import EmbeddingConfig
from model.decomposition.stacking import StackOrder, unstack_biases
from model.decomposition.surgery import BANK, role_slots
from model.errors import ModelError
from model.folders import CONFIG, check_folder
from model.pretrained import check_foreign, new_model
from model.weights import read_json, read_safetensors, read_torch_file

_PREFIX = "tucker_weighter."
_BASE = "bert."
#: Settings of the original's config that say how to decompose; the others of its own are dropped with them.
_RANKS = ("rank_layer", "rank_condim", "rank_dim")
_OWN = (
    *_RANKS,
    *("rank_left_expdim", "rank_right_expdim", "ops", "is_expand", "load_compressed_model", "requires_grad"),
    *("compression_from_scratch", "embedding_type", "pre_trained", "training", "attention_type", "kernel_size"),
)
_EPSILON = 1e-12
#: Tensors that a loaded model has no place for, on purpose: a buffer of old libraries, TinyBERT's projection.
_IGNORED = ("embeddings.position_ids", "fit_dense.")
_TWICE = "exp_core11"  # the same tensor as `core`, saved under both names
_EMBEDDING = "embeddings.word_embeddings."
_LEAVES = f"{_EMBEDDING}leaves"  # of a ket or ketxs embedding


def asked_in_config(config: Any) -> dict[str, Any]:
    """What a `config.json` says of a decomposition by the original's keys: some ranks, `ops`, an expansion.

    Without `ops`, as in the config that the original ships, the matrices of attention and feed-forward network are
    meant: its README says that `ops` restricts them.
    """
    given = {name: rank for name in _RANKS if (rank := getattr(config, name, None)) is not None}
    if not given:
        return {}
    values = {"ops": getattr(config, "ops", None) or "san_ffn", **given}
    if getattr(config, "is_expand", False):
        expansion = {name: getattr(config, name, None) for name in ("rank_left_expdim", "rank_right_expdim")}
        values |= {"is_expand": True, **expansion}
    return values


def edit_from_original_config(config: Any) -> DecompositionConfig | None:
    """The decomposition that a `config.json` asks for by the original's keys, if it does (see `asked_in_config`).

    Raises:
        ModelError: some of the ranks are missing, or a value cannot be.
    """
    values = asked_in_config(config)
    if not values:
        return None
    if missing := [name for name in _RANKS if name not in values]:
        there = [name for name in _RANKS if name in values]
        raise ModelError(f"The config has {', '.join(there)} but lacks {', '.join(missing)}.")
    return DecompositionConfig.from_dict(values)


def is_original(directory: Path) -> bool:
    """Whether `directory` holds a compressed checkpoint in the original's format.

    A model that was saved here lists its edits, and stays what it is when `load_compressed_model` is added to it.
    """
    config = directory / CONFIG
    values = read_json(config) if config.is_file() else {}
    return bool(values.get("load_compressed_model")) and not values.get("compression")


def load_original(directory: Path, auto_class: Any, drawn: list[str] | None = None) -> Any:
    """The model of a directory in the original's format, in evaluation mode.

    Args:
        directory: with `config.json` and `pytorch_model.bin` (or `model.safetensors`).
        auto_class: `AutoModel`, `AutoModelForSequenceClassification`, …; a head that the checkpoint lacks is drawn
            anew, with a warning.
        drawn: the names of what is drawn anew are put into it, in place of the warning.

    Raises:
        ModelError: a file is missing or damaged, or the tensors do not make a decomposed BERT.
    """
    check_folder(directory)
    values = read_json(directory / CONFIG)
    check_foreign(values, directory / CONFIG)
    state = convert_names(_read_state(directory))
    factors = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    if not factors:
        raise ModelError(
            f"{directory} holds no decomposed BERT in the original's format: no {_PREFIX}* among its weights, though "
            "load_compressed_model is true in its config.json; set that to false if the weights are a plain BERT's."
        )
    config = BertConfig.from_dict({k: v for k, v in values.items() if k not in _OWN and k != "model_type"})
    config.layer_norm_eps = _EPSILON
    for head in ("classifier.weight", "qa_outputs.weight"):
        if head in state:
            config.num_labels = state[head].shape[0]
    model = new_model(auto_class, config).eval()
    edit = edit_from_tensors(state, values.get("ops"), str(directory))
    apply_edit(model, edit, from_scratch=True)
    if (leaves := state.get(_LEAVES)) is not None:
        apply_edit(model, embedding_from_leaves(leaves, config.vocab_size), from_scratch=True)
    lacking = load_tensors(model, edit, state, str(directory))
    if drawn is not None:
        drawn += lacking
    elif lacking:
        warnings.warn(f"{directory} has no {', '.join(lacking)}: drawn anew.", stacklevel=2)
    return model


def convert_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as BertModel has them: without `bert.`, and with LayerNorm's parameters by today's names."""
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix(_BASE)
        if name == f"{_EMBEDDING}weight_leafs":
            name = _LEAVES
        renamed[re.sub(r"LayerNorm\.(gamma|beta)$", _modern, name)] = tensor
    return renamed


def edit_from_tensors(state: dict[str, Tensor], ops: str | None, source: str) -> DecompositionConfig:
    """The decomposition that a checkpoint's tensors belong to; what is decomposed has no dense matrices.

    Args:
        state: names as `convert_names` gives them.
        ops: what the config says, if it says so.
        source: what to call the checkpoint in an error.

    Raises:
        ModelError: factors are missing, or `ops` does not go with the tensors.
    """
    needed = [_PREFIX + name for name in ("core", "factor_left", "factor_right", "bias")]
    if missing := [name for name in needed if name not in state]:
        raise ModelError(f"{source}: the checkpoint lacks {', '.join(missing)}.")
    dense = {
        "san": "encoder.layer.0.attention.self.query.weight" in state,
        "ffn": "encoder.layer.0.intermediate.dense.weight" in state,
    }
    found = "_".join(name for name, is_dense in dense.items() if not is_dense)
    if not found or (ops is not None and ops != found):
        raise ModelError(f"{source}: ops is {ops!r}, but the decomposed matrices are those of {found or 'nothing'!r}.")
    rank_layer, rank_condim, rank_dim = state[_PREFIX + "core"].shape
    ranks: dict[str, Any] = {"rank_layer": rank_layer, "rank_condim": rank_condim, "rank_dim": rank_dim}
    if (left := state.get(_PREFIX + "exp_left")) is not None:
        right = state[_PREFIX + "exp_right"]
        ranks |= {"is_expand": True, "rank_left_expdim": left.shape[2], "rank_right_expdim": right.shape[1]}
    return DecompositionConfig.from_dict({"ops": found, **ranks})


def embedding_from_leaves(leaves: Tensor, vocab_size: int) -> EmbeddingConfig:
    """The word embedding that leaves [order, rank, rows, columns] belong to: those of ket have a row per token."""
    order, rank, rows, _ = leaves.shape
    return EmbeddingConfig("ket" if rows == vocab_size else "ketxs", order=order, rank=rank)


def load_tensors(model: Any, edit: DecompositionConfig, state: dict[str, Tensor], source: str) -> list[str]:
    """Copy a checkpoint's tensors into a model that carries `edit`; gives the names of those that it lacks.

    Raises:
        ModelError: the encoder lacks tensors, has superfluous ones, or one has another shape.
    """
    prefix = _BASE if hasattr(model, "bert") else ""
    converted = {}
    for name, tensor in state.items():
        factor = name.removeprefix(_PREFIX)
        if factor != name:
            if factor not in ("bias", _TWICE) and not (edit.is_expand and factor == "factor_layer"):
                converted[f"{prefix}{BANK}.{factor}"] = tensor
        elif not name.startswith(_IGNORED):
            converted[(prefix if name.split(".")[0] in ("embeddings", "encoder", "pooler") else "") + name] = tensor
    converted |= _biases(model, edit, state[_PREFIX + "bias"], source)
    expected = model.state_dict()
    for name, tensor in converted.items():
        if name in expected and expected[name].shape != tensor.shape:
            raise ModelError(
                f"{source}: {name} has shape {tuple(tensor.shape)}, its config gives {tuple(expected[name].shape)}."
            )
    missing, superfluous = model.load_state_dict(converted, strict=False)
    return _check_complete(model, converted, missing, superfluous, source)


def _modern(match: re.Match[str]) -> str:
    return "LayerNorm." + {"gamma": "weight", "beta": "bias"}[match[1]]


def _read_state(directory: Path) -> dict[str, Tensor]:
    if (path := directory / "model.safetensors").is_file():
        return read_safetensors(path)
    return read_torch_file(directory / "pytorch_model.bin")


def _biases(model: Any, edit: DecompositionConfig, rows: Tensor, source: str) -> dict[str, Tensor]:
    sizes = BERT.sizes(model.config)
    order = StackOrder.of(edit.ops, sizes.width, sizes.ffn)
    wanted = (sizes.layers, order.bias_rows, sizes.width)
    if rows.shape != wanted:
        raise ModelError(f"{source}: {_PREFIX}bias has shape {tuple(rows.shape)}, its config gives {wanted}.")
    names = {id(module): name for name, module in model.named_modules()}
    found = {}
    for layer, parts in zip(BERT.encoder_layers(model), unstack_biases(order, rows), strict=True):
        slots = role_slots(layer)
        for role, bias in parts.items():
            found[f"{names[id(slots[role].module)]}.bias"] = bias
    return found


def _check_complete(
    model: Any, given: dict[str, Tensor], missing: list[str], superfluous: list[str], source: str
) -> list[str]:
    base = set(model.base_model.state_dict(prefix=_BASE if hasattr(model, "bert") else ""))
    given_storage = {model.get_parameter(name).data_ptr() for name in given if name in dict(model.named_parameters())}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    lacking = [name for name in missing if name in parameters and parameters[name].data_ptr() not in given_storage]
    if absent := [name for name in lacking if name in base and ".pooler." not in f".{name}"]:
        raise ModelError(f"{source} lacks {len(absent)} tensors of its encoder, {absent[0]} for one.")
    encoder = (f"{_BASE}encoder.", f"{_BASE}embeddings.", "encoder.", "embeddings.", f"{_BASE}{BANK}.", f"{BANK}.")
    if extra := [name for name in superfluous if name.startswith(encoder)]:
        raise ModelError(f"{source} has {len(extra)} tensors that its config gives no place, {extra[0]} for one.")
    return lacking
