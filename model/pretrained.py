"""The one way to Transformers' loaders: nothing that a folder or its config brings along is run.

Transformers runs a folder's own modules (`auto_map`) where it is told to, and where it is not told it asks on standard
input, so that a piped "y" is leave enough. It also fetches and runs an attention kernel by the name of a repository.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from model.errors import ModelError
from model.folders import CONFIG, check_config_files, check_folder
from model.weights import read_json

#: What computes attention -> the package that has it beside torch and Transformers, or None. Where that package is
#: missing, Transformers would fetch a kernel from the hub in its place.
ATTENTIONS = {
    **dict.fromkeys(("eager", "sdpa", "flex_attention")),
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}
_KERNEL_KEYS = ("attn_implementation", "experts_implementation")


def open_pretrained(kind: Any, directory: str | Path, **options: Any) -> Any:
    """`kind.from_pretrained(directory, **options)`, without the code, kernels and files elsewhere that it names.

    Args:
        kind: an `Auto…` class, or that of a model, config or tokenizer.

    Raises:
        ModelError: the folder cannot be read without them; anything else that Transformers raises comes as it is.
    """
    check_folder(directory)
    if (path := Path(directory) / CONFIG).is_file():
        check_foreign(read_json(path), path)
    check_foreign(options, "the options")
    return kind.from_pretrained(directory, trust_remote_code=False, **options)


def new_model(kind: Any, config: Any) -> Any:
    """`kind.from_config(config)`: a model with random weights, of Transformers' classes or the toolkit's."""
    return kind.from_config(config, trust_remote_code=False)


def check_foreign(values: Mapping[str, Any], path: Path | str) -> None:
    """Refuse what could only be used by running what is not in Transformers or the toolkit.

    Args:
        values: of config.json.
        path: where they stand.

    Raises:
        ModelError: they name a kernel of a repository, other files, or code of the folder's own for a type that is
            not known.
    """
    check_config_files(values, path)
    for key, name in _kernels(values):
        if name is None:
            continue
        if not isinstance(name, str) or name not in ATTENTIONS:
            raise ModelError(
                f"{path}: {key} is {name!r}; kernels of others are never fetched or run, so expected one of "
                f"{', '.join(ATTENTIONS)}."
            )
        if (package := ATTENTIONS[name]) is not None and importlib.util.find_spec(package) is None:
            raise ModelError(f"{path}: {key} is {name!r}, which needs the package {package}; it is not installed.")
    model_type = values.get("model_type")
    if values.get("auto_map") and not (isinstance(model_type, str) and model_type in CONFIG_MAPPING):
        named = "no model_type" if model_type is None else f"the model_type {model_type!r}, which is not known here,"
        raise ModelError(
            f"{path} has {named} and code of its own (auto_map), which is never run: take a model of a type that "
            "Transformers has."
        )


def _kernels(values: Any, inside: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting that may name a kernel, at any depth, one by one; `read_json` has bounded the depth."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if inside or str(key).lstrip("_").removesuffix("_internal") in _KERNEL_KEYS:
                yield from _kernels(value, inside or str(key))
            elif isinstance(value, Mapping | list):
                yield from _kernels(value)
    elif isinstance(values, list):
        for value in values:
            yield from _kernels(value, inside)
    elif inside:
        yield inside, values
