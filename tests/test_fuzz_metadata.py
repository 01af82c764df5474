"""What stands beside weights, and the weights: whatever it holds, it is taken or refused in the toolkit's own words."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save
from transformers import BertForMaskedLM, T5Config, T5ForConditionalGeneration

from model import DecompositionConfig, LayerDropConfig, LoraConfig, PluginConfig, PruningConfig, apply_edit, edits_of
from model.compression import EditConfig, build_edits
from model.decomposition.embeddings.config import EmbeddingConfig
from model.delta import load_delta, read_delta_edit, save_delta
from model.schedule.sandwich import Sandwich
from model.weights import read_safetensors, read_torch_file
from tests.helpers_decomposition import tiny_config
from tests.helpers_engine import Regression, Rows
from tests.helpers_fuzz import altered, costly_inputs, damaged, fuzz, inputs, json_files, json_values, written
from utils.checksums import CHECKSUMS_FILE
from utils.engine.checkpoint import Progress, load_checkpoint, save_checkpoint
from utils.engine.data_record import check_data
from utils.engine.optimisation import build_optimizer
from utils.engine.resume import problem_of
from utils.loading import load_t5

pytestmark = pytest.mark.usefixtures("single_thread")

#: Stacks of edits, as config.json holds them.
STACKS: dict[str, list[list[EditConfig]]] = {
    "t5": [
        [LayerDropConfig((1,)), LoraConfig(2), PluginConfig((2, 4), 3)],
        [PruningConfig(0.5, ((1, 0),) * 6, (5,) * 4, 2), PluginConfig((2,), 3, tasks=("", "a"), compat="original")],
    ],
    "bert": [
        [DecompositionConfig("IV", "san_ffn", 3, 4, 5), EmbeddingConfig("tt", 3, 2)],
        [DecompositionConfig("IV", "san", 8, 4, 5, True, 1, 1)],
        [LayerDropConfig((0,)), EmbeddingConfig("ketxs", 2, 2), LoraConfig(1)],
    ],
}


def tiny_t5() -> Any:
    """A T5 of two layers and width 8."""
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_kv": 4, "num_heads": 2, "d_ff": 12, "num_layers": 2, "num_decoder_layers": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=20, decoder_start_token_id=0, dropout_rate=0.0, **sizes))


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved plugin."""
    folder, model = tmp_path_factory.mktemp("plugin"), tiny_t5()
    apply_edit(model, PluginConfig((4,), 3))
    save_delta(model, "plugin", folder, {"step": 3})
    return folder


# --- plugins ---------------------------------------------------------------------------------------------------------


@inputs
def test_plugin_description(plugin: Path, tmp_path: Path, count: int) -> None:
    """Settings are those of a plugin, or are refused."""

    def check(content: bytes) -> None:
        written(tmp_path / "plugin-k4.json", content)
        assert isinstance(read_delta_edit(tmp_path, "plugin"), PluginConfig)

    fuzz(count, json_files(json.loads((plugin / "plugin-k4.json").read_text())), check)


@costly_inputs
def test_plugin_onto_a_model(plugin: Path, tmp_path: Path, count: int) -> None:
    """A plugin whose description was altered fits the model, or is refused before memory is asked for."""
    shutil.copyfile(plugin / "plugin-k4.safetensors", tmp_path / "plugin-k4.safetensors")
    described, plain = json.loads((plugin / "plugin-k4.json").read_text()), tiny_t5()

    def check(changed: Any) -> None:
        model = copy.deepcopy(plain)
        edit = load_delta(model, "plugin", written(tmp_path / "plugin-k4.json", json.dumps(changed).encode()).parent)
        assert edits_of(model) == [edit]

    settings = altered(described["edit"]).map(lambda edit: {**described, "edit": edit})
    fuzz(count, settings | altered(described), check)


@inputs
@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_weight_files(tmp_path: Path, form: str, count: int) -> None:
    """Damaged weights are refused, or are tensors still; nothing is run."""
    state, path = {"layer.weight": torch.arange(6.0).view(2, 3), "layer.bias": torch.ones(2)}, tmp_path / "weights"
    torch.save(state, path)
    whole = save(state) if form == "safetensors" else path.read_bytes()
    read = read_safetensors if form == "safetensors" else read_torch_file

    def check(content: bytes) -> None:
        assert all(isinstance(tensor, torch.Tensor) for tensor in read(written(path, content)).values())

    fuzz(count, damaged(whole) | st.binary(max_size=99), check)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def trained() -> tuple[Regression, torch.optim.Optimizer]:
    """A module after one step, so that its optimizer has a state."""
    module = Regression()
    optimizer = build_optimizer(module, 1e-3, 0.1)
    module(next(Rows(4).batches(0)))[0].backward()
    optimizer.step()
    return module, optimizer


@inputs
def test_checkpoint_position(tmp_path: Path, count: int) -> None:
    """trainer.json: what is whole is loaded, and training can go on; what is not is told by `problem_of` alike."""
    module, optimizer = trained()
    path = save_checkpoint(tmp_path, Progress(step=1, best_value=0.5), module, optimizer, keep=1)
    (path / CHECKSUMS_FILE).unlink()  # as older ones are, whose content has to tell
    content = json.loads((path / "trainer.json").read_text())
    content["random"][0]["python"][1] = content["random"][0]["python"][1][:3] + [0] * 622  # short enough to be shown

    def check(changed: bytes) -> None:
        written(path / "trainer.json", changed)
        problem = problem_of(path)
        fresh = Regression()
        anew = build_optimizer(fresh, 1e-3, 0.1)
        progress = load_checkpoint(path, fresh, anew)
        assert problem is None, "loaded, though called damaged"
        assert isinstance(progress.step, int) and math.isfinite(progress.seconds)
        assert [random.gauss(), np.random.normal(), float(torch.rand(1))]  # the generators work as well
        fresh(next(Rows(4).batches(0)))[0].backward()
        anew.step()

    parts = st.sampled_from(sorted(content)).flatmap(
        lambda name: altered(content[name]).map(lambda value: json.dumps({**content, name: value}).encode())
    )
    fuzz(count, json_files(content) | parts, check)


@inputs
def test_checkpoint_optimizer_state(tmp_path: Path, count: int) -> None:
    """Tensors of other names and shapes are refused when they are loaded, not when they are used."""
    module, optimizer = trained()
    path = save_checkpoint(tmp_path, Progress(step=1), module, optimizer, keep=1)
    state = read_safetensors(path / "optimizer.safetensors")
    names = st.sampled_from([*state, "linear.weight", "|", "frozen|exp_avg", "a|b|c", ""])
    shapes = st.sampled_from([(), (1,), (1, 3), (3, 1), (0,)])

    def check(given: dict[str, tuple[int, ...]]) -> None:
        changed = {**state, **{name: torch.zeros(shape) for name, shape in given.items()}}
        written(path / "optimizer.safetensors", save(changed))
        fresh = Regression()
        anew = build_optimizer(fresh, 1e-3, 0.1)
        load_checkpoint(path, fresh, anew)
        fresh(next(Rows(4).batches(0)))[0].backward()
        anew.step()

    fuzz(count, st.dictionaries(names, shapes, max_size=2), check)


@inputs
def test_record_of_the_data(tmp_path: Path, count: int) -> None:
    """data.json: the same, changed, or damaged."""
    found = {"train": {"train.tsv": "3 bytes"}, "valid": {"rows": "2 rows"}}
    record = {"format_version": 1, "data": found}

    def check(content: bytes) -> None:
        written(tmp_path / "data.json", content)
        check_data(tmp_path, found, resumed=True, allow_changes=False)

    fuzz(count, json_files(record), check)


class _Scales(Sandwich):
    """Of a sandwich only what a checkpoint restores."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.scales = (0.25, 0.5)
        self.register_buffer("best_metric", torch.zeros(2, dtype=torch.float64))


@inputs
def test_best_metrics_of_a_schedule(count: int) -> None:
    """The best metric of every scale is a number, a whole one beyond 64 bits too, or the entry is refused."""
    _Scales().load_progress_state({"best_metric": [[0.25, 10**30], [0.5, None]]})
    values = {"best_metric": [[0.25, 0.75], [0.5, None]]}
    fuzz(
        count, altered(values).filter(lambda value: isinstance(value, dict)), lambda v: _Scales().load_progress_state(v)
    )


# --- config.json -----------------------------------------------------------------------------------------------------


@costly_inputs
@pytest.mark.parametrize("family", STACKS)
def test_edits_of_a_config(family: str, count: int) -> None:
    """A structure is built from the entry `compression`, or the entry is refused."""
    with torch.device("meta"):  # as `from_pretrained` does
        plain = tiny_t5() if family == "t5" else BertForMaskedLM(tiny_config())
    stacks = [[edit.to_dict() for edit in stack] for stack in STACKS[family]]
    for stack in stacks:  # unaltered, every one of them is legal
        build_edits(copy.deepcopy(plain), json.loads(json.dumps(stack)))

    def check(entry: Any) -> None:
        with torch.device("meta"):
            build_edits(copy.deepcopy(plain), json.loads(json.dumps(entry)))

    fuzz(count, st.sampled_from(stacks).flatmap(altered) | json_values, check)


@pytest.mark.parametrize("count", [20, pytest.param(1_000, marks=pytest.mark.slow)])
def test_saved_model_with_another_config(tmp_path: Path, count: int) -> None:
    """A directory whose config.json and weights do not agree is refused in one sentence."""
    model = tiny_t5()
    apply_edit(model, LoraConfig(2))
    apply_edit(model, PluginConfig((2, 4), 3))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def check(changed: Any) -> None:
        content = json.dumps({**config, "compression": changed}).encode()
        written(tmp_path / "config.json", content)
        assert edits_of(load_t5(str(tmp_path), None, tokenizer=False).model) is not None

    fuzz(count, altered(config["compression"]), check)
