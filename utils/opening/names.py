"""Which files of a model's folder hold its weights, by their names alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from utils.errors import UserError

#: In the order in which Transformers looks for them.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
#: Files that hold weights in some format or by some name.
_LIKE_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|h5|msgpack|gguf|ot|npz|ckpt(\.(index|meta|data.*))?)(\.index\.json)?"
)
#: What trainers leave beside a model.
_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states?|trainer_state).*")
_SHARD = re.compile(r"(?P<stem>.+)-\d+-of-\d+(?P<ending>\.\w+)")
#: Beside the weights, what the hub has of a model and the toolkit reads.
_SMALL = (".json", ".txt", ".model")


def like_weights(names: Collection[str]) -> list[str]:
    """Those of the names that say weights, in whatever format, and are none of a trainer's own files."""
    return sorted(name for name in names if _LIKE_WEIGHTS.fullmatch(name) and not _STATE.fullmatch(name))


def unreadable(names: Sequence[str]) -> str:
    """What is wrong with files of weights of which none has a name that is read; without a full stop."""
    shards: dict[str, list[str]] = {}
    for name in names:
        if (found := _SHARD.fullmatch(name)) is not None:
            shards.setdefault(found["stem"] + found["ending"], []).append(name)
    for whole, parts in shards.items():
        if f"{whole}.index.json" not in names:
            return f"it has {len(parts)} shards ({parts[0]} for one) without {whole}.index.json, which lists them"
    if any(name.endswith((".h5", ".msgpack")) or ".ckpt" in name for name in names):
        cure = "convert them to PyTorch with the library that wrote them"
    elif any(name.endswith(".safetensors") for name in names):
        cure = "if they are the model's, call the file model.safetensors"
    else:
        cure = "if they are the model's, save them as model.safetensors"
    return (
        f"it has no weights that can be read (model.safetensors or pytorch_model.bin) but {', '.join(names[:3])}"
        f"{' …' if len(names) > 3 else ''}: {cure}"
    )


def hub_files(names: Collection[str], source: str) -> list[str]:
    """Of the files that the hub has of a model those to download: the small ones, and the weights in one format.

    Raises:
        UserError: it has weights, but none that can be read.
    """
    there = [name for name in names if "/" not in name]
    small = [name for name in there if name.endswith(_SMALL)]
    found = next((name for name in WEIGHTS if name in there), None)
    if found is None:
        if weights := like_weights(there):
            raise UserError(f"{source} on the Hugging Face hub cannot be used: {unreadable(weights)}.")
        return small
    if not found.endswith(".index.json"):
        return [*small, found]
    whole = found.removesuffix(".index.json")
    shards = [n for n in there if (m := _SHARD.fullmatch(n)) is not None and m["stem"] + m["ending"] == whole]
    return [*small, *shards]
