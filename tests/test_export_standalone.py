"""Directories that carry their own code load where there is no toolkit, and their card tells what is known."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from model import QuantizationConfig, apply_edit
from tests.helpers_export import saved, source_of
from tests.helpers_tokenizer import tiny_tokenizer
from tests.tiny_bert import tiny_word_pieces
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
    torch.testing.assert_close(logits, made[directory.replace("/", "|")], rtol=0, atol=4e-6)
    shown = {}
    exec(open(directory + "/snippet.py").read(), shown)
    with torch.inference_mode():
        logits = shown["model"](**load_file(directory + "/in.safetensors")).logits
    torch.testing.assert_close(logits, made[directory.replace("/", "|")], rtol=0, atol=4e-6)
    assert shown["tokenizer"]("a good film").input_ids == json.load(open(directory + "/tokens.json")), directory
save_file(made, sys.argv[2])
"""


PLACEHOLDER = "DIRECTORY_OR_HUB_ID"


def snippet(text: str) -> str:
    """The Python lines of a card."""
    return text.split("```python\n")[1].split("```")[0]


def test_they_load_in_a_process_that_has_no_toolkit(tmp_path: Path) -> None:
    """By `trust_remote_code`, from another folder, at the ratio that was chosen: equal logits; saved again, again.
    The lines that the card shows load the model and its tokenizer, and ask nothing."""
    sources = {kind: source_of(kind, tmp_path / "saved") for kind in KINDS}
    expected, loaders = {}, {}
    for kind, source in sources.items():
        out = tmp_path / "out" / kind
        tokenizer = tiny_tokenizer() if source.model.config.is_encoder_decoder else tiny_word_pieces()
        tokenizer.save_pretrained(source.directory)
        write(source, out, ("logits",))
        (out / "snippet.py").write_text(snippet(card(source, carries_code=True)).replace(PLACEHOLDER, str(out)))
        (out / "tokens.json").write_text(json.dumps(tokenizer("a good film").input_ids))
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
    done = subprocess.run(
        command, cwd=elsewhere, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "[y/N]" not in done.stdout + done.stderr
    for name, logits in load_file(found).items():
        torch.testing.assert_close(logits, expected[name.replace("|", "/")], atol=4e-5, rtol=1e-5)


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


#: What the toolkit's scripts write about a model with plugins: a BERT's evaluation, a T5's validation.
_AT_RATIOS: dict[str, dict[str, Any]] = {
    "evaluation.json": {
        "metrics": {"accuracy": 0.81},
        "macs": 111.0,
        "ratios": {
            "1": {"metrics": {"accuracy": 0.81}, "macs": 111.0},
            "2": {"metrics": {"accuracy": 0.72}, "macs": 222.0},
            "4": {"metrics": {"accuracy": 0.64}},
        },
    },
    "result.json": {
        "metric": "accuracy",
        "rows": [
            {"name": "dense", "accuracy": 0.81, "ratio": 1, "macs": 111.0},
            {"name": "k=2", "accuracy": 0.72, "ratio": 2, "macs": 222.0, "latency_p95_ms": 7.0},
            {"name": "k=4", "accuracy": 0.64, "ratio": 4},
        ],
    },
}


@pytest.mark.parametrize("name", _AT_RATIOS)
@pytest.mark.parametrize(("ratio", "accuracy", "macs"), [(1, "0.81", "111"), (2, "0.72", "222"), (4, "0.64", None)])
def test_numbers_are_those_of_the_ratio_that_it_begins_with(
    name: str, ratio: int, accuracy: str, macs: str | None, tmp_path: Path
) -> None:
    """Beside `set_ratio(4)` there is no number of ratio 1; costs that were not measured are said to be so."""
    saved("plugin", tmp_path)
    (tmp_path / "plugin" / name).write_text(json.dumps(_AT_RATIOS[name]))
    text = card(load_source(str(tmp_path / "plugin"), ratio, "", None, needs_ratio=False), carries_code=True)
    assert f"set_ratio({ratio})" in text and f"## Measured at ratio {ratio} (`{name}`)" in text
    assert re.findall(r"\| accuracy \| (.*) \|", text) == [accuracy]
    assert re.findall(r"\| multiply-accumulates per example \| (.*) \|", text) == ([macs] if macs else [])
    assert ("| costs | not measured |" in text) == (macs is None)
    assert "| 7 |" not in text


@pytest.mark.parametrize("name", _AT_RATIOS)
def test_a_ratio_without_numbers_borrows_none(name: str, tmp_path: Path) -> None:
    """Where only others were measured, the card names those; damaged entries are none."""
    saved("plugin", tmp_path)
    without = json.loads(json.dumps(_AT_RATIOS[name]))
    if "ratios" in without:
        without["ratios"]["4"] = "lost"
        without["ratios"]["all"] = {}
    else:
        without["rows"][2] = {"name": "k=4", "ratio": [4], "accuracy": 0.64}
    flat = {"metrics": {"accuracy": 0.81}, "macs": 111.0}
    for values, others in ((without, "ratios 1, 2"), (flat, "ratio 1")):
        (tmp_path / "plugin" / name).write_text(json.dumps(values))
        text = card(load_source(str(tmp_path / "plugin"), 4, "", None, needs_ratio=False), carries_code=True)
        assert f"Not measured: the file has numbers of {others}." in text
        assert "0.81" not in text and "0.64" not in text and "| what |" not in text


def test_nothing_is_invented_where_nothing_was_measured(tmp_path: Path) -> None:
    """No table, no base model; loading by the toolkit where there is no code beside the weights."""
    text = card(source_of("plugin", tmp_path), carries_code=False)
    assert "Not measured: there is no file" in text and "| what |" not in text
    assert "base_model" not in text and "import model" in text
    assert "do not say which model" in text


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("runs/teacher/best", "teacher"),
        ("runs/teacher/prediction/best", "teacher"),
        ("teacher/best", "teacher"),
        ("/gone/models/bert-base", "bert-base"),
        ("best", None),
    ],
)
def test_the_origin_is_the_runs_folder(given: str, name: str | None, tmp_path: Path) -> None:
    """The folder of the best model names no model, and a path is no hub id."""
    text = card(source_of("dense", tmp_path), False, given)
    assert ("began as `" in text) == (name is not None) and (name is None or f"began as `{name}`." in text)
    assert "base_model" not in text


@pytest.mark.parametrize(
    ("activations", "words"), [("float", "activations as they come"), ("int8", "activations rounded to int8 too")]
)
def test_quantisation_is_told_in_words(activations: Any, words: str, tmp_path: Path) -> None:
    """One line, no JSON."""
    source = source_of("dense", tmp_path)
    apply_edit(source.model, QuantizationConfig(activations))
    text = card(source, False)
    assert words in text and "{" not in text and "- quantization" in text.replace('"', "")


def test_a_card_alone(tmp_path: Path) -> None:
    """For a model that the toolkit saved: without code beside it, so loaded after `import model`."""
    out = tmp_path / "cards" / "README.md"
    command = f"--model {saved('plugin', tmp_path)} --format card --output {out} --base-model google-t5/t5-small"
    tool.main(command.split())
    text = out.read_text()
    assert "import model" in text and "trust_remote_code" not in text and "ratios 2, 4" in text


def test_a_name_cannot_break_the_metadata(tmp_path: Path) -> None:
    """Colons, quotes and line breaks in a base model stay inside its value; a dense model is not called compressed."""
    source = source_of("dense", tmp_path)
    for name in ("a: b", 'say "x"', "a\ntags:\n- evil"):
        data: Any = ModelCard(card(source, False, name)).data
        assert data.base_model == name and data.tags == ["bert"]


def test_a_directory_with_files_is_not_written_into(tmp_path: Path) -> None:
    """A standalone directory is new."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="name a new or an empty directory"):
        tool.parse(["--model", "m", "--format", "standalone", "--output", str(tmp_path / "out")])
