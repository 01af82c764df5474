"""Directories that carry their own code load where there is no toolkit, and their card tells what is known."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from tests.helpers_export import saved, source_of
from utils.errors import UserError
from utils.export import __main__ as tool
from utils.export.card import card
from utils.export.checks import example_shape, make_inputs
from utils.export.flatten import flattened, rewritten
from utils.export.source import Source, load_source
from utils.export.standalone import code_of, write

pytestmark = pytest.mark.usefixtures("single_thread")
KINDS = ("tucker", "pruned", "plugin", "enct5")

#: Run as `python -I`, in another folder, with only what Transformers needs.
_STRANGER = """
import importlib.util, json, sys, torch, transformers
from safetensors.torch import load_file, save_file

assert importlib.util.find_spec("model") is None and importlib.util.find_spec("utils") is None
made = {}
for directory, loader in json.loads(sys.argv[1]).items():
    kind = getattr(transformers, loader)
    model = kind.from_pretrained(directory, trust_remote_code=True).eval()
    with torch.inference_mode():
        made[directory.replace("/", "|")] = model(**load_file(directory + "/in.safetensors")).logits.contiguous()
    again = directory + "-again"
    model.save_pretrained(again)
    reloaded = kind.from_pretrained(again, trust_remote_code=True).eval()
    with torch.inference_mode():
        logits = reloaded(**load_file(directory + "/in.safetensors")).logits
    assert torch.equal(logits, made[directory.replace("/", "|")]), directory
save_file(made, sys.argv[2])
"""


def test_they_load_in_a_process_that_has_no_toolkit(tmp_path: Path) -> None:
    """By `trust_remote_code`, from another folder, at the ratio that was chosen: equal logits; saved again, again."""
    sources = {kind: source_of(kind, tmp_path / "saved") for kind in KINDS}
    expected, loaders = {}, {}
    for kind, source in sources.items():
        out = tmp_path / "out" / kind
        write(source, out, ("logits",))
        inputs = make_inputs(source, example_shape(source.model.config), padded=True)
        save_file(inputs, out / "in.safetensors")
        loaders[str(out)] = source.loader
        with torch.inference_mode():
            expected[str(out)] = source.model(**inputs).logits
    script, found, elsewhere = tmp_path / "stranger.py", tmp_path / "found.safetensors", tmp_path / "elsewhere"
    script.write_text(_STRANGER)
    elsewhere.mkdir()
    environment = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": ""}
    command = [sys.executable, "-I", str(script), json.dumps(loaders), str(found)]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, logits in load_file(found).items():
        torch.testing.assert_close(logits, expected[name.replace("|", "/")], atol=1e-5, rtol=1e-5)


def test_the_code_is_what_the_edits_need_and_no_more(tmp_path: Path) -> None:
    """One flat folder that imports nothing of the toolkit; a pruned BERT brings no plugin along."""
    files = code_of(source_of("pruned", tmp_path))
    assert "pruning_config.py" in files and not any(name.startswith(("plugin", "decomposition")) for name in files)
    for kind in KINDS:
        files = code_of(source_of(kind, tmp_path / kind))
        for name, text in files.items():
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and node.level:
                    assert f"{node.module}.py" in files, (name, node.module)
                elif isinstance(node, ast.ImportFrom | ast.Import):
                    top = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                    assert str(top).split(".")[0] not in ("model", "utils", "dataset", "metric"), (name, top)


def test_a_model_that_transformers_knows_gets_no_code(tmp_path: Path) -> None:
    """A dense BERT needs none."""
    assert code_of(source_of("dense", tmp_path)) == {}


def test_imports_are_rewritten_and_nothing_else() -> None:
    """Also those of several lines; what has no relative form is refused."""
    source = "from model.plugin.bank import (  # a bank\n    A,\n)\nimport torch\nX = 'from model.x import y'\n"
    text, imported = rewritten(source)
    assert text == source.replace("from model.plugin.bank import (", "from .plugin_bank import (")
    assert imported == ["model.plugin.bank"]
    for refused in ("import model.plugin\n", "from model import apply_edit\n"):
        with pytest.raises(ValueError, match="line 1"):
            rewritten(refused)


def test_flattening_follows_imports() -> None:
    """What a module needs comes with it, whatever is imported only for its types included."""
    assert {"plugin_config.py", "plugin_surgery.py", "backbone.py", "errors.py"} <= flattened(
        ["model.plugin.config"]
    ).keys()


# --- the card --------------------------------------------------------------------------------------------------------


def with_run(kind: str, root: Path) -> Source:
    """A model as the best one of a run that measured it."""
    model = saved(kind, root)
    run = root / "run"
    run.mkdir()
    model.rename(run / "best")
    measured = {"metrics": {"accuracy": 0.875}, "macs": 123456.0, "latency_ms": 3.5, "num_params": 999}
    (run / "result.json").write_text(json.dumps(measured))
    (run / "arguments.json").write_text(json.dumps({"arguments": {"teacher_model": "google-bert/bert-base-uncased"}}))
    return load_source(str(run), None, "", None, needs_ratio=False)


def test_the_card_holds_what_was_measured_and_valid_metadata(tmp_path: Path) -> None:
    """Costs come from the run's files; the metadata block is YAML that the hub's library reads."""
    text = card(with_run("pruned", tmp_path), carries_code=True)
    assert "| accuracy | 0.875 |" in text and "| parameters | 999 |" in text and "sparsity of 80%" in text
    data: Any = ModelCard(text).data
    assert data.base_model == "google-bert/bert-base-uncased" and data.pipeline_tag == "text-classification"
    assert data.tags == ["compressed", "bert", "pruning"]


def test_nothing_is_invented_where_nothing_was_measured(tmp_path: Path) -> None:
    """No table, no base model; loading by the toolkit where there is no code beside the weights."""
    text = card(source_of("plugin", tmp_path), carries_code=False)
    assert "Measured" not in text and "base_model" not in text and "import model" in text
    assert "do not say which model" in text


def test_a_card_alone(tmp_path: Path) -> None:
    """For a model that the toolkit saved: without code beside it, so loaded after `import model`."""
    out = tmp_path / "cards" / "README.md"
    command = f"--model {saved('plugin', tmp_path)} --format card --output {out} --base-model google-t5/t5-small"
    tool.main(command.split())
    text = out.read_text()
    assert "import model" in text and "trust_remote_code" not in text and "ratios 2, 4" in text


def test_a_name_cannot_break_the_metadata(tmp_path: Path) -> None:
    """Colons, quotes and line breaks in a base model stay inside its value."""
    source = source_of("dense", tmp_path)
    for name in ("a: b", 'say "x"', "a\ntags:\n- evil"):
        data: Any = ModelCard(card(source, False, name)).data
        assert data.base_model == name and data.tags == ["compressed", "bert"]


def test_a_directory_with_files_is_not_written_into(tmp_path: Path) -> None:
    """A standalone directory is new."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="name a new or an empty directory"):
        tool.parse(["--model", "m", "--format", "standalone", "--output", str(tmp_path / "out")])
