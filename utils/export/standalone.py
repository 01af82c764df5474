"""A checkpoint directory that carries its own modelling code: torch and Transformers are all that loading it takes.

AutoModelForSequenceClassification.from_pretrained(DIR, trust_remote_code=True)
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from model import edits_of
from model.backbone import COMPRESSED_PREFIX, family_of
from utils.errors import UserError
from utils.export.checks import Batches, ManyRunner
from utils.export.flatten import flat_name, flattened
from utils.export.source import Source
from utils.loading import copy_task_file
from utils.opening.tokenizers import carry_tokenizer
from utils.writing import write_json, write_text

#: The file that config.json's `auto_map` names.
ENTRY = "modeling_compressed"
_PROBE = Path(__file__).with_name("probe.py")
#: Of the toolkit's sources, which go with every copy of them.
_LICENCE = Path(__file__).resolve().parents[2] / "LICENSE"

_ENTRY_SOURCE = '''"""{title}

Written by the toolkit's export; the other files beside it are the toolkit's own sources.
"""

from __future__ import annotations

from typing import Any

from {base_module} import {base_config}, {base_model}

{imports}


class {config}({base_config}):
    """The config of the dense model, with the list of edits and the ratio that the plugins begin with."""

    model_type = "{model_type}"

    compression: list[dict[str, Any]] | None = None
    plugin_ratio: int = 1
    plugin_task: str = ""


class {model}({base_model}):
    """The dense model with the structure of its config's edits."""

    config_class = {config}

    def __init__(self, config: Any) -> None:
        super().__init__(config)
{body}
'''
_SET_RATIO = '''
    def set_ratio(self, ratio: int, task: str = "") -> None:
        """Use the plugins of `ratio` from now on; 1 switches them off."""
        set_ratio(self, ratio, task)
'''


def write(source: Source, directory: Path, outputs: Sequence[str]) -> dict[str, Any]:
    """Write weights, config, tokenizer and code into `directory`; gives what its record says of it."""
    model: Any = source.model
    files = code_of(source)
    model.save_pretrained(directory)
    for name, text in files.items():
        write_text(directory / name, text)
    if files:
        shutil.copyfile(_LICENCE, directory / "LICENSE-code")
        _point_to_code(directory / "config.json", source)
    carry_tokenizer(source.directory, directory, model)
    copy_task_file(source.directory, directory)
    return {"inputs": source.inputs, "outputs": outputs, "code": sorted(files)}


def code_of(source: Source) -> dict[str, str]:
    """The modelling file and the modules that this model's edits need; none for a model that Transformers knows."""
    model = source.model
    if type(model).__module__.startswith("transformers."):
        return {}
    family, edits = family_of(model.config), edits_of(model)
    base = _base_class(type(model))
    own_base = base.__module__.startswith("model.")
    modules = [type(edit).__module__ for edit in edits]
    calls, imports = [], []
    if edits:
        imports.append("from .compression import build_edits")
        calls.append("build_edits(self, config.compression or [])")
        # Importing an edit's module is what makes the edit known.
        imports += [f"from .{flat_name(type(edit).__module__)} import {type(edit).__name__}" for edit in edits]
    has_plugins = any(edit.kind == "plugin" for edit in edits)
    if has_plugins:
        modules.append("model.plugin.surgery")
        imports.append("from .plugin_surgery import set_ratio")
        calls.append("set_ratio(self, config.plugin_ratio, config.plugin_task)")
    if own_base:
        modules.append(base.__module__)
    names = [type(edit).__name__ for edit in edits]
    used = f"\n\n#: The edits of this checkpoint.\nEDITS = ({', '.join(names)},)" if names else ""
    entry = _ENTRY_SOURCE.format(
        title=f"{base.__name__} with the edits {', '.join(edit.kind for edit in edits) or 'none'}.",
        base_module=f".{flat_name(base.__module__)}" if own_base else "transformers",
        base_config=base.config_class.__name__,
        base_model=base.__name__,
        imports="\n".join(sorted(imports)) + used,
        config=f"Standalone{base.config_class.__name__}",
        model=f"Standalone{base.__name__}",
        model_type=(COMPRESSED_PREFIX if edits else "") + family,
        body="\n".join(" " * 8 + call for call in calls) + (f"\n{_SET_RATIO}".rstrip() if has_plugins else ""),
    )
    needed = ["model.compression", *modules] if edits else modules
    return {f"{ENTRY}.py": entry, **flattened(needed)}


def _base_class(made: type[Any]) -> Any:
    """The class that a compressed one puts its edits on: the last of its bases (itself, where it carries none)."""
    return made.__mro__[2] if made.__name__.startswith("Compressed") else made


def _point_to_code(path: Path, source: Source) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    base = _base_class(type(source.model))
    head = f"{ENTRY}.Standalone{base.__name__}"
    values["auto_map"] = {"AutoConfig": f"{ENTRY}.Standalone{base.config_class.__name__}", source.loader: head}
    values["plugin_ratio"], values["plugin_task"] = source.ratio, source.task
    write_json(path, values)


def read(directory: Path, named: Path | None = None) -> ManyRunner:
    """The directory's outputs, from a fresh process that has no toolkit on its path; `named` is what messages
    call it.

    Raises:
        UserError: it does not load there, with the last line of the reason.
    """

    def run(batches: Batches) -> Sequence[Sequence[Tensor]]:
        with tempfile.TemporaryDirectory() as scratch:
            given = {f"{i}.{name}": one.contiguous() for i, batch in enumerate(batches) for name, one in batch.items()}
            save_file(given, Path(scratch) / "in.safetensors")
            command = [sys.executable, "-I", "-B", str(_PROBE), str(directory.resolve()), scratch]
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise UserError(f"{named or directory} does not load without the toolkit: {last}")
            found = load_file(Path(scratch) / "out.safetensors")
        return [[found[name] for name in sorted(found) if name.startswith(f"{i}.")] for i in range(len(batches))]

    return run
