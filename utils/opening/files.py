"""A look at the files of a model's folder before anything is loaded: what would be guessed is refused by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig, BertConfig

from model.backbone import BERT, ENCT5, T5, family_of
from model.folders import CONFIG, check_folder
from model.pretrained import check_foreign, open_pretrained
from model.weights import check_content, read_json
from utils.checksums import CHECKSUMS_FILE, damage_in, listed
from utils.errors import UserError
from utils.opening.errors import loading_errors
from utils.opening.names import WEIGHTS, like_weights, unreadable

#: Sizes in config.json, and the largest that is taken for a size and not for a slip.
_SIZES = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers"), 1000),
    **dict.fromkeys(("num_attention_heads", "num_heads", "d_kv", "type_vocab_size"), 100_000),
    **dict.fromkeys(("hidden_size", "intermediate_size", "d_model", "d_ff"), 1_000_000),
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), 100_000_000),
    **dict.fromkeys(("relative_attention_num_buckets", "relative_attention_max_distance"), 1_000_000),
    "num_labels": 100_000,
    # ModelCenter's
    "num_encoder_layers": 1000,
    "dim_head": 100_000,
    **dict.fromkeys(("dim_model", "dim_ff", "position_bias_num_buckets", "position_bias_max_distance"), 1_000_000),
}
#: Endings of files that people edit.
_TEXTS = (".json", ".txt", ".jinja", ".md")
#: What may be 0: an EncT5 for tokens has no decoder.
_MAY_BE_NONE = ("num_decoder_layers",)
_SWITCHES = ("output_hidden_states", "output_attentions", "return_dict", "use_return_dict")


def has_weights(directory: str) -> bool:
    """Whether a folder holds more of a model than its config: weights in any format and by any name."""
    return bool(like_weights(_names(Path(directory))))


def check_files(directory: str) -> list[Path]:
    """Refuse a folder whose config or weights are not there, or stand for others; gives the weight files.

    Raises:
        UserError, ModelError: with the file, what it is, and the cure.
    """
    root = Path(directory)
    check_config(directory)
    names = _names(root)
    for name in WEIGHTS:
        if name in names:
            files = _check_weights(root / name)
            check_unchanged(root)
            return files
    if is_modelcenter(root):
        check_unchanged(root)
        return []
    if found := like_weights(names):
        for name in found:
            _check_link(root / name)
        raise UserError(f"{directory} cannot be used: {unreadable(found)}.")
    raise UserError(f"{directory} has a config.json and no weights (model.safetensors or pytorch_model.bin).")


def check_unchanged(directory: Path) -> None:
    """Refuse weights that are not as the toolkit wrote them; a config and other texts may be edited.

    A checksums.json of another form is somebody else's, and says nothing. So does one that is older than both a
    weight file and the config: `save_pretrained` has written the model anew since, without a list.

    Raises:
        UserError: with the file, and what to do where the change was meant.
    """
    if listed(directory) is None:
        return
    weights = [path for path in sorted(directory.iterdir()) if path.is_file() and not path.name.endswith(_TEXTS)]
    files = [directory / CHECKSUMS_FILE, *weights]
    config, *others = (_changed_ns(path) for path in (directory / CONFIG, *files))
    if others[0] < config and others[0] < max(others[1:], default=0):
        return
    damage = _damage_of(directory, tuple((path.name, path.stat().st_mtime_ns, path.stat().st_ino) for path in files))
    if damage is not None:
        raise UserError(
            f"{damage}: take another copy or make it again; if it was changed on purpose, remove "
            f"{directory / CHECKSUMS_FILE}."
        )


def _changed_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


@lru_cache(maxsize=64)
def _damage_of(directory: Path, files: tuple[tuple[str, int, int], ...]) -> str | None:
    """What is damaged of some files, named with what changes when they do: each is read once in a process."""
    names = {name for name, *_ in files}
    return damage_in(directory, lambda name: name in names)


def is_modelcenter(directory: Path) -> bool:
    """Whether a folder holds a T5 of the original's library."""
    return (directory / CONFIG).is_file() and "dim_model" in read_json(directory / CONFIG)


def check_config(directory: str) -> dict[str, Any]:
    """What a folder's config.json says, looked through for what cannot be used.

    Raises:
        UserError, ModelError: it is missing or damaged, has sizes that cannot be, or describes a model that is
            quantised by another library, needs code or kernels of others, or has parts that Transformers no longer
            builds.
    """
    check_folder(directory)
    path = Path(directory) / CONFIG
    if not path.is_file():
        _check_link(path)
        raise UserError(
            f"{directory} is a directory without config.json: no Hugging Face model, and no run made one{_hint(path)}."
        )
    values = read_json(path)
    for name, most in _SIZES.items():
        least = 0 if name in _MAY_BE_NONE else 1
        size = values.get(name)
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not least <= size <= most):
            raise UserError(f"{path}: {name} is {size!r}, expected a whole number from {least} to {most:,}.")
    for name in _SWITCHES:
        if not isinstance(values.get(name), bool | None):
            raise UserError(f"{path}: {name} is {values[name]!r}, expected true or false.")
    for name, value in values.items():
        is_rate = name.endswith(("dropout", "dropout_prob", "dropout_rate", "dropout_p")) and isinstance(
            value, int | float
        )
        if is_rate and not 0 <= value <= 1:
            raise UserError(f"{path}: {name} is {value}, expected a number from 0 to 1.")
    check_foreign(values, path)
    _check_make(values, path)
    return values


def open_config(directory: str) -> Any:
    """The config of a folder as Transformers reads it; the first releases' configs do not say that they are BERT's.

    Raises:
        UserError, ModelError: see `check_config`; or Transformers refuses it.
    """
    values = check_config(directory)
    with loading_errors(directory):
        if "model_type" in values:
            return open_pretrained(AutoConfig, directory)
        return BertConfig(**values)


def architecture(config: Any) -> str:
    """The name of the class that a model was saved in; "" where its config does not say it."""
    return architecture_in({"architectures": getattr(config, "architectures", None)})


def architecture_in(values: Mapping[str, Any]) -> str:
    """The same of what a config.json says."""
    names = values.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def _check_make(values: Mapping[str, Any], path: Path) -> None:
    """Refuse what would be dropped in silence, or needs a library that the toolkit does not have."""
    if quantised := values.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise UserError(
            f"{path}: the checkpoint is quantised with {method or 'another library'}, which cannot be trained or "
            "compressed further: take the model that it was made from."
        )
    positions = values.get("position_embedding_type", "absolute")
    if positions not in ("absolute", None):
        raise UserError(
            f"{path}: position_embedding_type {positions!r} is not supported: Transformers has dropped relative "
            "positions in a BERT, and would compute with absolute ones."
        )
    buckets, distance = (values.get(f"relative_attention_{name}") for name in ("num_buckets", "max_distance"))
    if (buckets or 32) < 4 or (distance or 128) <= (buckets or 32) // 2:
        raise UserError(
            f"{path}: relative_attention_num_buckets {buckets} and relative_attention_max_distance {distance} do not "
            "go together: expected at least 4 buckets, and a distance above half their number."
        )
    if chunk := values.get("chunk_size_feed_forward"):
        raise UserError(
            f"{path}: chunk_size_feed_forward is {chunk!r}, with which only rows of its multiples can be computed: "
            "set it to 0, which gives the same results."
        )
    if values.get("pruned_heads"):
        raise UserError(
            f"{path}: pruned_heads is not supported: Transformers no longer builds a model whose heads it has pruned."
        )
    start, rows = values.get("decoder_start_token_id"), values.get("vocab_size")
    if isinstance(start, int) and isinstance(rows, int) and not 0 <= start < rows:
        raise UserError(f"{path}: decoder_start_token_id is {start}, expected an id from 0 to {rows - 1} (vocab_size).")
    if values.get("is_decoder") and family_of(_Described(values)) == BERT.family:
        raise UserError(f"{path}: is_decoder is true, so this is no encoder; only encoder BERTs are supported.")


def _hint(config: Path) -> str:
    """Where the model may be that a folder does not hold."""
    root = config.parent
    if (root / "adapter_config.json").is_file():
        return "; it holds an adapter of PEFT: merge it into its model and save that"
    below = sorted(root.glob(f"*/{CONFIG}"), key=lambda path: path.stat().st_mtime)
    return f"; did you mean {below[-1].parent}" if below else ""


class _Described:
    """`model_type` of a config.json, in the form that `family_of` reads."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.model_type = str(values.get("model_type", BERT.family))


def family_in(directory: Path) -> str:
    """The backbone's family by a folder's config.json; one that does not say it is a BERT's, or ModelCenter's T5."""
    values = read_json(directory / CONFIG)
    return T5.family if "dim_model" in values else family_of(_Described(values))


def is_t5(directory: Path) -> bool:
    """Whether a folder's config.json is that of a T5 or an EncT5."""
    return (directory / CONFIG).is_file() and family_in(directory) in (T5.family, ENCT5.family)


def _names(root: Path) -> list[str]:
    """Names of the files in a folder, links to nothing included."""
    return sorted(entry.name for entry in os.scandir(root) if not entry.is_dir())


def _check_weights(path: Path) -> list[Path]:
    _check_link(path)
    check_content(path)
    if not path.name.endswith(".index.json"):
        _check_not_empty(path)
        return [path]
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path} has no 'weight_map', which says what tensor lies in which file.")
    beside = _names(path.parent)
    shards = sorted({str(shard) for shard in weight_map.values()})
    for name in shards:
        if name not in beside:
            raise UserError(f"{path} names {name}, which is not there.")
        _check_link(path.parent / name)
        check_content(path.parent / name)
        _check_not_empty(path.parent / name)
    return [path.parent / name for name in shards]


def _check_link(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to {os.readlink(path)}, which does not exist.")


def _check_not_empty(path: Path) -> None:
    if not path.stat().st_size:
        raise UserError(f"{path} is empty (0 bytes), so it is not a whole weight file.")
