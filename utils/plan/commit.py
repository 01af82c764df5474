"""Writing the chosen point as a model of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model import find_edit, undo_edit
from model.delta import load_delta, save_delta
from model.plugin import PluginConfig
from utils.engine import atomic_directory, write_json
from utils.errors import UserError
from utils.plan.load import Opened, is_as_saved
from utils.plan.points import Point

PLAN_FILE = "plan.json"
#: What belongs to a model beside config and weights; `save_pretrained` of the model does not write it.
_BESIDE = ("tokenizer*", "vocab*", "spiece*", "special_tokens_map.json", "added_tokens.json", "task.json")


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse to replace what somebody has put there.

    Raises:
        UserError: there is something, and `overwrite` is not set.
    """
    if target.exists() and (target.is_file() or any(target.iterdir())) and not overwrite:
        raise UserError(f"--commit {target} is there already: name another folder, or add --overwrite.")


def commit(opened: Opened, target: Path, plan: Mapping[str, Any]) -> None:
    """Save the point into `target`, with its tokenizer and plan.json, which holds `plan`.

    Of a model with plugins only those of the chosen ratio are kept; `opened` loses the others.

    Raises:
        UserError: it cannot be written.
    """
    source = opened.point.source.directory
    with atomic_directory(target) as partial:
        if is_as_saved(opened.point):
            shutil.copytree(source, partial, dirs_exist_ok=True)
        else:
            model = opened.model if opened.point.axis != "ratio" else _with_one_ratio(opened)
            model.save_pretrained(partial)
            for file in (file for pattern in _BESIDE for file in source.glob(pattern) if file.is_file()):
                shutil.copy2(file, partial / file.name)
        write_json(partial / PLAN_FILE, plan)


def how_to_use(point: Point, target: Path) -> str:
    """What to do with the saved model next."""
    loading = f"load it as any model: Auto….from_pretrained({str(target)!r}) after `import model`"
    if point.axis == "ratio" and point.value > 1:
        task = f", task={point.source.plugin_task!r}" if point.source.plugin_task else ""
        return f"{loading}, then set_ratio(model, {point.value:g}{task})"
    if point.axis == "sparsity" and not is_as_saved(point):
        return f"{loading}; it has not learnt since it was cut: fine-tune or distil it (docs/minidisc.md)"
    return loading


def _with_one_ratio(opened: Opened) -> Any:
    """The model with the plugins of the point's ratio alone, or without any for ratio 1."""
    model, wanted = opened.model, (int(opened.point.value), opened.point.source.plugin_task)
    edit = find_edit(model, PluginConfig)
    if edit is None or [(choice.ratio, choice.task) for choice in edit.choices] == [wanted]:
        return model
    with tempfile.TemporaryDirectory() as folder:
        save_delta(model, PluginConfig.kind, Path(folder))
        undo_edit(model, PluginConfig.kind)
        if wanted[0] > 1:
            parts = edit.parts()
            kept = (p for p in parts if parts[p] == _part(edit, wanted))
            load_delta(model, PluginConfig.kind, Path(folder), list(kept))
    return model


def _part(edit: PluginConfig, wanted: tuple[int, str]) -> PluginConfig:
    """The same settings for one ratio of one task."""
    return replace(edit, ratios=(wanted[0],), tasks=(wanted[1],))
