"""From `--mux_num` and `--plugin_path` to a model with plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model import PluginConfig, apply_edit, find_edit
from model.delta import delta_files, is_delta, read_delta_edit
from model.plugin.published import PUBLISHED_SCALE, load_published_plugin, read_published_plugin
from model.weights import read_torch_file
from utils.errors import UserError
from utils.opening.places import delta_directory, expanded
from utils.opening.weights import open_delta
from utils.variator.arguments import PluginArguments

DEFAULT_RATIO = 4


def attach_plugins(model: Any, arguments: PluginArguments, path: Path | None) -> tuple[int, ...]:
    """Attach the plugins that the flags ask for, and return the ratios to work with (never 1).

    A ratio that `--mux_num` names must be in the file of `--plugin_path`; without `--plugin_path` the plugins
    start untrained.

    Args:
        path: where the plugins come from, as `plugin_source` says.

    Raises:
        UserError, ModelError: a ratio is missing, or the file does not fit the model.
    """
    asked = tuple(k for k in arguments.mux_num if k > 1)
    if path is not None:
        _check_ratios(asked, saved_ratios(path), path)
    if path is None and find_edit(model, PluginConfig) is None:
        ratios, scale = asked or (DEFAULT_RATIO,), arguments.residual_scale or PUBLISHED_SCALE
        apply_edit(model, PluginConfig(ratios=ratios, residual_scale=scale, compat=arguments.compat or "native"))
    elif path is not None and path.is_file():
        load_published_plugin(model, path, arguments.compat or "grouping")
    elif path is not None:
        saved = read_delta_edit(path, "plugin")
        if isinstance(saved, PluginConfig) and arguments.compat not in (None, saved.compat):
            raise UserError(f"--compat {arguments.compat}: the plugins of {path} were trained with {saved.compat}.")
        # Only what was asked for: other ratios of the file must not pass for trained with these.
        open_delta(model, "plugin", path, [f"plugin-k{k}" for k in asked])
    edit = find_edit(model, PluginConfig)
    assert edit is not None
    _check_ratios(asked, edit.ratios, "the model")
    return asked or edit.ratios


def _check_ratios(asked: tuple[int, ...], there: tuple[int, ...], source: Path | str) -> None:
    if missing := sorted(set(asked) - set(there)):
        raise UserError(
            f"--mux_num {' '.join(map(str, missing))}: the plugins of {source} have the ratios "
            f"{', '.join(map(str, there))} only."
        )


def plugin_source(arguments: PluginArguments, checkpoint: Path | None) -> Path | None:
    """Where the plugins come from: `--plugin_path`, or an original checkpoint that holds some; None if untrained.

    Raises:
        UserError: `--plugin_path` is not there.
    """
    if arguments.plugin_path not in (None, "none"):
        path = expanded(str(arguments.plugin_path))
        if not path.exists():
            raise UserError(f"--plugin_path {arguments.plugin_path} does not exist.")
        return delta_directory(path, PluginConfig.kind)
    checkpoint = None if checkpoint is None else expanded(checkpoint)
    return checkpoint if checkpoint is not None and checkpoint.is_file() and _holds_plugins(checkpoint) else None


def saved_ratios(path: Path) -> tuple[int, ...]:
    """The ratios in a plugin directory or file.

    Raises:
        UserError, ModelError: it holds no plugins, or they cannot be read.
    """
    if path.is_file():
        return (read_published_plugin(path)[0],)
    if not is_delta(path, "plugin"):
        raise UserError(f"--plugin_path {path} holds no plugin (no plugin-k*.json), nor is it a published .pkl.")
    edit = read_delta_edit(path, "plugin")
    assert isinstance(edit, PluginConfig)
    return edit.ratios


def plugin_file(path: Path | None, ratio: int, checkpoint: Path | None) -> Path | None:
    """The file that holds the plugins of `ratio` alone; None where there is no such file to measure."""
    if path is None or path == checkpoint or ratio == 1:
        return None
    return path if path.is_file() else delta_files(path, f"plugin-k{ratio}")[0]


def _holds_plugins(checkpoint: Path) -> bool:
    return any(key.startswith("mux_layer.") for key in read_torch_file(checkpoint))
