"""What a model's folder makes its readers open: files of its own, and none that they lead to elsewhere.

A folder that was cloned or copied from somebody may hold links and names that lead anywhere on this machine. What is
read as a vocabulary or a config ends up in what is saved from it, so that a private file would be published.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model.errors import ModelError
from model.weights import read_json

CONFIG = "config.json"
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
#: Endings of files that some reader opens by their names.
_READ = (".json", ".txt", ".model", ".jinja", ".safetensors", ".bin", ".pt", ".pkl")
_LONGEST_NAME_BYTES = 255
_ADAPTER = "adapter_config.json"
_TEMPLATES = "additional_chat_templates"
_TOKENIZER = "tokenizer_config.json"
_SPECIAL = "special_tokens_map.json"
#: Names by which a tokenizer's settings may call its files; whatever else they name is opened as it stands there.
_USUAL = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model")
#: Where files lay on the machine that saved a tokenizer. Old libraries wrote these, and none opens them.
_OLD_PLACES = ("special_tokens_map_file", "tokenizer_file")
#: Keys of config.json that name files to read in place of those by the usual names, which were looked at.
_OTHERS = ("configuration_files", "transformers_weights")


def check_folder(directory: str | Path) -> None:
    """Refuse a folder that leads out of itself, before anything in it but JSON is read.

    A link may lead to a file of the same folder, and in a cache of the Hugging Face hub to its blobs.

    Raises:
        ModelError: with the link, or the file that names another one; or JSON that was looked into is damaged.
    """
    root = Path(directory)
    if (root / _ADAPTER).exists() and (root / CONFIG).exists():  # with PEFT installed Transformers would load both
        raise ModelError(f"{root} holds an adapter of PEFT beside a model: merge it into its model and save that.")
    for path in _links(root):
        check_link(path, root)
    for name in INDICES:
        if (root / name).is_file():
            _check_shards(root / name)
    for name in (_TOKENIZER, _SPECIAL):
        if (root / name).is_file():
            _check_named(read_json(root / name), root / name)


def check_link(path: Path, root: Path) -> None:
    """Refuse a file in the folder `root` that is a link out of it.

    Raises:
        ModelError: it is one; where it leads, and what to do.
    """
    if not path.is_symlink():
        return
    try:
        target = path.resolve()
        if any(target.is_relative_to(place) for place in _places(root.resolve())):
            return
    except (OSError, RuntimeError):  # links in a circle
        pass
    raise ModelError(
        f"{path} is a link out of its folder, to {os.readlink(path)}: such a file is not read; put a copy of it there, "
        "if it belongs to the model."
    )


def check_config_files(values: Mapping[str, Any], path: Path | str) -> None:
    """Refuse a config that has other files read in place of those that are looked at.

    Raises:
        ModelError: with the key.
    """
    for key in _OTHERS:
        if values.get(key) is not None:
            raise ModelError(
                f"{path}: {key} names other files to read; give them the usual names ({CONFIG}, model.safetensors), "
                "and take this line out."
            )


def _links(root: Path) -> Iterator[Path]:
    for folder in (root, root / _TEMPLATES):
        if folder.is_symlink() and folder != root:
            yield folder
        elif folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.is_symlink() and path.name.lower().endswith(_READ):
                    yield path


def _places(root: Path) -> Iterator[Path]:
    """Where links of a folder may lead, all without links in their own paths.

    A cache of the hub is CACHE/models--A--B/snapshots/REVISION/FILE, with links to models--A--B/blobs/HASH, and from
    there, since huggingface_hub 2, to CACHE/blobs/HA/HASH.
    """
    yield root
    for folder in root.parents:
        if folder.name == "snapshots":
            yield folder.parent / "blobs"
            if folder.parent.name.startswith("models--"):
                yield folder.parent.parent / "blobs"
            return


def _is_name(value: object) -> bool:
    """Whether a value is the name of a file in the same folder, and no path; a file's name can be printed."""
    if not isinstance(value, str) or not value.isprintable() or len(value.encode()) > _LONGEST_NAME_BYTES:
        return False
    return value not in ("", "..") and Path(value).name == value


def _check_shards(index: Path) -> None:
    weight_map = read_json(index).get("weight_map")
    shards = list(weight_map.values()) if isinstance(weight_map, dict) else []  # which is told by who reads it
    if wrong := [shard for shard in shards if not _is_name(shard)]:
        raise ModelError(f"{index} names {wrong[0]!r}, which is no file beside it.")
    for name in dict.fromkeys(shards):
        check_link(index.parent / name, index.parent)


def _check_named(settings: Mapping[str, Any], path: Path) -> None:
    """Refuse a tokenizer's settings that name files elsewhere, or any by a name that is not usual."""
    for key, value in settings.items():
        if key == "fast_tokenizer_files":
            names = value if isinstance(value, list) else [value]
            wrong = [name for name in names if not _is_name(name)]
        elif not key.endswith("_file") or (key in _OLD_PLACES and path.name == _TOKENIZER):
            continue
        else:
            wrong = [value] if value not in (None, *_USUAL) else []
        if wrong:
            raise ModelError(
                f"{path}: {key} names {wrong[0]!r}; a tokenizer's files are those of its folder, by their usual names: "
                "take this line out."
            )
