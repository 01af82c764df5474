"""Loading weights so that nothing in the model is left to chance."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from model.delta import load_delta
from model.pretrained import open_pretrained
from model.weights import check_finite, not_tensors
from utils.errors import UserError
from utils.opening.errors import loading_errors, without_report
from utils.opening.files import check_files, check_unchanged
from utils.opening.sizes import held_in, no_larger_than

#: Tensors that a model may have no place for: heads that it is loaded without, those of pre-training among them, and
#: what old libraries wrote and none reads.
_BESIDE = re.compile(
    r"((bert\.)?(pooler|cls|classifier|qa_outputs|lm_head|fit_denses?)\..+"
    r"|(.*\.)?(position_ids|token_type_ids|EncDecAttention\.relative_attention_bias\.weight))"
)


class Loaded(NamedTuple):
    """A model, and the names of those of its tensors that were drawn at random, as the caller has allowed."""

    model: Any
    new: frozenset[str]


def load_weights(
    kind: Any, directory: str, config: Any = None, may_lack: tuple[str, ...] = (), other_heads: bool = False
) -> Loaded:
    """The model of a folder in float32, every tensor of it from the folder's files and finite.

    Parameters are float32 whatever the file holds: lower precision is autocast's (`--precision`).

    Args:
        kind: an `Auto…` class, or a model's.
        config: in place of the folder's own.
        may_lack: beginnings of the names of tensors that may be drawn anew, such as a classifier's.
        other_heads: those may also have other shapes in the files, and are drawn anew then.

    Raises:
        UserError, ModelError: the folder cannot be read, or lacks tensors, or has more than the model.
    """
    held = held_in(check_files(directory))
    options = {} if config is None else {"config": config}
    with loading_errors(directory), without_report(), no_larger_than(held, directory):
        model, info = open_pretrained(
            kind,
            directory,
            **options,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=other_heads,
        )
    return Loaded(model, check_loaded(directory, model, info, may_lack))


def open_delta(model: Any, kind: str, directory: Path, parts: Sequence[str] = (), task: str = "") -> None:
    """Put saved plugins or LoRA onto a model; see `model.delta.load_delta`.

    Raises:
        UserError, ModelError: they are damaged, or do not fit.
    """
    if directory.is_dir():
        check_unchanged(directory)
    load_delta(model, kind, directory, parts, task)


def check_loaded(
    directory: str, model: Any, info: dict[str, Collection[Any]], may_lack: tuple[str, ...] = ()
) -> frozenset[str]:
    """Refuse a model that is not the one in the files; gives the names of what was drawn anew.

    Args:
        info: what Transformers says of the loading.
        may_lack: see `load_weights`.

    Raises:
        UserError, ModelError: naming the first tensor that is missing, superfluous, ill-shaped or not finite.
    """
    mismatched = {key[0] if isinstance(key, tuple) else str(key) for key in info["mismatched_keys"]}
    new = frozenset({*map(str, info["missing_keys"]), *mismatched})
    lacking = sorted(name for name in new - mismatched if not name.startswith(may_lack or ("\0",)))
    superfluous = sorted(map(str, info["unexpected_keys"]))
    if lacking:
        check_complete(directory, lacking, explained(lacking, superfluous, directory))
    if wrong := sorted(name for name in mismatched if not name.startswith(may_lack or ("\0",))):
        raise UserError(f"{directory}: a tensor has another shape than config.json gives it: {wrong[0]}.")
    if extra := [name for name in superfluous if not _BESIDE.fullmatch(name)]:
        raise UserError(
            f"{directory} has {len(extra)} tensors that the model in its config.json has no place for, {extra[0]} for "
            "one: is it the config of these weights?"
        )
    check_finite(model.named_parameters(), directory)
    return new


def check_complete(source: str, missing: Iterable[str], why: str = "") -> None:
    """Refuse a model of which tensors were not found, and which Transformers has therefore drawn at random.

    Raises:
        UserError: with their number, and the first.
    """
    if names := sorted(missing):
        raise UserError(
            f"{source} lacks {len(names)} tensors of the model in its config.json, {names[0]} for one{why}."
        )


def explained(missing: Collection[str], found: Collection[str], directory: str = "") -> str:
    """Why tensors were not found, where their file shows it: ": " and the reason, or "".

    Args:
        found: names in the file that the model has no place for.
        directory: of a Hugging Face model; its pytorch_model.bin is looked into.
    """
    for name in missing:
        for ending in (name, name.partition(".")[2]):  # a file without head has no `bert.` before the names
            longer = next((other for other in found if ending and other.endswith(f".{ending}")), None)
            if longer is not None:
                prefix = longer.removesuffix(ending)
                prefix = prefix.removesuffix("bert.") or prefix  # which belongs to the names of a BERT with a head
                return f": in the file it is called {longer}, so take {prefix!r} off all names and save them again"
    path = Path(directory) / "pytorch_model.bin"
    if directory and path.is_file():
        try:
            problem = not_tensors(torch.load(path, map_location="cpu", weights_only=True))
        except Exception:  # only a hint was looked for
            return ""
        return "" if problem is None else f": {path.name} is no state dict but {problem}"
    return ""
