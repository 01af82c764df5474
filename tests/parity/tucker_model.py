"""Parity of the stacking order, the decomposed forward and the expanded variant with the original's golden arrays."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertForQuestionAnswering, BertModel

from model import DecompositionConfig, ModelError, apply_edit
from model.backbone import BERT
from model.decomposition.bank import TuckerBank
from model.decomposition.originals import edit_from_original_config
from model.decomposition.stacking import StackOrder, stack, stack_biases, unstack, unstack_biases
from model.decomposition.surgery import matrix_bank, role_slots
from tests.parity.cases import close, load, part
from tests.parity.tucker_bert import PRECISIONS, bert_config, compressed_bert, dense_bert, outputs, projections


def check_stack(directory: Path, name: str) -> None:
    """X1: the order of matrices and biases for every `ops`, what the edit removes, and FFN widths other than 4 D."""
    case, arrays = load(directory, name)
    config = case["config"]
    for ops in case["block_identity"]:
        model = dense_bert(config, part(arrays, "sd"))
        before = set(model.state_dict())
        order = StackOrder.of(ops, config["hidden_size"], config["intermediate_size"])
        layers = [role_slots(layer) for layer in BERT.encoder_layers(model)]
        weights = [
            {role: slots[role].module.get_parameter("weight").detach() for role in order.roles} for slots in layers
        ]
        biases = [{role: slots[role].module.get_parameter("bias").detach() for role in order.roles} for slots in layers]
        stacked, rows = stack(order, weights), stack_biases(order, biases)
        assert torch.equal(stacked, arrays[f"weights/{ops}"]), f"{ops}: weights"
        assert torch.equal(rows, arrays[f"bias/{ops}"]), f"{ops}: biases"
        for given, found in ((weights, unstack(order, stacked)), (biases, unstack_biases(order, rows))):
            for mine, theirs in zip(given, found, strict=True):
                assert all(torch.equal(mine[role], theirs[role]) for role in order.roles), f"{ops}: back again"
        apply_edit(model, DecompositionConfig(protocol="II", ops=ops, rank_dim=1))
        removed = {key.removeprefix("encoder.") for key in before - set(model.state_dict())}
        assert removed == {key for key in case["removed_from_encoder"][ops] if key.endswith("weight")}, ops
    for described, what in case["ffn_width_not_4D"].items():
        _check_ffn_width(config, float(described.split("=")[1].split("*")[0]), what)


def _check_ffn_width(config: dict[str, Any], factor: float, what: str) -> None:
    """Any multiple of D makes the stack that the original makes, and here a model too; others are refused."""
    width = config["hidden_size"]
    model = BertModel(bert_config(config, intermediate_size=int(factor * width))).eval()
    edit = DecompositionConfig("III", "san_ffn", rank_condim=2, rank_dim=3)
    if shape := re.search(r"stack built: weights (\[[\d, ]+\]), bias (\[[\d, ]+\])", what):
        order = StackOrder.of("san_ffn", width, int(factor * width))
        layers = config["num_hidden_layers"]
        assert json.loads(shape[1]) == [layers * order.blocks, width, width]
        assert json.loads(shape[2]) == [layers, order.bias_rows, width]
        apply_edit(model, edit)
        assert model(input_ids=torch.ones(1, 3, dtype=torch.long)).pooler_output.isfinite().all()
    else:
        with pytest.raises(ModelError, match="no multiple"):
            apply_edit(model, edit)


def check_forward(directory: Path, name: str) -> None:
    """X2: hidden states, attention scores, layer cores, the six projections and all gradients."""
    case, arrays = load(directory, name)
    model, edit = compressed_bert(case["config"], part(arrays, "sd"))
    for dtype, tolerance in PRECISIONS.items():
        model.to(dtype)
        _check_outputs(model, arrays, tolerance, f"{dtype}")
        _check_middle(model, case, arrays, edit, dtype, tolerance)
        _check_gradients(model, arrays, edit, tolerance)


def _check_outputs(model: Any, arrays: dict[str, Tensor], tolerance: float, what: str) -> None:
    for key, found in outputs(model, part(arrays, "in")).items():
        if f"out/{key}" in arrays:  # the copy in tests/golden leaves the largest arrays out
            close(found, arrays[f"out/{key}"], f"{what} {key}", tolerance)
    if "out_nomask/last_hidden" in arrays:
        with torch.no_grad():
            out = model(input_ids=arrays["in/input_ids"])
        close(out.last_hidden_state, arrays["out_nomask/last_hidden"], f"{what} without mask", tolerance)
        close(out.pooler_output, arrays["out_nomask/pooled"], f"{what} pooled without mask", tolerance)


def _check_middle(
    model: Any,
    case: dict[str, Any],
    arrays: dict[str, Tensor],
    edit: DecompositionConfig,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    middle, bank = part(arrays, "mid"), matrix_bank(model)
    assert isinstance(bank, TuckerBank)
    if "layer_cores" in middle:
        cores = bank.cores(slice(None)).view(middle["layer_cores"].shape)
        close(cores, middle["layer_cores"], f"{dtype} layer cores", tolerance)
    said = re.search(r"layer (\d+)", case["arrays"]["mid/h"]["meaning"])
    assert said is not None
    found = projections(model, int(said[1]), middle["h"].to(dtype), middle["h4"].to(dtype))
    for key in found.keys() & middle.keys():
        close(found[key], middle[key], f"{dtype} {edit.ops} {key}", tolerance)


def _check_gradients(model: Any, arrays: dict[str, Tensor], edit: DecompositionConfig, tolerance: float) -> None:
    """L = mean(last_hidden² · linspace(-1, 1, D)) + sum(pooled³)."""
    model.zero_grad()
    out = model(**{key: arrays[f"in/{key}"] for key in ("input_ids", "token_type_ids", "attention_mask")})
    hidden = out.last_hidden_state
    ramp = torch.linspace(-1, 1, hidden.shape[-1], dtype=hidden.dtype)
    loss = (hidden.square() * ramp).mean() + out.pooler_output.pow(3).sum()
    close(loss, arrays["grad/loss"], "loss", tolerance)
    loss.backward()
    order = StackOrder.of(edit.ops, hidden.shape[-1], model.config.intermediate_size)
    slots = [role_slots(layer) for layer in BERT.encoder_layers(model)]
    biases = [{role: _gradient(layer[role].module, "bias") for role in order.roles} for layer in slots]
    bank = matrix_bank(model)
    found = {name: _gradient(bank, name) for name, _ in bank.named_parameters()}
    found["bias"] = stack_biases(order, biases)
    found["word_embeddings"] = model.embeddings.word_embeddings.weight.grad
    expected = part(arrays, "grad")
    assert found.keys() >= expected.keys() - {"loss"}
    for key in expected.keys() - {"loss"}:
        # Relative to the gradient itself, which is small: `close` measures against 1.
        scale = expected[key].abs().max()
        close(found[key] / scale, expected[key] / scale, f"gradient of {key}", tolerance)


def _gradient(module: torch.nn.Module, name: str) -> Tensor:
    gradient = module.get_parameter(name).grad
    assert gradient is not None, name
    return gradient


def check_plus(directory: Path, name: str) -> None:
    """X5: matrices, projections of every layer, and the whole model, by the formula of the forward."""
    case, arrays = load(directory, name)
    model, edit = compressed_bert(case["config"], part(arrays, "sd"))
    assert edit.is_expand
    for dtype, tolerance in PRECISIONS.items():
        model.to(dtype)
        expected = arrays["dense/forward_rule"]
        with torch.no_grad():
            close(matrix_bank(model).matrices(slice(0, len(expected))), expected, f"{dtype} matrices", tolerance)
        for layer in range(case["config"]["num_hidden_layers"]):
            probes = arrays["in/h"].to(dtype), arrays["in/h4"].to(dtype)
            for key, found in projections(model, layer, *probes).items():
                close(found, arrays[f"out/layer{layer}/{key}"], f"{dtype} layer {layer} {key}", tolerance)
        _check_outputs(model, arrays, tolerance, f"{dtype}")


def check_behaviours(directory: Path, name: str) -> None:
    """X2: what stopped the original runs here."""
    case = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
    for described in case["results"]:
        checks = [check for pattern, check in _BEHAVIOURS.items() if re.search(pattern, described)]
        assert checks, f"no check knows the behaviour {described!r}"
        checks[0](described)


def _tiny(described: str, layers: int = 2) -> Any:
    """A BERT wide enough for every rank that the description names."""
    width = 2 * max([8, *map(int, re.findall(r"dim=(\d+)", described))])
    sizes = {"vocab_size": 30, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2}
    return bert_config({**sizes, "intermediate_size": 4 * width, "max_position_embeddings": 8})


def _trains(model: Any, **inputs: Tensor) -> None:
    """A forward with finite results, and a gradient that is not zero in every factor."""
    ids = torch.tensor([[3, 5, 7, 2], [4, 6, 0, 0]])
    out = model(input_ids=ids, attention_mask=(ids > 0).long(), **inputs)
    loss = out.loss if out.get("loss") is not None else out.last_hidden_state.pow(3).sum()
    assert loss.isfinite()
    loss.backward()
    bank = matrix_bank(model)
    for name, parameter in bank.named_parameters():
        assert parameter.abs().max() > 0 and _gradient(bank, name).abs().max() > 0, name


def _ranks_run(described: str) -> None:
    model = BertModel(_tiny(described))
    ops, condim, dim = described.split()[0], *map(int, re.findall(r"dim=(\d+)", described))
    apply_edit(model, DecompositionConfig(ops=ops, rank_layer=3, rank_condim=condim, rank_dim=dim))  # type: ignore[arg-type]
    _trains(model)


def _many_cores_run(described: str) -> None:
    model = BertModel(_tiny(described))
    ops = described.split()[0]
    rank = {"san": 4, "ffn": 8, "san_ffn": 12}[ops] * 2 + int(described.rpartition("+")[2])
    edit = DecompositionConfig(ops=ops, rank_layer=rank, rank_condim=5, rank_dim=4)  # type: ignore[arg-type]
    apply_edit(model, edit, from_scratch=True)
    _trains(model)


def _no_ops(described: str) -> None:
    config = bert_config({"hidden_size": 8}, rank_layer=3, rank_condim=4, rank_dim=4)
    assert edit_from_original_config(config) == DecompositionConfig(
        ops="san_ffn", rank_layer=3, rank_condim=4, rank_dim=4
    )


def _plain_config(described: str) -> None:
    assert edit_from_original_config(bert_config({"hidden_size": 8})) is None
    assert BertModel(_tiny(described)).config.model_type == "bert"


def _expansion_is_used(described: str) -> None:
    config = bert_config({"hidden_size": 8}, rank_layer=24, rank_condim=4, rank_dim=4, is_expand=True, ops="san_ffn")
    config.rank_left_expdim, config.rank_right_expdim = 2, 3
    edit = edit_from_original_config(config)
    assert edit is not None and edit.is_expand
    model = BertModel(_tiny(described))
    apply_edit(model, edit, from_scratch=True)
    _trains(model)


def _from_scratch(described: str) -> None:
    ops = re.search(r"ops=(\w+)", described)
    assert ops is not None
    model = BertModel(_tiny(described))
    edit = DecompositionConfig(ops=ops[1], rank_layer=3, rank_condim=5, rank_dim=4)  # type: ignore[arg-type]
    apply_edit(model, edit, from_scratch=True)
    _trains(model)


def _question_answering(described: str) -> None:
    model = BertForQuestionAnswering(_tiny(described))
    apply_edit(model, DecompositionConfig(rank_layer=3, rank_condim=5, rank_dim=4))
    _trains(model, start_positions=torch.tensor([0, 1]), end_positions=torch.tensor([1, 1]))


def _twice(described: str) -> None:
    model, ids = BertModel(_tiny(described)).eval(), torch.tensor([[3, 5]])
    assert torch.equal(model(input_ids=ids).pooler_output, model(input_ids=ids).pooler_output)


def _elsewhere(described: str) -> None:
    """Of the parts that have checks of their own (embeddings), or that have no counterpart here."""


#: From what a description says to its check; the first match counts.
_BEHAVIOURS: dict[str, Callable[[str], None]] = {
    r"condim=\d+ dim=\d+": _ranks_run,
    r"rank_layer=L\*\d+\+\d+": _many_cores_run,
    r"without 'ops'": _no_ops,
    r"without 'load_compressed_model'": _plain_config,
    r"compression_from_scratch": _from_scratch,
    r"is_expand": _expansion_is_used,
    r"QuestionAnswering": _question_answering,
    r"forward twice": _twice,
    r"embedding|swap|TuckerWeights\.": _elsewhere,
}
