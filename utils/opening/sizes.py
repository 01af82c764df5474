"""What a config promises, against the bytes that its weights have: compared before memory is asked for by it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import NamedTuple

from model.compression import structures_of_at_most
from model.folders import CONFIG
from model.pretrained import parameters_of_at_most
from model.pruning.surgery import ORDER
from model.weights import describe_safetensors, describe_torch_file, read_json
from utils.errors import UserError

#: A model may have more numbers than its file: tied tensors are saved once, heads and decoders may be missing. Of so
#: many it is told which are, by name; one with still more is not built.
_TIMES, _BESIDE = 6, 1 << 24
#: Types that a model computes with. safetensors' names, and torch's.
_FLOATS = ("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16")
_BYTES = ("I8", "int8")
#: Tensors of whole numbers: positions and orders that libraries keep, int8 weights that the toolkit has rounded.
_WHOLE = re.compile(rf"(.*\.)?(\w+_ids|indices|num_batches_tracked|weight_int8|{ORDER}\.\w+)")
_ROUNDED = re.compile(r".*\.weight_int8")
_LAYERS = ("num_hidden_layers", "num_layers", "num_encoder_layers")


class Held(NamedTuple):
    """What weight files hold: how many tensors, and how many numbers in all of them."""

    tensors: int
    numbers: int


def held_in(files: Iterable[Path]) -> Held:
    """What the weight files of a model hold, by what stands in front of their values.

    Raises:
        UserError, ModelError: a file is not whole, or has numbers that are none of a model's.
    """
    tensors, numbers = 0, 0
    for path in files:
        described = _described(path)
        for name, (dtype, shape) in described.items():
            _check_type(name, dtype, path)
            numbers += prod(shape)
        if not described:  # an old format, or no state dict: at least two bytes for a number
            numbers += path.stat().st_size // 2
        tensors += len(described) or numbers
    return Held(tensors, numbers)


def _described(path: Path) -> Mapping[str, tuple[str, Iterable[int]]]:
    if path.suffix == ".safetensors":
        return describe_safetensors(path)
    found = describe_torch_file(path)
    return {name: (str(tensor.dtype).removeprefix("torch."), tensor.shape) for name, tensor in found.items()}


def _check_type(name: str, dtype: str, path: Path) -> None:
    wanted = _BYTES if _ROUNDED.fullmatch(name) else _FLOATS
    if dtype not in wanted and not (wanted is _FLOATS and _WHOLE.fullmatch(name)):
        raise UserError(
            f"{path}: {name} holds numbers of the type {dtype}, expected {', '.join(wanted[: len(wanted) // 2])}."
        )


@contextmanager
def no_larger_than(held: Held, directory: str) -> Iterator[None]:
    """Inside, no model is built from a folder's config that its weights are nowhere near.

    Raises:
        UserError, ModelError: it would have many times as many numbers, or more layers than there are tensors.
    """
    values = read_json(Path(directory) / CONFIG)
    most = _TIMES * held.numbers + _BESIDE
    edits = values.get("compression")
    if not edits and not values.get("load_compressed_model"):
        layers = max(size for name in _LAYERS if isinstance(size := values.get(name, 0), int))
        if layers > held.tensors:
            raise UserError(
                f"{directory}: config.json has {layers} layers, and there are {held.tensors} tensors in its weights."
            )
    refusal = UserError(
        f"{directory}: config.json describes a model of more than {most:,} numbers, and its weights have "
        f"{held.numbers:,}: it is the config of another model."
    )
    with structures_of_at_most(most) if edits else parameters_of_at_most(most, refusal):
        yield
