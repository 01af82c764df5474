"""Folders that were made to do harm: one value of one file is not what it must be, or the weights are not a model's."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import random
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from dataset import get_task
from model import DecompositionConfig, LayerDropConfig, LoraConfig, PluginConfig, apply_edit, edits_of
from model.compression import EditConfig
from model.decomposition.embeddings import EmbeddingConfig
from model.delta import load_delta, save_delta
from model.plugin.published import load_published_plugin, save_published_plugin
from serving.arguments import ServingArguments
from serving.loading import load_predictor
from tests.helpers_damage import WEIGHTS, Damage, as_bin, config, copied, tensors
from tests.helpers_fuzz import CLEAN, ends
from tests.helpers_hostile import cases
from tests.test_opening import save_classifier
from tests.tiny import Tiny
from utils.convert_t5 import to_model_center
from utils.errors import UserError, one_line, refusal_of
from utils.loading import load_t5
from utils.opening.tokenizers import open_tokenizer
from utils.plan.files import depth_in
from utils.plan.offers import origin_of, teacher_of
from utils.plan.points import find_points
from utils.tucker.loading import load_classifier

pytestmark = pytest.mark.usefixtures("single_thread")
SST2 = get_task("sst2")
IDS = torch.tensor([[2, 5, 3]])
#: What the reader of a folder of a few kilobytes may take beyond what the process has.
MEMORY_BYTES = 2 << 30
#: Cases of each file in every run of the tests; the slow ones try all.
FEW = 12


class Target(NamedTuple):
    """A file of a folder, how the folder is opened and used, and keys that the file might have as well."""

    folder: Path
    file: str
    use: Callable[[Path], object]
    more: tuple[str, ...] = ()


def use_bert(folder: Path) -> None:
    """Classify a row."""
    load_classifier(str(folder), SST2, trained=True).eval()(input_ids=IDS)


def use_t5(folder: Path) -> None:
    """Answer a row."""
    load_t5(str(folder), None, tokenizer=False).model.eval()(input_ids=IDS, decoder_input_ids=IDS)


def use_tokenizer(folder: Path) -> None:
    """Encode rows that are cut and padded."""
    tokenizer = open_tokenizer(folder)
    for options in ({}, {"truncation": True, "max_length": 8, "padding": True}):
        rows = tokenizer(["a good film", "b"], ["it is", "x"], **options)["input_ids"]
        assert all(isinstance(number, int) for row in rows for number in row)


def serve(folder: Path) -> None:
    """Load it as the server does."""
    load_predictor(ServingArguments(model=folder, device="cpu"))


def plan(folder: Path) -> None:
    """What the choice by budget reads of it before a model is loaded."""
    for point in find_points([str(folder)]):
        origin_of(point)
        depth_in(point.source.directory)
    teacher_of(find_points([str(folder)]))


def with_edits(source: Path, target: Path, family: str, *edits: EditConfig) -> Path:
    """A compressed model."""
    is_t5 = family == "t5"
    model = load_t5(str(source), None, tokenizer=False).model if is_t5 else load_classifier(str(source), SST2, True)
    for edit in edits:
        apply_edit(model, edit)
    model.save_pretrained(target)
    return target


def delta(source: Path, target: Path, edit: EditConfig) -> Target:
    """A saved delta, put onto the model that it was made for."""
    plain = load_t5(str(source), None, tokenizer=False).model
    model = copy.deepcopy(plain)
    apply_edit(model, edit)
    target.mkdir()
    save_delta(model, edit.kind, target, {"step": 3})

    def use(folder: Path) -> None:
        fresh = copy.deepcopy(plain)
        load_delta(fresh, edit.kind, folder)
        fresh.eval()(input_ids=IDS, decoder_input_ids=IDS)

    return Target(target, next(target.glob("*.json")).name, use)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of SST-2."""
    return save_classifier(tmp_path_factory.mktemp("bert") / "bert", SST2.labels)


_CONFIG_KEYS = (
    *("num_labels", "compression", "auto_map", "chunk_size_feed_forward", "output_hidden_states", "return_dict"),
    *("dtype", "attn_implementation", "quantization_config", "is_encoder_decoder", "add_cross_attention"),
    *("load_compressed_model", "dim_model", "per_layer_config", "layer_types", "rank_layer", "tie_word_embeddings"),
)
_TOKENIZER_KEYS = (
    *("model_max_length", "padding_side", "truncation_side", "tokenizer_class", "chat_template", "auto_map"),
    *("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "do_lower_case", "unk_token"),
    *("backend", "model_input_names", "never_split", "split_special_tokens", "add_prefix_space", "legacy"),
)


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path, bert: Path, tiny: Tiny) -> Target:
    """By its name."""
    folder = tmp_path / "model"
    match request.param:
        case "bert":
            return Target(copied(bert, folder), "config.json", use_bert, _CONFIG_KEYS)
        case "t5":
            return Target(copied(tiny.model, folder), "config.json", use_t5, _CONFIG_KEYS)
        case "generation":
            return Target(copied(tiny.model, folder), "generation_config.json", use_t5, ("max_length", "num_beams"))
        case "t5 with edits":
            edits = (LayerDropConfig((1,)), LoraConfig(2), PluginConfig((2, 4), 3))
            return Target(with_edits(tiny.model, folder, "t5", *edits), "config.json", use_t5)
        case "bert with edits":
            decomposed = (DecompositionConfig("IV", "san_ffn", 2, 8, 8), EmbeddingConfig("tt", 3, 2))
            return Target(with_edits(bert, folder, "bert", *decomposed), "config.json", use_bert)
        case "modelcenter":
            to_model_center(tiny.model, folder)
            return Target(folder, "config.json", use_t5)
        case "index":
            load_classifier(str(bert), SST2, trained=True).save_pretrained(folder, max_shard_size="20KB")
            return Target(folder, "model.safetensors.index.json", use_bert)
        case "word pieces":
            return Target(copied(bert, folder), "tokenizer.json", use_tokenizer)
        case "unigrams":
            return Target(copied(tiny.model, folder), "tokenizer.json", use_tokenizer)
        case "settings":
            return Target(copied(bert, folder), "tokenizer_config.json", use_tokenizer, _TOKENIZER_KEYS)
        case "special tokens":
            values = {"unk_token": {"content": "[UNK]", "lstrip": False}, "additional_special_tokens": ["[PAD]"]}
            (copied(bert, folder) / "special_tokens_map.json").write_text(json.dumps(values))
            return Target(folder, "special_tokens_map.json", use_tokenizer, ("pad_token", "eos_token"))
        case "task":
            task_file = {"dataset": "sst2", "decoder_start": 0, "logit_scale": "original"}
            (copied(tiny.model, folder) / "task.json").write_text(json.dumps(task_file))
            return Target(folder, "task.json", serve)
        case "run":
            run_file = {"arguments": {"task_name": "sst2", "max_seq_length": 32, "do_lower_case": True}}
            (copied(bert, folder) / "arguments.json").write_text(json.dumps(run_file))
            return Target(folder, "arguments.json", serve)
        case "plan":
            decomposed = (DecompositionConfig("IV", "san_ffn", 2, 8, 8), EmbeddingConfig("tt", 3, 2))
            return Target(with_edits(bert, folder, "bert", *decomposed), "config.json", plan, ("num_labels",))
        case "plan of a run":
            flags = {"task_name": "sst2", "data_dir": "x", "teacher_model": "y", "checkpoint": "z", "stage": "x"}
            (copied(bert, folder) / "arguments.json").write_text(json.dumps({"arguments": flags}))
            return Target(folder, "arguments.json", plan)
        case "plugin":
            return delta(tiny.model, folder, PluginConfig((4,), 3, tasks=("a",)))
        case _:
            return delta(tiny.model, folder, LoraConfig(2))


every_file = pytest.mark.parametrize(
    "target",
    [
        *("bert", "t5", "generation", "t5 with edits", "bert with edits", "modelcenter", "index", "word pieces"),
        *("unigrams", "settings", "special tokens", "task", "run", "plan", "plan of a run", "plugin", "lora"),
    ],
    indirect=True,
)


def contents(target: Target) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Every value of the target's file in turn with every odd one in its place."""
    found = json.loads((target.folder / target.file).read_text())
    yield from cases({**dict.fromkeys(target.more), **found}, set(target.more) - set(found))


def meets(target: Target, name: str, content: Callable[[], bytes]) -> None:
    """It is used, or refused in one sentence."""
    (target.folder / target.file).write_bytes(content())
    try:
        with ends():
            target.use(target.folder)
    except CLEAN as error:
        said = one_line(str(error))
        assert said.strip() and "\n" not in said and len(said) < 2_100, f"{name}: {said[:200]!r}"
    except BaseException as error:
        if refusal_of(error) is not None:  # told in the same way by every script
            return
        raise AssertionError(f"{target.file}, {name}: {type(error).__name__}: {str(error)[:200]}") from error


@every_file
def test_any_value_is_taken_or_refused(target: Target) -> None:
    """A sample of what the slow test tries."""
    target.use(target.folder)  # as it is
    found = list(contents(target))
    for name, content in random.Random(0).sample(found, min(FEW, len(found))):
        meets(target, name, content)


@pytest.mark.slow
@every_file
def test_every_value_is_taken_or_refused(target: Target, tmp_path: Path) -> None:
    """In place of every value of every file; within the memory that a process may be given."""
    target.use(target.folder)
    report = tmp_path / "report"

    def run() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        problems = []
        for name, content in contents(target):
            try:
                meets(target, name, content)
            except AssertionError as error:
                problems.append(str(error))
        report.write_text("\n".join(problems))

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == 0, "the process was lost"
    assert not report.read_text(), report.read_text()


# --- sizes, against the bytes that are there -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 10**6, "num_attention_heads": 1},
        {"vocab_size": 10**8},
        {"max_position_embeddings": 10**8},
        {"intermediate_size": 10**6},
        {"num_hidden_layers": 1000},
        {"num_labels": 10**9},
        {"num_labels": 10**5 + 1},
    ],
    ids=str,
)
def test_a_config_that_promises_more_than_its_weights_have(bert: Path, tmp_path: Path, values: Any) -> None:
    """It is refused by the numbers of both, before anything of that size is made."""
    folder = copied(bert, tmp_path / "model", config(**values))
    with pytest.raises(UserError, match=r"config\.json.*(numbers, and its weights have|layers, and|expected a whole)"):
        use_bert(folder)


@pytest.mark.parametrize(
    "values", [{"rank_dim": 10**6}, {"rank_layer": 10**5, "rank_condim": 10**5}], ids=["one rank", "two ranks"]
)
def test_ranks_beyond_the_weights(bert: Path, tmp_path: Path, values: Any) -> None:
    """The same for what edits are made of."""
    edit = DecompositionConfig("IV", "san_ffn", 2, 8, 8)
    folder = with_edits(bert, tmp_path / "model", "bert", edit)
    config(compression=[{**edit.to_dict(), **values}])(folder)
    with pytest.raises(CLEAN, match=r"numbers, with its edits|rank"):
        use_bert(folder)


def test_a_file_of_a_gigabyte_is_not_read(bert: Path, tmp_path: Path) -> None:
    """Nor its holes: the length decides."""
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        folder = copied(bert, tmp_path / file)
        with (folder / file).open("r+b") as opened:
            opened.truncate(1 << 30)
        with pytest.raises(CLEAN, match=rf"{file} has 1,073,741,824 bytes, expected at most"):
            (use_bert if file == "config.json" else use_tokenizer)(folder)


# --- weights ---------------------------------------------------------------------------------------------------------


def named(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    """One tensor changed, and saved with its type."""
    return tensors(lambda state: {**state, name: make(state[name])})


_TENSOR = "bert.encoder.layer.0.output.dense.weight"


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_numbers_that_are_none_of_a_model(bert: Path, tmp_path: Path, form: str, dtype: torch.dtype) -> None:
    """Integers, complex numbers and those of eight bits are not read as floats."""
    damages = [named(_TENSOR, lambda tensor: tensor.to(dtype)), *([as_bin(dict)] if form == "bin" else [])]
    with pytest.raises(CLEAN, match=rf"{_TENSOR} holds numbers of the type"):
        use_bert(copied(bert, tmp_path / "model", *damages))


@pytest.mark.parametrize(
    "name", ["extra.weight", "bert.encoder.layer.9.output.dense.weight", "bert.adapter.weight", "x"]
)
def test_tensors_that_no_module_takes(bert: Path, tmp_path: Path, name: str) -> None:
    """They are refused by name; heads of pre-training and positions that old libraries saved are not."""
    extra = tensors(lambda state: {**state, name: torch.ones(2)})
    with pytest.raises(UserError, match=rf"has 1 tensors .* no place for, {name}"):
        use_bert(copied(bert, tmp_path / "model", extra))
    known = {"cls.predictions.bias": torch.ones(3), "bert.embeddings.position_ids": torch.arange(9)[None]}
    use_bert(copied(bert, tmp_path / "known", tensors(lambda state: {**state, **known})))


def test_a_pytorch_file_is_no_larger_than_its_bytes(bert: Path, tmp_path: Path) -> None:
    """One number that stands for a million, tensors that are mostly not there, and what is compressed are refused."""
    wide = as_bin(lambda state: {**state, _TENSOR: torch.ones(1).expand(10**8)})
    with pytest.raises(CLEAN, match="is said to have 400,000,000 bytes, and the file has"):
        use_bert(copied(bert, tmp_path / "wide", wide))
    sparse = as_bin(lambda state: {**state, _TENSOR: torch.zeros(8, 8).to_sparse()})
    with pytest.raises(CLEAN, match="is a sparse or quantised tensor"):
        use_bert(copied(bert, tmp_path / "sparse", sparse))
    folder = copied(bert, tmp_path / "packed", as_bin(dict))
    whole = folder / "pytorch_model.bin"
    with zipfile.ZipFile(whole) as before:
        parts = {entry.filename: before.read(entry) for entry in before.infolist()}
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as after:
        for name, content in parts.items():
            after.writestr(name, content)
    with pytest.raises(CLEAN, match="is compressed"):
        use_bert(folder)


def test_a_header_that_promises_more(bert: Path, tmp_path: Path) -> None:
    """safetensors' own header: its length, and tensors beyond the end of the file."""
    folder = copied(bert, tmp_path / "model")
    for content in (
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,9]}}',
    ):
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(CLEAN):
            use_bert(folder)


def test_a_pipe_in_place_of_a_file(bert: Path, tmp_path: Path) -> None:
    """Opening one would wait for ever."""
    for file in ("config.json", WEIGHTS, "tokenizer.json"):
        folder = copied(bert, tmp_path / file)
        (folder / file).unlink()
        os.mkfifo(folder / file)
        with ends(), pytest.raises(CLEAN):
            (use_tokenizer if file == "tokenizer.json" else use_bert)(folder)


# --- plugins and LoRA ------------------------------------------------------------------------------------------------


def put(source: Path, folder: Path, make: Callable[[dict[str, Any]], dict[str, Any]], **described: Any) -> None:
    """A plugin with other tensors and another description, onto the model that it was made for."""
    target = delta(source, folder, PluginConfig((4,), 3))
    (folder / "plugin-k4.safetensors").rename(folder / WEIGHTS)
    tensors(make)(folder)
    (folder / WEIGHTS).rename(folder / "plugin-k4.safetensors")
    content = json.loads((folder / target.file).read_text())
    content["edit"] |= described
    (folder / target.file).write_text(json.dumps(content))
    target.use(folder)


HOSTILE_PLUGINS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "integers": (lambda t: t.to(torch.int8), "holds numbers of the type int8"),
    "complex": (lambda t: t.to(torch.complex64), "holds numbers of the type complex64"),
    "eight bits": (lambda t: t.to(torch.float8_e4m3fn), "holds numbers of the type float8_e4m3fn"),
    "NaN": (lambda t: t / 0 * 0, "no finite numbers"),
    "a number": (lambda t: t.flatten()[0], r"has shape \(\), the model needs"),
    "nothing": (lambda t: t[:0], r"has shape \(0"),
}


@pytest.mark.parametrize("kind", HOSTILE_PLUGINS)
def test_tensors_that_are_no_plugin(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    """Each is told by its name and what it is."""
    make, said = HOSTILE_PLUGINS[kind]
    with pytest.raises(CLEAN, match=said):
        put(tiny.model, tmp_path / "plugin", lambda state: {name: make(tensor) for name, tensor in state.items()})


@pytest.mark.parametrize(
    "described",
    [{"bottleneck": 2**20}, {"ratios": [2**20]}, {"ratios": list(range(2, 1025))}],
    ids=["wide", "long", "many"],
)
def test_a_plugin_that_promises_more_than_its_file_has(tiny: Tiny, tmp_path: Path, described: Any) -> None:
    """It is refused before memory is asked for: all of these would take gigabytes."""
    with pytest.raises(CLEAN, match=r"has shape|do not fit|is described as 1023 parts"):
        put(tiny.model, tmp_path / "plugin", lambda state: state, **described)


def test_a_refused_plugin_leaves_the_model_as_it_was(tiny: Tiny, tmp_path: Path) -> None:
    """Nothing hangs in it, and another can be put onto it."""
    model = load_t5(str(tiny.model), None, tokenizer=False).model
    good = delta(tiny.model, tmp_path / "good", PluginConfig((4,), 3)).folder
    bad = copied(good, tmp_path / "bad")
    (bad / "plugin-k4.safetensors").rename(bad / WEIGHTS)
    tensors(lambda state: {name: tensor[:1] for name, tensor in state.items()})(bad)
    (bad / WEIGHTS).rename(bad / "plugin-k4.safetensors")
    before = model.state_dict().keys()
    with pytest.raises(CLEAN):
        load_delta(model, "plugin", bad)
    assert model.state_dict().keys() == before and not edits_of(model)
    load_delta(model, "plugin", good)
    assert edits_of(model)


@pytest.mark.parametrize("how", ["number", "vector", "no ratio", "half missing", "integers"])
def test_published_files_that_are_no_plugin(tiny: Tiny, tmp_path: Path, how: str) -> None:
    """The original's format: tensors of any shape under the right names."""
    model = load_t5(str(tiny.model), None, tokenizer=False).model
    whole = copy.deepcopy(model)
    apply_edit(whole, PluginConfig((4,), 3, 100.0))
    path = tmp_path / "plugin.pkl"
    save_published_plugin(whole, 4, path)
    state = torch.load(path, weights_only=True)
    make: dict[str, Callable[[str, torch.Tensor], torch.Tensor]] = {
        "number": lambda name, t: t.flatten()[0],
        "vector": lambda name, t: t.flatten(),
        "no ratio": lambda name, t: t[:0],
        "half missing": lambda name, t: t[:1] if "w_in" in name else t,
        "integers": lambda name, t: t.to(torch.int8),
    }
    torch.save({name: make[how](name, tensor) for name, tensor in state.items()}, path)
    with pytest.raises(CLEAN):
        load_published_plugin(model, path)
    assert not edits_of(model)
