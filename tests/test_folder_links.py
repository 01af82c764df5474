"""A model's folder leads nowhere else: neither by links nor by names in its files; a cache of the hub still does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModel

from dataset import get_task
from model import LoraConfig, PluginConfig, apply_edit
from model.decomposition import load_original
from model.delta import load_delta, save_delta
from model.errors import ModelError
from model.pretrained import open_pretrained
from tests.helpers_damage import WEIGHTS, Damage, as_bin, config, copied, sharded
from tests.tiny import Tiny
from tests.tiny_bert import save_bert
from utils import quantize
from utils.errors import user_errors
from utils.loading import load_t5
from utils.opening.tokenizers import open_tokenizer
from utils.tucker.loading import load_classifier

pytestmark = pytest.mark.usefixtures("one_thread")
SST2 = get_task("sst2")
#: Who opens a BERT: the scripts, the tools, and what a user's own program calls.
OPENERS: dict[str, Callable[[Path], Any]] = {
    "scripts": lambda p: load_classifier(str(p), SST2, trained=False),
    "tools": lambda p: quantize.main(["--model", str(p), "--output", f"{p}-int8"]),
    "library": lambda p: open_pretrained(AutoModel, p),
    "originals": lambda p: load_original(p, AutoModel),
    "tokenizer": open_tokenizer,
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained BERT."""
    return save_bert(tmp_path_factory.mktemp("bert") / "bert")


def refused(folder: Path, said: str, openers: dict[str, Callable[[Path], Any]] = OPENERS) -> None:
    """By each, in one sentence."""
    for open_it in openers.values():
        with pytest.raises(user_errors(), match=said) as error:
            open_it(folder)
        assert "\n" not in str(error.value)


def moved_out(name: str) -> Damage:
    """A file lies beside the folder, with a link to it in its place."""

    def damage(folder: Path) -> None:
        outside = folder.parent / "outside" / name
        outside.parent.mkdir(exist_ok=True)
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return damage


@pytest.mark.parametrize(
    "shard",
    ["../x.safetensors", "/etc/passwd", "a/../../x.safetensors", "./x.safetensors", "..", 3, "", None, ["x"]],
)
@pytest.mark.parametrize("ending", [WEIGHTS, "pytorch_model.bin"])
def test_an_index_names_files_beside_it(bert: Path, tmp_path: Path, shard: object, ending: str) -> None:
    """Any other is refused before it is opened, though other weights would be read first."""
    folder = copied(bert, tmp_path / "model")
    (folder / f"{ending}.index.json").write_text(json.dumps({"weight_map": {"a": "x", "b": shard}}))
    refused(folder, r"index\.json names '?.*'?, which is no file beside it")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS])
def test_a_link_out_of_the_folder_is_not_read(bert: Path, tmp_path: Path, name: str) -> None:
    """Whatever file it is: what a link leads to would be published with what is saved."""
    refused(copied(bert, tmp_path / "model", moved_out(name)), rf"{name} is a link out of its folder, to .*outside")


def test_shards_and_pickles_are_no_links_either(bert: Path, tmp_path: Path) -> None:
    """Nor is a way out in two steps, a circle, or a folder of templates."""
    shards = copied(bert, tmp_path / "shards", sharded('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'))
    moved_out("model-00001-of-00002.safetensors")(shards)
    refused(shards, r"00001-of-00002\.safetensors is a link out of its folder")
    pickled = copied(bert, tmp_path / "pickled", as_bin(lambda state: state), moved_out("pytorch_model.bin"))
    refused(pickled, r"pytorch_model\.bin is a link out of its folder")
    (tmp_path / "secret").write_text("a\nb\n")
    steps = copied(bert, tmp_path / "steps")
    (steps / "vocab.txt").symlink_to("other.txt")
    (steps / "other.txt").symlink_to("../secret")
    refused(steps, r"txt is a link out of its folder")
    circle = copied(bert, tmp_path / "circle")
    (circle / "merges.txt").symlink_to("merges.txt")
    refused(circle, r"merges\.txt is a link out of its folder")
    templates = copied(bert, tmp_path / "templates")
    (templates / "additional_chat_templates").mkdir()
    (templates / "additional_chat_templates" / "a.jinja").symlink_to(tmp_path / "secret")
    refused(templates, r"a\.jinja is a link out of its folder")
    shutil.rmtree(templates / "additional_chat_templates")
    (templates / "additional_chat_templates").symlink_to(tmp_path)
    refused(templates, r"additional_chat_templates is a link out of its folder")


def test_links_inside_of_a_folder_are_followed(bert: Path, tmp_path: Path) -> None:
    """And the folder itself may be reached by one, as may be what no reader opens."""
    folder = copied(bert, tmp_path / "model")
    (folder / "files").mkdir()
    for name in (WEIGHTS, "config.json", "tokenizer.json"):
        (folder / name).rename(folder / "files" / name)
        (folder / name).symlink_to(Path("files") / name)
    (folder / "log").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    for place in (folder, tmp_path / "link"):
        load_classifier(str(place), SST2, trained=False)
        open_tokenizer(place)


@pytest.mark.parametrize("shared", [False, True])
def test_a_cache_of_the_hub_is_opened(bert: Path, tmp_path: Path, shared: bool) -> None:
    """A snapshot is links to blobs of its repository, and those may be links to blobs of all; no further."""
    repository = tmp_path / "hub" / "models--somebody--bert"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    store = tmp_path / "hub" / "blobs" / "ab"
    for folder in (snapshot, blobs, store):
        folder.mkdir(parents=True)
    for number, file in enumerate(sorted(bert.iterdir())):
        if shared:
            shutil.copyfile(file, store / f"ab{number}")
            (blobs / str(number)).symlink_to(f"../../blobs/ab/ab{number}")
        else:
            shutil.copyfile(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    load_classifier(str(snapshot), SST2, trained=False)
    open_tokenizer(snapshot)
    (tmp_path / "secret").write_text("{}")
    (blobs / "secret").symlink_to(tmp_path / "secret")
    (snapshot / "special_tokens_map.json").symlink_to("../../blobs/secret")
    refused(snapshot, r"special_tokens_map\.json is a link out of its folder")
    (snapshot / "special_tokens_map.json").unlink()
    if not shared:
        blobs.rename(tmp_path / "private")
        blobs.symlink_to(tmp_path / "private")
        refused(snapshot, r"is a link out of its folder")


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("tokenizer_config.json", "vocab_file", "/etc/passwd"),
        ("tokenizer_config.json", "merges_file", "../secret"),
        ("tokenizer_config.json", "merges_file", ".env"),  # of the folder that the command is called in
        ("tokenizer_config.json", "spm_file", ["/etc/passwd"]),
        ("tokenizer_config.json", "fast_tokenizer_files", ["../tokenizer.4.0.json"]),
        ("tokenizer_config.json", "fast_tokenizer_files", [3]),
        ("special_tokens_map.json", "vocab_file", "/etc/passwd"),
        ("special_tokens_map.json", "tokenizer_file", "../../tokenizer.json"),
    ],
)
def test_a_tokenizers_settings_name_no_files_elsewhere(
    bert: Path, tmp_path: Path, file: str, key: str, value: object
) -> None:
    """They would be opened as they stand there."""
    folder = copied(bert, tmp_path / "model")
    values = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    (folder / file).write_text(json.dumps({**values, key: value}))
    refused(folder, rf"{file}: {key} names ")


def test_what_old_libraries_wrote_into_settings_is_fine(bert: Path, tmp_path: Path) -> None:
    """Where the files lay on the machine of whoever saved them: none of it is opened."""
    folder = copied(bert, tmp_path / "model")
    old = {"special_tokens_map_file": "/etc/passwd", "tokenizer_file": "/etc/passwd", "vocab_file": None}
    settings = {**json.loads((folder / "tokenizer_config.json").read_text()), **old, "merges_file": "merges.txt"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert open_tokenizer(folder).tokenize("good") == ["good"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("transformers_weights", "other.safetensors"),
        ("configuration_files", ["config.4.0.json", "config./../../x.json"]),
    ],
)
def test_a_config_names_no_files_to_read_in_its_place(bert: Path, tmp_path: Path, key: str, value: object) -> None:
    """Nothing of them would have been looked at."""
    refused(copied(bert, tmp_path / "model", config(**{key: value})), rf"config\.json: {key} names other files")


def test_an_adapter_beside_a_model_is_refused(bert: Path, tmp_path: Path) -> None:
    """With PEFT installed it would be loaded with it, from wherever it says, and without it would be left out."""
    folder = copied(bert, tmp_path / "model")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    refused(folder, "holds an adapter of PEFT beside a model")


@pytest.mark.parametrize("kind", ["lora", "plugin"])
@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_plugins_and_lora_stay_in_their_folder(tiny: Tiny, tmp_path: Path, kind: str, ending: str) -> None:
    """The same holds for what is saved without the backbone."""
    model = load_t5(str(tiny.model), None).model
    apply_edit(model, LoraConfig(rank=2) if kind == "lora" else PluginConfig(ratios=(2,)))
    folder = tmp_path / "delta"
    folder.mkdir()
    save_delta(model, kind, folder)
    load_delta(model, kind, folder)
    moved_out(next(folder.glob(f"*.{ending}")).name)(folder)
    with pytest.raises(ModelError, match="is a link out of its folder"):
        load_delta(model, kind, folder)
