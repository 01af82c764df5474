"""The one way to Transformers' loaders: nothing that a folder or its config brings along is run.

Transformers runs a folder's own modules (`auto_map`) where it is told to, and where it is not told it asks on standard
input, so that a piped "y" is leave enough. It also fetches and runs an attention kernel by the name of a repository.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import CONFIG_MAPPING

from model.errors import ModelError
from model.folders import CONFIG, check_config_files, check_folder
from model.weights import read_json

#: Random weights are float32.
_BYTES_OF_A_NUMBER = 4
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
    """`kind.from_config(config)`: a model with random weights, of Transformers' classes or the toolkit's.

    Raises:
        ModelError: it would not fit into this machine's memory.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    too_large = ModelError(f"The config describes a model that does not fit into {memory / 2**30:.0f} GiB of memory.")
    with torch.device("meta"), parameters_of_at_most(memory // _BYTES_OF_A_NUMBER, too_large):
        kind.from_config(config, trust_remote_code=False)
    return kind.from_config(config, trust_remote_code=False)


@contextmanager
def parameters_of_at_most(numbers: int, refusal: Exception) -> Iterator[None]:
    """Inside, a model that is built on the meta device may have so many numbers, or `refusal` is raised.

    What is taken away again by edits counts as well.
    """
    counted = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal counted
        counted += parameter.numel() if parameter is not None and parameter.is_meta else 0
        if counted > numbers:
            raise refusal

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


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
