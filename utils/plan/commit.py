"""Writing the chosen point as a model of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model import undo_edit
from model.plugin import PluginConfig, with_ratios
from utils.engine.run_files import MODEL_FILES, first_other
from utils.errors import UserError
from utils.loading import copy_task_file
from utils.opening.tokenizers import carry_tokenizer
from utils.outputs import json_with
from utils.plan import PLAN_FILE
from utils.plan.load import Opened
from utils.plan.point import Point
from utils.writing import atomic_directory, write_json


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse to replace what somebody has put there.

    Raises:
        UserError: there is something, and `overwrite` is not set.
    """
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise UserError(f"--commit {target} is there already: name another folder, or add --overwrite.")
    if not json_with("budget", "command")(target / PLAN_FILE):
        raise UserError(f"--commit {target} was not written by --commit: name another folder.")
    if (foreign := first_other(target, MODEL_FILES)) is not None:
        raise UserError(f"--overwrite would replace {foreign}, which --commit has not written: move it away.")


def commit(opened: Opened, target: Path, plan: Mapping[str, Any]) -> None:
    """Save the point into `target`, with its tokenizer and plan.json, which holds `plan`.

    Of a model with plugins only those of the chosen ratio are kept, and are in use when it is loaded.

    Raises:
        UserError: it cannot be written.
    """
    source = opened.point.source.directory
    with atomic_directory(target) as partial:
        if opened.point.is_saved:
            shutil.copytree(source, partial, dirs_exist_ok=True)
        else:
            model = opened.model if opened.point.axis != "ratio" else _with_one_ratio(opened)
            model.save_pretrained(partial)
            carry_tokenizer(source, partial, model)
            copy_task_file(source, partial)
        write_json(partial / PLAN_FILE, plan)


def how_to_use(point: Point, target: Path) -> str:
    """What to do with the saved model next."""
    loading = f"load it as any model: Auto….from_pretrained({str(target)!r}) after `import model`"
    if point.axis == "ratio" and point.value > 1:
        return f"{loading}; it is at k = {point.value:g} from the start"
    if point.is_cut:
        return f"{loading}; it has not learnt since it was cut: fine-tune or distil it (docs/minidisc.md)"
    return loading


def _with_one_ratio(opened: Opened) -> Any:
    """The model with the plugins of the point's ratio alone, in use; for ratio 1 without any."""
    model, ratio = opened.model, int(opened.point.value)
    if ratio > 1:
        return with_ratios(model, [ratio], ratio, opened.point.source.plugin_task)
    undo_edit(model, PluginConfig.kind)
    return model
