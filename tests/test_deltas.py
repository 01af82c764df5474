"""Saving and loading: whole edited models through `Auto…` classes, and edits alone as deltas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import (
    LoraConfig,
    ModelError,
    PluginConfig,
    apply_edit,
    edits_of,
)
from model.delta import load_delta, save_delta
from tests.helpers_edits import (
    BACKBONES,
    CASES,
    STACK,
    Case,
    build_t5,
    each_backbone,
    each_case,
    edited,
    inputs,
    logits,
    logits_by_choice,
    own_parameters,
    same,
    scramble,
    some_backbone,
)

pytestmark = pytest.mark.usefixtures("single_thread")

# save and load


_FRESH = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM
import torch
torch.set_num_threads(1)
root = Path(sys.argv[1])
directories = sorted(p for p in root.iterdir() if p.is_dir())
for directory in directories:
    try:
        AutoModelForSeq2SeqLM.from_pretrained(directory)
    except ValueError as error:
        (directory / "refused.txt").write_text(str(error))
import model as toolkit
inputs = load_file(root / "inputs.safetensors")
for directory in directories:
    loaded = AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    found = {}
    with torch.no_grad():
        found["1"] = loaded(**inputs).logits.contiguous()
        edit = toolkit.find_edit(loaded, toolkit.PluginConfig)
        for choice in edit.choices if edit else []:
            with toolkit.use_ratio(loaded, *choice):
                found[choice.key] = loaded(**inputs).logits.contiguous()
    save_file(found, directory / "found.safetensors")
"""


@pytest.fixture(scope="module")
def fresh(single_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases on all backbones, saved here, then loaded and run by one other process."""
    root = tmp_path_factory.mktemp("saved")
    save_file(inputs(), root / "inputs.safetensors")
    stacks = {name: (name,) for name in CASES} | {"stack": STACK}
    for backbone in BACKBONES:
        for label, names in stacks.items():
            model = build_t5(backbone)
            for name in names:
                apply_edit(model, CASES[name].edit)
                scramble(model, CASES[name].edit)
            model.save_pretrained(root / f"{backbone}-{label}")
            save_file(logits_by_choice(model), root / f"{backbone}-{label}" / "expected.safetensors")
    command = [sys.executable, "-c", _FRESH, str(root)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return root


@each_backbone
@pytest.mark.parametrize("label", [*CASES, "stack"])
def test_a_fresh_process_gives_the_same_logits_at_every_ratio(fresh: Path, label: str, backbone: str) -> None:
    """`save_pretrained`, then `AutoModelForSeq2SeqLM` after `import model` in another process: no bit differs."""
    directory = fresh / f"{backbone}-{label}"
    expected, found = load_file(directory / "expected.safetensors"), load_file(directory / "found.safetensors")
    assert same(found, expected)
    assert {path.suffix for path in directory.iterdir()} <= {".json", ".safetensors", ".txt"}


@pytest.mark.parametrize("label", [*CASES, "stack"])
def test_a_program_without_the_toolkit_refuses_the_directory(fresh: Path, label: str) -> None:
    """Without `import model`, `Auto…` classes stop at the unknown type instead of making random weights."""
    refusal = fresh / f"{some_backbone}-{label}" / "refused.txt"
    assert refusal.is_file()
    assert "compressed_t5" in refusal.read_text()


@each_backbone
@each_case
def test_a_delta_carries_the_edit_to_another_copy_of_the_backbone(case: Case, backbone: str, tmp_path: Path) -> None:
    """A delta on a plain copy, and over a copy with other values, gives the logits it was saved with."""
    model = edited(case, backbone)
    expected = logits_by_choice(model)
    written = save_delta(model, case.edit.kind, tmp_path, {"dataset": "sst2"})
    own = sum(p.numel() for p in own_parameters(model, case.edit).values())
    assert sum(tensor.numel() for path in written for tensor in load_file(path).values()) == own
    plain = build_t5(backbone)
    assert load_delta(plain, case.edit.kind, tmp_path).parts() == case.edit.parts()
    assert same(logits_by_choice(plain), expected)
    scramble(plain, case.edit, seed=8)
    assert not same(logits_by_choice(plain), expected)
    load_delta(plain, case.edit.kind, tmp_path)
    assert same(logits_by_choice(plain), expected)


@each_case
def test_a_delta_for_another_backbone_is_refused_with_both_sizes(case: Case, tmp_path: Path) -> None:
    """Width, depth and feed-forward size are named with both numbers, and the model is not touched."""
    save_delta(edited(case), case.edit.kind, tmp_path)
    for change, words in (
        ({"d_model": 24}, r"width 16 \(the model has 24\)"),
        ({"num_layers": 2}, r"layers 1 \(the model has 2\)"),
        ({"d_ff": 28}, r"ffn 20 \(the model has 28\)"),
    ):
        other = build_t5(some_backbone, **change)
        with pytest.raises(ModelError, match=f"this {case.edit.kind} was made for another backbone.*{words}"):
            load_delta(other, case.edit.kind, tmp_path)
        assert edits_of(other) == []


@each_case
def test_damaged_deltas_are_refused_and_leave_the_model_alone(case: Case, tmp_path: Path) -> None:
    """A truncated weight file, a missing one, an unknown version, and a description of something else, in any part."""
    weights = save_delta(edited(case), case.edit.kind, tmp_path)[-1]
    description = weights.with_suffix(".json")
    whole, text = weights.read_bytes(), description.read_text()
    model = build_t5(some_backbone)
    before = logits(model)

    def refused(words: str) -> None:
        with pytest.raises(ModelError, match=words):
            load_delta(model, case.edit.kind, tmp_path)
        assert edits_of(model) == []
        assert torch.equal(logits(model), before)

    weights.write_bytes(whole[: len(whole) // 2])
    refused(rf"{len(whole) // 2} bytes\) is not a whole safetensors file")
    weights.unlink()
    refused("There is no weight file")
    description.write_text(text.replace('"format_version": 1', '"format_version": 99'))
    refused("format version 99")
    description.write_text(json.dumps({**json.loads(text), "edit": {"kind": "other"}}))
    refused(f"describes no {case.edit.kind}")
    description.write_text(text[:20])
    refused("not valid JSON")


@each_case
def test_a_delta_with_other_settings_than_the_models_is_refused(case: Case, tmp_path: Path) -> None:
    save_delta(edited(case), case.edit.kind, tmp_path)
    other = {"plugin": PluginConfig(ratios=(5,)), "lora": LoraConfig(rank=1)}[case.edit.kind]
    model = build_t5(some_backbone)
    apply_edit(model, other)
    with pytest.raises(ModelError, match=f"already carries a {case.edit.kind} with other settings"):
        load_delta(model, case.edit.kind, tmp_path)


def test_saving_an_edit_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="carries no edit 'plugin'"):
        save_delta(build_t5(some_backbone), "plugin", tmp_path)
