"""Saving an edit alone, without the backbone: a small safetensors file beside a JSON, one pair per part of the edit.

The JSON holds the edit's settings and the sizes of the backbone that it was made for, so that a delta for
another model is refused by name and number instead of by a stack of shape mismatches.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.backbone import family_of, spec_for
from model.compression import EditConfig, apply_edit, delta_state, edit_from_dict, edits_of, extend_edit, join_edits
from model.errors import ModelError
from model.folders import check_link
from model.weights import check_finite, check_floats, read_json, read_safetensors

FORMAT_VERSION = 1


def delta_files(directory: Path, name: str) -> tuple[Path, Path]:
    """The weight file and the JSON file of one part of a delta in `directory`."""
    return directory / f"{name}.safetensors", directory / f"{name}.json"


def delta_parts(directory: Path, kind: str) -> list[str]:
    """Names of the parts of a delta of `kind` in `directory`, sorted (`plugin-k2`, `plugin-k4`; or just `lora`)."""
    names = (path.stem for path in directory.glob(f"{kind}*.json"))
    return sorted(name for name in names if name == kind or name.startswith(f"{kind}-"))


def is_delta(directory: Path, kind: str) -> bool:
    """Whether `directory` holds a delta of `kind`."""
    return bool(delta_parts(directory, kind))


def save_delta(model: PreTrainedModel, kind: str, directory: Path, extra: dict[str, Any] | None = None) -> list[Path]:
    """Write the edit `kind` of `model` into `directory` (which must exist) and return the weight files.

    Args:
        extra: JSON values to keep beside the settings (how it was trained, say).

    Raises:
        ModelError: the model carries no such edit.
    """
    edit = _carried(model, kind)
    if edit is None:
        raise ModelError(f"The model carries no edit {kind!r} to save.")
    written = []
    for name, part in edit.parts().items():
        weights, description = delta_files(directory, name)
        save_file(delta_state(model, part), weights, metadata={"format": "pt"})
        content = {"format_version": FORMAT_VERSION, "edit": part.to_dict(), "backbone": describe_backbone(model)}
        description.write_text(
            json.dumps({**content, "extra": extra or {}}, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
        written.append(weights)
    return written


def read_delta_edit(directory: Path, kind: str, parts: Sequence[str] = ()) -> EditConfig:
    """The settings of a saved delta, those of its `parts` together (default: all).

    Raises:
        ModelError: there is none, or a part cannot be read or does not agree with the others.
    """
    edits = [_read_part(directory, name, kind)[0] for name in parts or delta_parts(directory, kind)]
    if not edits:
        raise ModelError(f"{directory} holds no {kind} (no {kind}*.json).")
    try:
        return join_edits(edits)
    except ModelError as error:
        raise ModelError(f"{directory}: {error}") from None


def load_delta(
    model: PreTrainedModel, kind: str, directory: Path, parts: Sequence[str] = (), task: str = ""
) -> EditConfig:
    """Apply the edit saved in `directory` and load its weights; of several parts, those named (default: all).

    A model that carries the edit already gets the weights; plugins for further ratios or tasks join its bank.

    Args:
        task: the name under which plugins that were saved without one join the bank.

    Raises:
        ModelError: the delta was made for a backbone of other sizes, or the file does not fit.
    """
    edit = read_delta_edit(directory, kind, parts)
    state: dict[str, Tensor] = {}
    for name in parts or delta_parts(directory, kind):  # all is read before the model is touched
        _check_backbone(model, _read_part(directory, name, kind)[1], directory, kind)
        state.update(read_safetensors(delta_files(directory, name)[0]))
    if task:
        edit, state = edit.for_task(task, state)
    return put_delta(model, edit, state, str(directory))


def put_delta(model: PreTrainedModel, edit: EditConfig, state: dict[str, Tensor], source: str) -> EditConfig:
    """Apply an edit, or extend the one of its kind that the model carries, and load its tensors; gives it as applied.

    All is tried on an outline of the model without memory first: what does not fit leaves the model as it was.

    Args:
        state: tensors named as by `delta_state`.
        source: what to call the tensors' origin in an error.

    Raises:
        ModelError: the edit does not go with the model, or the tensors not with the edit.
    """
    if (parts := len(edit.parts())) > len(state):
        raise ModelError(f"{source}: the {edit.kind} is described as {parts} parts, and has {len(state)} tensors.")
    edit, outline = edit.fitted(model), _outline(model)
    with torch.device("meta"):
        _put(outline, edit, source, from_scratch=True)
    _fitting(outline, edit, state, source)
    _put(model, edit, source)
    load_delta_state(model, edit, state, source)
    return edit


def _put(model: PreTrainedModel, edit: EditConfig, source: str, from_scratch: bool = False) -> None:
    present = _carried(model, edit.kind)
    if present is None:
        apply_edit(model, edit, from_scratch)
    elif present != edit:
        try:
            whole = join_edits([present, edit])
        except ModelError as error:
            raise ModelError(
                f"{source}: the model already carries a {edit.kind} with other settings ({present}). {error}"
            ) from None
        extend_edit(model, whole)


def _outline(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model with tensors of the meta device in place of its own: all modules, and none of their values."""
    memo: dict[int, Any] = {id(tensor): tensor.detach().to("meta") for tensor in model.buffers()}
    memo |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, memo)


def _carried(model: PreTrainedModel, kind: str) -> EditConfig | None:
    return next((edit for edit in edits_of(model) if edit.kind == kind), None)


def _read_part(directory: Path, name: str, kind: str) -> tuple[EditConfig, dict[str, Any]]:
    weights, path = delta_files(directory, name)
    for file in (weights, path):
        check_link(file, directory)
    content = read_json(path)
    if content.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{path}: format version {content.get('format_version')!r}, this toolkit reads {FORMAT_VERSION}."
        )
    if not isinstance(described := content.get("edit"), dict) or described.get("kind") != kind:
        raise ModelError(f'{path} describes no {kind}: its "edit" is {described!r}.')
    return edit_from_dict(described), content


def _check_backbone(model: PreTrainedModel, content: dict[str, Any], directory: Path, kind: str) -> None:
    expected, found = describe_backbone(model), content.get("backbone")
    if not isinstance(found, dict):
        raise ModelError(f"{directory}: the description of this {kind} does not say for which backbone it was made.")
    if differing := [k for k in expected if found.get(k) != expected[k]]:
        details = ", ".join(f"{k} {found.get(k)!r} (the model has {expected[k]!r})" for k in differing)
        raise ModelError(f"{directory}: this {kind} was made for another backbone: {details}.")


def load_delta_state(
    model: PreTrainedModel,
    edit: EditConfig,
    state: dict[str, Tensor],
    source: str,
    prefixes: Iterable[str] = (),
) -> None:
    """Copy tensors named as by `delta_state` into the edit's modules; every key must be there and fit.

    Args:
        source: what to call the tensors' origin in an error.
        prefixes: load only modules whose stored name starts with one of these (all by default).

    Raises:
        ModelError: naming the first missing, superfluous or ill-shaped tensors, or one that holds no finite numbers.
    """
    targets = _fitting(model, edit, state, source, prefixes)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(state[name])


def _fitting(
    model: PreTrainedModel, edit: EditConfig, state: dict[str, Tensor], source: str, prefixes: Iterable[str] = ()
) -> dict[str, Tensor]:
    """The edit's parameters by their stored names, each of which has a tensor in `state` that fits."""
    wanted = tuple(prefixes)
    targets: dict[str, Tensor] = {
        f"{prefix}.{name}": parameter
        for prefix, module in edit.own_modules(model).items()
        if not wanted or prefix.startswith(wanted)
        for name, parameter in module.named_parameters()
    }
    missing, superfluous = sorted(set(targets) - set(state)), sorted(set(state) - set(targets))
    if missing or superfluous:
        parts = [
            f"{len(names)} {what} (first: {names[0]})"
            for what, names in (("missing", missing), ("superfluous", superfluous))
            if names
        ]
        raise ModelError(f"{source}: the tensors do not fit the model's {edit.kind}: {', '.join(parts)}.")
    for name, target in targets.items():
        if state[name].shape != target.shape:
            raise ModelError(
                f"{source}: tensor {name} has shape {tuple(state[name].shape)}, the model needs {tuple(target.shape)}."
            )
        check_floats(name, state[name], source)
    check_finite(((name, state[name]) for name in targets), source)
    return targets


def describe_backbone(model: PreTrainedModel) -> dict[str, Any]:
    """Family and encoder sizes: what a delta must agree with."""
    return {"family": family_of(model.config), **asdict(spec_for(model).sizes(model.config))}
