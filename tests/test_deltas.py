"""Saving and loading: whole edited models through `Auto…` classes, and edits alone as deltas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from model import (
    LoraConfig,
    ModelError,
    PluginConfig,
    apply_edit,
    available_ratios,
    current_ratio,
    edits_of,
    find_edit,
    set_ratio,
    undo_edit,
    use_ratio,
)
from model.delta import load_delta, read_delta_edit, save_delta
from tests.helpers_close import same_logits
from tests.helpers_edits import (
    BACKBONES,
    CASES,
    STACK,
    Case,
    build_t5,
    each_backbone,
    each_delta_case,
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

ROOT = Path(__file__).resolve().parent.parent

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
@each_delta_case
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


@each_delta_case
def test_a_delta_for_another_backbone_is_refused_with_both_sizes(case: Case, tmp_path: Path) -> None:
    """Width, depth and feed-forward size are named with both numbers, and the model is not touched."""
    save_delta(edited(case), case.edit.kind, tmp_path)
    for change, words in (
        ({"d_model": 24}, r"width 16 \(the model has 24\)"),
        ({"num_layers": 3}, r"layers 2 \(the model has 3\)"),
        ({"d_ff": 28}, r"ffn 20 \(the model has 28\)"),
    ):
        other = build_t5(some_backbone, **change)
        with pytest.raises(ModelError, match=f"this {case.edit.kind} was made for another backbone.*{words}"):
            load_delta(other, case.edit.kind, tmp_path)
        assert edits_of(other) == []


@each_delta_case
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


@each_delta_case
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


# one pair of files per ratio and task


def bank_of(*ratios: int, seed: int = 7, tasks: tuple[str, ...] = ("",), bottleneck: int = 5) -> Any:
    """A T5 whose plugins of these ratios and tasks show."""
    edit = PluginConfig(ratios, bottleneck, tasks=tasks)
    return edited(Case(edit, lambda _: None), seed=seed)


def test_a_bank_is_saved_as_one_small_pair_of_files_per_ratio(tmp_path: Path) -> None:
    """Each safetensors file holds one ratio, each JSON describes it alone, and nothing of the backbone is in them."""
    model = bank_of(2, 4)
    written = save_delta(model, "plugin", tmp_path, {"dataset": "sst2"})
    assert written == [tmp_path / "plugin-k2.safetensors", tmp_path / "plugin-k4.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("plugin-k2.json", "plugin-k2.safetensors"),
        *("plugin-k4.json", "plugin-k4.safetensors"),
    ]
    for ratio, path in zip((2, 4), written, strict=True):
        names = load_file(path)
        assert names and all(name.startswith(f"ratio_{ratio}.mux_layer.") for name in names)
        described = json.loads(path.with_suffix(".json").read_text())
        assert described["edit"]["ratios"] == [ratio] and described["extra"] == {"dataset": "sst2"}
    assert read_delta_edit(tmp_path, "plugin") == PluginConfig((2, 4), 5, 100.0)


def test_one_ratio_of_a_saved_bank_can_be_handed_on_alone(tmp_path: Path) -> None:
    """A directory with one pair of a bank's files loads as the plugin of that ratio."""
    model = bank_of(2, 4)
    save_delta(model, "plugin", tmp_path)
    for path in tmp_path.glob("plugin-k2.*"):
        path.unlink()
    plain = build_t5(some_backbone)
    assert load_delta(plain, "plugin", tmp_path) == PluginConfig((4,), 5, 100.0)
    assert available_ratios(plain) == (1, 4)
    assert same_logits(logits_by_choice(plain)["4"], logits_by_choice(model)["4"])


def test_loading_ratios_extends_the_bank_and_leaves_its_plugins_alone(tmp_path: Path) -> None:
    """2 and 8 join 4: the config names all three, 4 keeps its parameters, and the whole survives save and load."""
    model, source = bank_of(4, seed=1), bank_of(2, 8, seed=2)
    save_delta(source, "plugin", tmp_path)
    kept = {id(p): p.clone() for p in own_parameters(model, PluginConfig((4,), 5)).values()}
    set_ratio(model, 4)
    before, expected = logits_by_choice(model)["4"], logits_by_choice(source)
    load_delta(model, "plugin", tmp_path)
    assert find_edit(model, PluginConfig) == PluginConfig((2, 4, 8), 5, 100.0)
    assert available_ratios(model) == (1, 2, 4, 8) and current_ratio(model) == 4
    after = own_parameters(model, PluginConfig((4,), 5))
    assert after.keys() == kept.keys() and all(torch.equal(after[key], kept[key]) for key in kept)
    found = logits_by_choice(model)
    assert same_logits(found["4"], before)
    assert same({k: found[k] for k in ("1", "2", "8")}, expected)
    model.save_pretrained(tmp_path / "whole")
    assert same(logits_by_choice(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "whole").eval()), found)


def test_loading_a_ratio_that_is_there_replaces_it_alone(tmp_path: Path) -> None:
    model, source = bank_of(2, 4, seed=1), bank_of(4, 8, seed=2)
    before, expected = logits_by_choice(model), logits_by_choice(source)
    save_delta(source, "plugin", tmp_path)
    load_delta(model, "plugin", tmp_path)
    assert same(logits_by_choice(model), {**before, **expected})


def test_several_tasks_share_one_backbone(tmp_path: Path) -> None:
    """Each task's plugins are those that were trained for it, from its own files, through `Auto…` classes too."""
    model = bank_of(4, tasks=("sst2", "mrpc"))
    found = logits_by_choice(model)
    assert not torch.equal(found["sst2-4"], found["mrpc-4"])
    with use_ratio(model, 4, task="mrpc"):
        assert torch.equal(logits(model), found["mrpc-4"])
    assert available_ratios(model, "mrpc") == (1, 4) and available_ratios(model) == (1,)
    with pytest.raises(ModelError, match="no plugins of task 'rte' for ratio 4; it has: 1"):
        set_ratio(model, 4, task="rte")

    save_delta(model, "plugin", tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.json")) == ["plugin-mrpc-k4", "plugin-sst2-k4"]
    plain = build_t5(some_backbone)
    load_delta(plain, "plugin", tmp_path)
    assert same(logits_by_choice(plain), found)
    plain.save_pretrained(tmp_path / "whole")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "whole").eval()
    assert same(logits_by_choice(loaded), found)
    undo_edit(loaded, "plugin")
    assert same_logits(logits(loaded), found["1"])


def test_a_task_joins_a_model_that_serves_another(tmp_path: Path) -> None:
    """Plugins of a second task are loaded into the bank; the first task's results stay to the bit."""
    model, source = bank_of(4, seed=1, tasks=("sst2",)), bank_of(4, seed=2, tasks=("mrpc",))
    before, expected = logits_by_choice(model), logits_by_choice(source)
    save_delta(source, "plugin", tmp_path)
    load_delta(model, "plugin", tmp_path)
    assert same(logits_by_choice(model), {**before, **expected})


def test_plugins_without_a_name_join_a_bank_under_one(tmp_path: Path) -> None:
    """`task` names them; what is trained for is theirs still. Plugins that have a name keep it."""
    model, source = bank_of(4, seed=1, tasks=("sst2",)), bank_of(4, seed=2)
    before, expected = logits_by_choice(model), logits_by_choice(source)
    save_delta(source, "plugin", tmp_path)
    load_delta(model, "plugin", tmp_path, task="mrpc")
    assert same(logits_by_choice(model), {**before, "mrpc-4": expected["4"]})
    save_delta(bank_of(4, tasks=("rte",)), "plugin", tmp_path)
    with pytest.raises(ModelError, match=r"have the names of tasks \(rte\); 'sst2' is none"):
        load_delta(model, "plugin", tmp_path, ["plugin-rte-k4"], task="sst2")


def test_parts_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    """Two files of one directory with unlike bottlenecks are no bank; the model is not touched."""
    save_delta(bank_of(2, bottleneck=5), "plugin", tmp_path)
    save_delta(bank_of(4, bottleneck=6), "plugin", tmp_path)
    model = build_t5(some_backbone)
    with pytest.raises(ModelError, match="Plugins with other settings cannot share a bank"):
        load_delta(model, "plugin", tmp_path)
    assert edits_of(model) == []


def test_a_bank_never_gets_plugins_that_nobody_trained(tmp_path: Path) -> None:
    """sst2 at 4 and mrpc at 2, in one directory or one by one, are refused with what is missing."""
    sst2, mrpc = bank_of(4, tasks=("sst2",)), bank_of(2, tasks=("mrpc",))
    save_delta(mrpc, "plugin", tmp_path)
    with pytest.raises(ModelError, match=r"already carries a plugin.*lack plugin-mrpc-k4, plugin-sst2-k2"):
        load_delta(sst2, "plugin", tmp_path)
    assert available_ratios(sst2, "sst2") == (1, 4) and available_ratios(sst2, "mrpc") == (1,)
    save_delta(sst2, "plugin", tmp_path)
    plain = build_t5(some_backbone)
    with pytest.raises(ModelError, match="lack plugin-mrpc-k4, plugin-sst2-k2: every task of a bank"):
        load_delta(plain, "plugin", tmp_path)
    assert edits_of(plain) == []
