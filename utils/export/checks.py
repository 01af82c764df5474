"""Whether an exported file computes what the model computes, and how long it takes beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metric.cost import PairedTiming, interleaved_ratio
from model.finite import check_outputs
from utils.errors import UserError
from utils.export.source import Source

#: Named tensors in, the outputs in order.
Runner = Callable[[dict[str, Tensor]], Sequence[Tensor]]
#: The same for several calls at once, as a process of its own wants them.
Batches = Sequence[dict[str, Tensor]]
ManyRunner = Callable[[Batches], Sequence[Sequence[Tensor]]]

#: (batch, length) at which outputs are compared; those of a ratio come on top.
_SHAPES = ((1, 1), (2, 7), (3, 16), (1, 37), (4, 64))
_DECODER_LENGTHS = (2, 1, 3)
#: Sizes at which a model is traced: above 1, which torch.export takes for a constant, and unlike.
EXAMPLE = (2, 14, 3)


class Shape(NamedTuple):
    """Rows, positions, and positions of the decoder."""

    batch: int
    length: int
    target: int


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference of an output at one shape; infinite where one side is not a finite number."""

    shape: Shape
    padded: bool
    largest: float


def most_positions(config: Any) -> int | None:
    """The longest input, None where there is no limit (T5)."""
    return getattr(config, "max_position_embeddings", None)


def shapes_to_check(config: Any, ratio: int) -> list[Shape]:
    """Several pairs of batch and length, among them lengths that no ratio divides and the longest that there is."""
    pairs = list(_SHAPES)
    if ratio > 1:
        pairs += [(2, ratio - 1), (2, ratio), (2, ratio + 1), (1, 5 * ratio - 1)]
    if (most := most_positions(config)) is None:
        most = max(length for _, length in pairs)
    else:
        pairs.append((2, most))
    pairs = list(dict.fromkeys((batch, min(length, most)) for batch, length in pairs if length))
    return [Shape(*pair, _DECODER_LENGTHS[i % len(_DECODER_LENGTHS)]) for i, pair in enumerate(pairs)]


def example_shape(config: Any) -> Shape:
    """The shape at which the model is traced."""
    batch, length, target = EXAMPLE
    return Shape(batch, min(length, most_positions(config) or length), target)


def make_inputs(source: Source, shape: Shape, padded: bool, seed: int = 0) -> dict[str, Tensor]:
    """Random tokens; where `padded`, each row but the first ends earlier than the one before."""
    config, generator = source.model.config, torch.Generator().manual_seed(seed)

    def tokens(length: int) -> Tensor:
        return torch.randint(1, config.vocab_size, (shape.batch, length), generator=generator)

    mask = torch.ones((shape.batch, shape.length), dtype=torch.long)
    for row in range(1, shape.batch) if padded else ():
        mask[row, max(1, shape.length - row * max(1, shape.length // (shape.batch + 1))) :] = 0
    pad = config.pad_token_id or 0
    made = {"input_ids": torch.where(mask == 1, tokens(shape.length), pad), "attention_mask": mask}
    made["token_type_ids"] = (torch.arange(shape.length) >= shape.length // 2).long() * mask
    made["decoder_input_ids"] = tokens(shape.target)
    return {name: made[name] for name in source.inputs}


@torch.inference_mode()
def differences(source: Source, expected: Runner, found: ManyRunner) -> list[Difference]:
    """Both sides at all shapes, with rows that fill the batch and with padded ones."""
    cases = [
        (shape, padded)
        for shape in shapes_to_check(source.model.config, source.ratio)
        for padded in ((False, True) if shape.batch > 1 and shape.length > 1 else (False,))
    ]
    inputs = [make_inputs(source, shape, padded, seed=i) for i, (shape, padded) in enumerate(cases)]
    return [
        Difference(shape, padded, _largest(_checked(expected(given), source), outputs))
        for (shape, padded), given, outputs in zip(cases, inputs, found(inputs), strict=True)
    ]


def _checked(outputs: Sequence[Tensor], source: Source) -> Sequence[Tensor]:
    for one in outputs:
        check_outputs(one, source.model, str(source.directory))
    return outputs


@contextmanager
def running_errors(what: str) -> Iterator[None]:
    """What a runtime cannot do with a file that was written, as one sentence.

    Args:
        what: the subject and the verb of that sentence.

    Raises:
        UserError: it cannot.
    """
    try:
        yield
    except Exception as error:  # each runtime has types of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise UserError(f"{what}: {reason} (--debug shows all of it).") from error


def telling(run: Runner, name: Path) -> Runner:
    """A runner of the file `name` whose failures name it and the shapes that it was given."""

    def told(given: dict[str, Tensor]) -> Sequence[Tensor]:
        shapes = ", ".join(f"{name} {' x '.join(map(str, one.shape))}" for name, one in given.items())
        with running_errors(f"{name} was written, but does not run at {shapes}"):
            return run(given)

    return told


def one_by_one(run: Runner) -> ManyRunner:
    """A runner of one call, for several."""
    return lambda batches: [run(given) for given in batches]


def _largest(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    largest = 0.0
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape:
            raise UserError(f"The file gives an output of shape {tuple(other.shape)}, the model {tuple(one.shape)}.")
        difference = (one.float() - other.float()).abs().max().item()
        largest = max(largest, difference if difference == difference else float("inf"))
    return largest


@torch.inference_mode()
def timing(source: Source, expected: Runner, found: Runner, shape: Shape, repeats: int) -> PairedTiming:
    """The model and the file in turns, on full rows of `shape`: the ratio is the model's time over the file's."""
    inputs = make_inputs(source, shape, padded=False)
    return interleaved_ratio(lambda: expected(inputs), lambda: found(inputs), repeats=repeats)


def lines_of(found: Sequence[Difference]) -> Iterator[str]:
    """The differences for the console."""
    for one in found:
        rows = "padded rows" if one.padded else "full rows"
        yield f"  {one.shape.batch} x {one.shape.length}, {rows}: max difference {one.largest:.3g}"
