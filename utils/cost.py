"""What a saved model costs as it stands, whatever is stacked on it: measured, never worked out from its parts.

python -m utils.cost --model DIR --batch 8 --length 128
python -m utils.cost --model DIR --ratios 1 4 --json cost.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from utils.arguments.of_cost import parse

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse)  # before the libraries load


import torch
from transformers import PreTrainedModel

from metric.cost import count_macs, latency_ms, parameter_counts, peak_memory_bytes
from model import auto, available_ratios, edits_of, use_ratio
from model.backbone import COMPRESSED_PREFIX, T5, family_of, spec_for
from model.folders import CONFIG
from utils.engine.precision import PrecisionChoice, choose_precision
from utils.errors import UserError, run_as_script
from utils.opening.files import architecture, open_config
from utils.opening.places import model_directory
from utils.opening.weights import load_weights
from utils.outputs import guard
from utils.tucker.report import frozen
from utils.writing import write_json

#: Tokens that a decoder reads in the cost figures: [start, <extra_id_0>], as classification does.
_DECODER_TOKENS = 2
#: Any token that is no padding.
_TOKEN = 5
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class EditCost:
    """One edit of a stack: its settings, and the parameters that are its own (0 where it only takes away)."""

    kind: str
    settings: dict[str, Any]
    num_params: int
    num_bytes: int


@dataclass(frozen=True)
class ModelCost:
    """A model with all its edits, at one plugin ratio, for one shape of batch.

    Attributes:
        family: of the backbone.
        edits: in stacking order.
        ratio: in use while it was measured; 1 where there are no plugins.
        num_params: of the whole model, plugins of other ratios included; int8 weights count as any.
        memory_bytes: that those parameters take.
        disk_bytes: of the weight files; None where the model was not saved.
        macs: multiply-accumulates of one example of `length` tokens.
        latency_ms: median of one forward of batch x length; `latency_p95_ms` the 95th percentile.
        peak_memory_bytes: while one forward runs: of the whole process on a CPU, of torch on a GPU.
        batch, length, device, threads: what was measured, and on what.
        precision, precision_why: of the products while time and memory were taken.
    """

    family: str
    edits: tuple[EditCost, ...]
    ratio: int
    num_params: int
    memory_bytes: int
    disk_bytes: int | None
    macs: int
    latency_ms: float
    latency_p95_ms: float
    peak_memory_bytes: int
    batch: int
    length: int
    device: str
    threads: int
    precision: str = "fp32"
    precision_why: str = ""


def measure_model(
    model: PreTrainedModel,
    batch: int = 8,
    length: int = 128,
    *,
    ratio: int = 1,
    directory: Path | None = None,
    warmup: int = 3,
    repeats: int = 20,
    choice: PrecisionChoice | None = None,
) -> ModelCost:
    """Measure `model` where it is, in evaluation mode (which it keeps).

    Args:
        ratio: of the plugins, where it has some.
        directory: where it is saved.
        warmup, repeats: forwards before, and while, time is taken.
        choice: the precision of the products, by default fp32.

    Raises:
        UserError: the shape is not positive, or longer than the model's positions.
        ModelError: there are no plugins of that ratio.
    """
    most = getattr(model.config, "max_position_embeddings", None) or length
    if batch < 1 or not 1 <= length <= most:
        raise UserError(
            f"The batch shape must be at least 1 x 1 and at most {most} tokens long, found {batch} x {length}."
        )
    choice = choice or choose_precision("fp32")
    model.eval()
    run = partial(_forward, model, batch, length)
    with torch.inference_mode(), frozen(model), use_ratio(model, ratio):
        example = partial(_forward, model, 1, length)
        count_macs(example)  # weights that are formed once per model are no part of any forward
        macs = count_macs(example)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=choice.precision == "bf16"):
            latency = latency_ms(run, warmup=warmup, repeats=repeats, device=model.device)
            memory = peak_memory_bytes(run, device=model.device)
    return ModelCost(
        family=family_of(model.config),
        edits=tuple(_edit_cost(model, edit) for edit in edits_of(model)),
        ratio=ratio,
        num_params=parameter_counts(model).total,
        memory_bytes=_bytes(model.parameters()),
        disk_bytes=None if directory is None else weight_bytes(directory),
        macs=macs,
        latency_ms=latency.p50_ms,
        latency_p95_ms=latency.p95_ms,
        peak_memory_bytes=memory,
        batch=batch,
        length=length,
        device=model.device.type,
        threads=torch.get_num_threads(),
        **choice.fields,
    )


def weight_bytes(directory: Path) -> int:
    """Bytes of the weight files of a saved model."""
    return sum(file.stat().st_size for pattern in _WEIGHTS for file in directory.glob(pattern))


def load_any(source: str) -> tuple[PreTrainedModel, Path]:
    """A saved model with the head and the edits that its config names, in evaluation mode, and its directory.

    Raises:
        UserError, ModelError: it cannot be loaded, or lacks weights.
    """
    directory = model_directory(source)
    if not (Path(directory) / CONFIG).is_file():
        raise UserError(f"--model {source} holds no model: there is no config.json in it.")
    config = open_config(directory)
    name = architecture(config)
    # An edited model is saved by the name of the class that it was edited in, or of the one that it was loaded in.
    prefix = "Compressed" if config.model_type.startswith(COMPRESSED_PREFIX) else ""
    kind: Any = getattr(auto, prefix + name.removeprefix("Compressed"), None)
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        named = name or "no class"
        raise UserError(f"--model {source}: its config.json names {named}, which is none of this toolkit's models.")
    loaded: PreTrainedModel = load_weights(kind, directory, config).model.eval()
    return loaded, Path(directory)


def describe(cost: ModelCost) -> str:
    """A model's costs as lines for the console."""
    lines = [f"{'edit':<14} {'own parameters':>15} {'own bytes':>12}"]
    lines += [f"{edit.kind:<14} {edit.num_params:>15,} {edit.num_bytes:>12,}" for edit in cost.edits]
    lines += [] if cost.edits else ["(none: the model is dense)"]
    disk = "not saved" if cost.disk_bytes is None else f"{cost.disk_bytes:,} bytes on disk"
    ratio = f"plugin ratio {cost.ratio}, " if any(edit.kind == "plugin" for edit in cost.edits) else ""
    where = f"{cost.threads} threads" if cost.device == "cpu" else cost.device
    return "\n".join(
        [
            *lines,
            f"whole model: {cost.num_params:,} parameters in {cost.memory_bytes:,} bytes | {disk}",
            f"{ratio}{cost.batch} x {cost.length} tokens in {cost.precision} on {where}: "
            f"{cost.macs / 1e6:.2f} M MACs/example of {cost.length} tokens | latency p50 {cost.latency_ms:.2f} ms, "
            f"p95 {cost.latency_p95_ms:.2f} ms | peak memory {cost.peak_memory_bytes / 2**20:.0f} MiB",
        ]
    )


def _forward(model: Any, batch: int, length: int) -> Any:
    ids = torch.full((batch, length), min(_TOKEN, model.config.vocab_size - 1), device=model.device)
    if family_of(model.config) == T5.family and spec_for(model).decoder_layers(model):
        return model(input_ids=ids, decoder_input_ids=ids.new_zeros((batch, _DECODER_TOKENS)), use_cache=False)
    return model(input_ids=ids)


def _edit_cost(model: PreTrainedModel, edit: Any) -> EditCost:
    own = {id(p): p for module in edit.own_modules(model).values() for p in module.parameters()}.values()
    return EditCost(edit.kind, edit.to_dict(), sum(p.numel() for p in own), _bytes(own))


def _bytes(parameters: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def main(arguments: Sequence[str] | None = None) -> list[ModelCost]:
    """Measure, print, and write what was asked for."""
    given = parse(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no GPU that torch can use.")
    guard("utils.cost", given)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    model, directory = load_any(given.model)
    model.to(given.device)
    print(f"measuring {directory}: {type(model).__name__}, {given.batch} x {given.length} tokens", flush=True)
    choice = choose_precision(given.precision, model.device)
    print("\n".join(choice.lines), flush=True)
    costs = []
    for ratio in given.ratios or available_ratios(model):
        shape = (given.batch, given.length)
        cost = measure_model(model, *shape, ratio=ratio, directory=directory, repeats=given.repeats, choice=choice)
        print(describe(cost), flush=True)
        costs.append(cost)
    if given.json is not None:
        write_json(given.json, [asdict(cost) for cost in costs])
        print(f"made: {given.json}")
    return costs


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
