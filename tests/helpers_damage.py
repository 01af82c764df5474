"""Ways in which the folder of a model is damaged, or is not what it seems: what is done, and what has to be said."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 440473133\n"
)
Damage = Callable[[Path], object]


def copied(source: Path, target: Path, *damages: Damage) -> Path:
    """A copy of a model's folder, damaged."""
    shutil.copytree(source, target)
    for damage in damages:
        damage(target)
    return target


def config(**values: Any) -> Damage:
    """Other values in config.json."""

    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return damage


def tensors(edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    """Other tensors in the weight file."""

    def damage(folder: Path) -> None:
        state = edit(load_file(folder / WEIGHTS))
        save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, folder / WEIGHTS)

    return damage


def as_bin(wrap: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    """The weights as a file of PyTorch, in some wrapping."""

    def damage(folder: Path) -> None:
        torch.save(wrap(load_file(folder / WEIGHTS)), folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()

    return damage


def renamed(name: str) -> Damage:
    """The weights by another name."""
    return lambda folder: (folder / WEIGHTS).rename(folder / name)


def written(name: str, text: str | bytes, instead: str = "") -> Damage:
    """A file of this content, in place of another."""

    def damage(folder: Path) -> None:
        if instead:
            (folder / instead).unlink()
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)

    return damage


def linked(name: str) -> Damage:
    """A link to nothing in place of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("nowhere")

    return damage


def sharded(index: str | None) -> Damage:
    """The weights as two shards, with an index of this content."""

    def damage(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        names = sorted(state)
        for number, part in enumerate((names[::2], names[1::2]), start=1):
            save_file({name: state[name] for name in part}, folder / f"model-0000{number}-of-00002.safetensors")
        (folder / WEIGHTS).unlink()
        if index is not None:
            (folder / f"{WEIGHTS}.index.json").write_text(index)

    return damage


def truncated(folder: Path) -> None:
    """The second half of the weights is missing."""
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size // 2)


def with_nan(value: float) -> Damage:
    """One number of one tensor is none."""

    def edit(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = next(name for name in sorted(state) if name.endswith("wo.weight") or "output.dense.weight" in name)
        state[name].view(-1)[3] = value
        return state

    return tensors(edit)


def _deeper(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One more layer in the weights than the config says."""
    more = {n.replace("layer.0.", "layer.9.").replace("block.0.", "block.9."): t for n, t in state.items()}
    return {**state, **{name: tensor for name, tensor in more.items() if ".9." in name}}


#: What no loader accepts: name -> (what is done, what has to be said).
DAMAGES: Mapping[str, tuple[Damage, str]] = {
    "lfs_safetensors": (
        written(WEIGHTS, POINTER),
        r"model\.safetensors is a Git LFS pointer of \d+ bytes.*git lfs pull",
    ),
    "lfs_bin": (written("pytorch_model.bin", POINTER, WEIGHTS), r"pytorch_model\.bin is a Git LFS pointer"),
    "lfs_config": (written("config.json", POINTER), r"config\.json is a Git LFS pointer"),
    "web_page": (written(WEIGHTS, "<!DOCTYPE html><title>404</title>"), r"model\.safetensors is a web page"),
    "empty": (written(WEIGHTS, ""), r"model\.safetensors is empty|not a whole safetensors file"),
    "truncated": (truncated, r"is not a whole safetensors file"),
    "text_as_bin": (written("pytorch_model.bin", "404 not found", WEIGHTS), r"pytorch_model\.bin is damaged|No model"),
    "tensorflow": (renamed("tf_model.h5"), r"no weights that can be read .* but tf_model\.h5"),
    "flax": (renamed("flax_model.msgpack"), r"no weights that can be read .* but flax_model\.msgpack"),
    "tf1": (renamed("bert_model.ckpt.data-00000-of-00001"), r"no weights that can be read"),
    "variant": (
        renamed("model.fp16.safetensors"),
        r"but model\.fp16\.safetensors: .* call the file model\.safetensors",
    ),
    "other_name": (renamed("pytorch_model.safetensors"), r"but pytorch_model\.safetensors"),
    "gguf": (renamed("model-q4.gguf"), r"but model-q4\.gguf"),
    "link": (linked(WEIGHTS), r"model\.safetensors is a link to nowhere, which does not exist"),
    "link_bin": (lambda p: (renamed("x.txt")(p), linked("pytorch_model.bin")(p)), r"bin is a link to nowhere"),
    "no_index": (sharded(None), r"has 2 shards .* without model\.safetensors\.index\.json"),
    "no_weight_map": (sharded("{}"), r"index\.json has no 'weight_map'"),
    "weight_map_list": (sharded('{"weight_map": ["a"]}'), r"has no 'weight_map'"),
    "lost_shard": (
        sharded('{"weight_map": {"a": "model-00003-of-00003.safetensors"}}'),
        r"names model-00003.* not there",
    ),
    "shard_elsewhere": (sharded('{"weight_map": {"a": "../x.safetensors"}}'), r"which is no file beside it"),
    "damaged_index": (sharded("{"), r"index\.json, line 1: not valid JSON"),
    "no_config": (
        lambda p: (p / "config.json").unlink(),
        r"no config\.json|without config\.json|no file .*config\.json",
    ),
    "config_json": (written("config.json", '{"a": '), r"config\.json, line 1: not valid JSON"),
    "config_list": (written("config.json", "[1]"), r"expected a JSON object, found list"),
    "unknown_family": (config(model_type="mystery"), r"mystery|No model could be loaded|is a model of family"),
    "bitsandbytes": (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
        r"quantised with bitsandbytes",
    ),
    "gptq": (config(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised with gptq"),
    "vocab_size": (config(vocab_size=10**13), r"vocab_size is 10000000000000, expected"),
    "text_size": (config(vocab_size="137"), r"vocab_size is '137', expected a whole number"),
    "no_size": (config(vocab_size=0), r"vocab_size is 0, expected"),
    "other_size": (config(vocab_size=99), r"other shapes than its config\.json says|has another shape"),
    "missing": (tensors(lambda s: {n: t for n, t in s.items() if ".1." not in n}), r"lacks \d+ tensors of the model"),
    "superfluous": (tensors(_deeper), r"has \d+ tensors that the model in its config\.json has no place for"),
    "nan": (with_nan(float("nan")), r"holds 1 of \d+ values that are no finite numbers"),
    "infinity": (with_nan(float("inf")), r"holds 1 of \d+ values that are no finite numbers"),
    "module": (as_bin(lambda s: {f"module.{n}": t for n, t in s.items()}), r"take 'module\.' off all names"),
    "compiled": (as_bin(lambda s: {f"_orig_mod.{n}": t for n, t in s.items()}), r"take '_orig_mod\.' off all names"),
    "model": (tensors(lambda s: {f"model.{n}": t for n, t in s.items()}), r"take 'model\.' off all names"),
    "state_dict": (as_bin(lambda s: {"state_dict": s, "epoch": 3}), r"save what stands under 'state_dict' alone"),
    "wrapped": (as_bin(lambda s: {"model": s}), r"save what stands under 'model' alone"),
    "list": (as_bin(lambda s: list(s.values())), r"No model could be loaded|is no state dict"),
}
#: The same for BERTs alone.
BERT_DAMAGES: Mapping[str, tuple[Damage, str]] = {
    "relative_key": (config(position_embedding_type="relative_key"), r"position_embedding_type 'relative_key' is not"),
    "relative_query": (config(position_embedding_type="relative_key_query"), r"'relative_key_query' is not supported"),
    "pruned_heads": (config(pruned_heads={"0": [1]}), r"pruned_heads is not supported"),
    "decoder": (config(is_decoder=True), r"is_decoder is true"),
    "no_heads": (config(num_attention_heads=0), r"num_attention_heads is 0, expected a whole number from 1"),
    "five_heads": (config(num_attention_heads=5), r"not a multiple of the number of attention heads"),
    "no_layers": (config(num_hidden_layers=0), r"num_hidden_layers is 0, expected"),
    "many_layers": (config(num_hidden_layers=10**9), r"num_hidden_layers is 1000000000, expected"),
    "activation": (config(hidden_act="swishy"), r"No model could be loaded .*swishy"),
}
