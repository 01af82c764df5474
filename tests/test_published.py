"""Files of the original release: published plugins and whole checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from model import ModelError, PluginConfig, find_edit
from model.compression import delta_state
from model.modelcenter import convert_modelcenter
from model.plugin.published import load_published_plugin, read_published_plugin, save_published_plugin
from model.plugin.surgery import plugin_layers, plugin_modules
from tests.helpers_close import same_logits
from tests.helpers_plugin import encode, rows, tiny_t5, with_plugins

pytestmark = pytest.mark.usefixtures("one_thread")


def test_published_files_round_trip(tmp_path: Path) -> None:
    """Half-precision tensors under the original's names, in its order; loading gives the same model."""
    model = with_plugins((2, 4), "grouping")
    path = tmp_path / "plugin-t5_tiny-mux_4.pkl"
    save_published_plugin(model, 4, path)
    state = torch.load(path, weights_only=True)
    parts = ("mux_layer", "demux_adapter.w_in", "demux_adapter.w_out")
    order = [f"mux_layer.{i}.{part}.{kind}" for i in range(2) for part in parts for kind in ("weight", "bias")]
    assert list(state) == order
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert read_published_plugin(path)[0] == 4

    fresh = tiny_t5()
    edit = load_published_plugin(fresh, path)
    assert edit == PluginConfig((4,), 6, 100.0, compat="grouping")
    loaded = delta_state(fresh, edit)
    assert all(torch.equal(loaded[f"ratio_4.{name}"], tensor.float()) for name, tensor in state.items())
    with torch.no_grad():
        for module in plugin_modules(model, 4):
            for parameter in module.parameters():
                parameter.copy_(parameter.half())
    ids, mask = rows(7, 4, to=7)
    assert same_logits(encode(fresh, 4, ids, mask), encode(model, 4, ids, mask))
    save_published_plugin(fresh, 4, tmp_path / "again.pkl")
    again = torch.load(tmp_path / "again.pkl", weights_only=True)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_published_plugins_load_into_a_bank_and_from_a_full_checkpoint(tmp_path: Path) -> None:
    """One ratio of a bank is replaced, the others stay; the T5 tensors of a full checkpoint are not looked at."""
    source, bank = with_plugins((4,), seed=5), with_plugins((2, 4), "grouping")
    path = tmp_path / "best_model.pt"
    save_published_plugin(source, 4, path)
    torch.save({"t5.input_embedding.weight": torch.zeros(2, 2), **torch.load(path, weights_only=True)}, path)
    edit = PluginConfig((2, 4), 6, compat="grouping")
    before = {name: tensor.clone() for name, tensor in delta_state(bank, edit).items()}
    load_published_plugin(bank, path)
    after = delta_state(bank, edit)
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == {"ratio_4"}


def test_published_plugins_of_another_ratio_and_of_other_tasks_join_the_bank(tmp_path: Path) -> None:
    """What the bank holds stays; the newcomer gives what it gives alone, under the task's name it was loaded with."""
    path, ask = tmp_path / "plugin.pkl", rows(7, 4, to=7)
    save_published_plugin(with_plugins((4,), "grouping", seed=5), 4, path)
    alone = tiny_t5()
    load_published_plugin(alone, path)
    bank = with_plugins((2,), "grouping")
    former = encode(bank, 2, *ask)
    load_published_plugin(bank, path)
    assert find_edit(bank, PluginConfig) == PluginConfig((2, 4), 6, 100.0, compat="grouping")
    assert same_logits(encode(bank, 2, *ask), former)
    assert same_logits(encode(bank, 4, *ask), encode(alone, 4, *ask))

    several = tiny_t5()
    for task, seed in (("sst2", 5), ("mrpc", 6)):
        save_published_plugin(with_plugins((4,), "grouping", seed=seed), 4, path)
        load_published_plugin(several, path, task=task)
    assert find_edit(several, PluginConfig) == PluginConfig((4,), 6, 100.0, ("sst2", "mrpc"), "grouping")
    assert same_logits(encode(several, 4, *ask, task="sst2"), encode(alone, 4, *ask))
    assert not torch.equal(encode(several, 4, *ask, task="mrpc"), encode(alone, 4, *ask))


def test_published_plugins_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Another width, another depth, another unit, another treatment of padding, no plugin at all: each is named."""
    path = tmp_path / "plugin.pkl"
    save_published_plugin(with_plugins((4,)), 4, path)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"d_model": 16}, "2 of width 16"),
        ({"num_layers": 3}, "3 of width 12"),
    ]
    for change, has in changes:
        model = tiny_t5(**change)
        with pytest.raises(ModelError, match=f"made for 2 layers of width 12, the model has {has}"):
            load_published_plugin(model, path)
        assert not plugin_layers(model)
    for bank in (with_plugins((4,), "grouping", scale=1.0), with_plugins((2,), "native")):
        with pytest.raises(ModelError, match="Plugins with other settings cannot share a bank"):
            load_published_plugin(bank, path)
    with pytest.raises(ModelError, match="Only a plugin of residual scale 100"):
        save_published_plugin(with_plugins((4,), scale=1.0), 4, tmp_path / "native.pkl")
    torch.save({"t5.input_embedding.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ModelError, match="holds no plugin"):
        load_published_plugin(tiny_t5(), path)


def test_incomplete_published_plugins_are_refused(tmp_path: Path) -> None:
    """A file without one tensor is a sentence, whichever tensor it is."""
    path = tmp_path / "plugin.pkl"
    save_published_plugin(with_plugins((4,)), 4, path)
    state = torch.load(path, weights_only=True)
    for name in state:
        torch.save({key: tensor for key, tensor in state.items() if key != name}, path)
        model = tiny_t5()
        with pytest.raises(ModelError, match=f"holds an incomplete plugin.*first {name}|holds no plugin.*{name}"):
            load_published_plugin(model, path)
        assert not plugin_layers(model)


def test_strange_backbone_tensors_are_refused_by_name() -> None:
    """A tensor that no ModelCenter T5 has is named, wherever in the name the strangeness lies."""
    for name in (
        "encoder.layers.0.self_att.self_attention.project_z.weight",
        "encoder.layers.0.ffn.ffn.w_in.w_9.weight",
        "t5.encoder.rows.0",
    ):
        with pytest.raises(ModelError, match=f"{name.removeprefix('t5.')} is not a tensor of a ModelCenter T5"):
            convert_modelcenter({name: torch.zeros(1)})
