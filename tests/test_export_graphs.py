"""ONNX and torch.export files: any batch and length, the numbers of the model, and a refusal where they are others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig

from model import ModelError, use_ratio
from model.decomposition.frozen import freeze_plans
from model.exporting import exportable
from tests.helpers_decomposition import decomposed, decompositions, tiny_logits
from tests.helpers_export import KINDS, saved, source_of
from tests.helpers_plugin import close, encode, rows, with_plugins
from utils.errors import UserError
from utils.export import __main__ as tool
from utils.export import onnx as onnx_files
from utils.export import torch_export
from utils.export.checks import Runner, Shape, make_inputs, one_by_one, shapes_to_check
from utils.export.source import Forward

pytestmark = pytest.mark.usefixtures("single_thread")
FAST = ["--repeats", "1", "--length", "8", "--batch", "2"]


def run(kind: str, form: str, root: Path, *more: str) -> dict[str, Any]:
    """Export through the command line; gives the record."""
    ratio = KINDS[kind][1]
    chosen = [] if ratio is None else ["--ratio", str(ratio)]
    made = root / f"{kind}.{'pt2' if form == 'torch' else form}"
    tool.main(["--model", str(saved(kind, root)), "--format", form, "--output", str(made), *chosen, *FAST, *more])
    record: dict[str, Any] = json.loads(Path(f"{made}.json").read_text())
    return record


# --- what is traced, without tracing it ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", decompositions())
def test_frozen_plans_give_the_models_logits(kind: str) -> None:
    """Formed weights are those of the bank, which is gone; a factor that all share is one parameter."""
    model = decomposed(decompositions()[kind])
    expected = tiny_logits(model)
    copy, plans = exportable(model)
    close(tiny_logits(copy), expected)
    assert len(plans) == 4 and not any("matrix_bank" in name for name, _ in copy.named_parameters())
    assert torch.equal(tiny_logits(model), expected)


def test_shared_factors_are_saved_once() -> None:
    """Of protocol III by the plan of three products, the outer factors of all groups are two parameters, one of them
    twice: transposed for the FFN's input."""
    model = decomposed(decompositions()["III"])
    for layer in (module for module in model.modules() if hasattr(module, "group")):
        layer.group.fixed_plan = "three"
    freeze_plans(model)
    outer = [p for n, p in model.named_parameters() if ".steps.0" in n or ".steps.2" in n]
    assert len({id(p) for p in outer}) == len(outer) == 4


@pytest.mark.parametrize("length", [1, 13, 15, 16])
def test_filled_up_positions_of_a_bert_have_a_place(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 positions at ratio 3: padding by numbers gives what padding by slices gives, and no look-up beyond 16; with
    positions that are given, too."""
    source = source_of("plugin_bert", tmp_path)
    inputs = make_inputs(source, Shape(2, length, 1), padded=length > 1)
    turned = {**inputs, "position_ids": torch.arange(length).flip(0).unsqueeze(0)}
    expected = [source.model(**given).logits for given in (inputs, turned)]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for given, logits in zip((inputs, turned), expected, strict=True):
        close(source.model(**given).logits, logits)
    assert length == 1 or not torch.equal(*expected)


@pytest.mark.parametrize("compat", ["native", "grouping", "original"])
@pytest.mark.parametrize("length", [1, 3, 4, 6, 8])
def test_padding_by_numbers_equals_padding_by_slices(compat: Any, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder at ratio 4 gives the same states by either way, where the ratio divides the length and where not."""
    model = with_plugins(compat=compat)
    ids, mask = rows(length, max(1, length - 2), to=length)
    expected = encode(model, 4, ids, mask)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    close(encode(model, 4, ids, mask), expected)


def test_only_the_chosen_ratio_is_exported() -> None:
    """Other plugins are not in the copy; at ratio 1 none is. The model itself keeps them all."""
    model = with_plugins((2, 4))
    names = [name for name, _ in exportable(model, 4)[0].named_parameters() if ".bank." in name]
    assert names and all(".bank.4." in name for name in names)
    assert not any(".bank." in name for name, _ in exportable(model, 1)[0].named_parameters())
    assert sum(".bank.2." in name for name, _ in model.named_parameters())
    with pytest.raises(ModelError, match="no plugins for ratio 3"):
        exportable(model, 3)


def test_checks_look_at_lengths_that_the_ratio_does_not_divide(tmp_path: Path) -> None:
    """And at one-token rows and padded ones; a BERT's positions bound the length, and its last one is tried."""
    shapes = shapes_to_check(source_of("plugin", tmp_path).model.config, 4)
    assert {length % 4 for _, length, _ in shapes} == {0, 1, 3} and min(length for _, length, _ in shapes) == 1
    source = source_of("dense", tmp_path)
    for most in (5, 16, 128, 512):
        config = BertConfig(max_position_embeddings=most)
        assert max(length for _, length, _ in shapes_to_check(config, 3)) == most
    assert max(length for _, length, _ in shapes_to_check(source.model.config, 1)) == 16
    mask = make_inputs(source, shapes_to_check(source.model.config, 1)[-1], padded=True)["attention_mask"]
    assert mask[0].all() and len({int(row.sum()) for row in mask}) == len(mask)


# --- the command line ------------------------------------------------------------------------------------------------


def test_a_file_that_computes_something_else_is_told_by_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A writer whose file is off by 0.5: exit code 1, the difference in words and in the record."""

    def wrong(source: Any, given: Any, place: Path, outputs: Any) -> Any:
        place.write_bytes(b"wrong")
        forward = Forward(source.model, source.inputs, outputs)
        off = one_by_one(lambda batch: [one + 0.5 for one in forward(*batch.values())])
        return {"inputs": source.inputs}, off, None

    monkeypatch.setitem(tool._WRITERS, "torch", wrong)
    with pytest.raises(SystemExit) as end:
        run("dense", "torch", tmp_path)
    assert end.value.code == tool.TOO_FAR and "largest difference is 0.5" in capsys.readouterr().err
    record = json.loads((tmp_path / "dense.pt2.json").read_text())
    assert record["max_difference"] == pytest.approx(0.5) and not record["within_tolerance"]


class _Double(nn.Module):
    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor]:
        return (ids * 2,)


def _fixed_file(form: str, path: Path) -> Runner:
    """A file that takes ids of 2 x 7 and nothing else, read back."""
    program = torch.export.export(_Double(), (torch.ones(2, 7),))
    if form == "torch":
        torch.export.save(program, path)
        return torch_export.read(path, ("input_ids",))
    made = torch.onnx.export(program, (), dynamo=True, verbose=False, input_names=["input_ids"])
    assert made is not None
    made.save(path)
    return onnx_files.read(path, ("input_ids",))


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_what_a_runtime_cannot_do_is_one_sentence(form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A file that fails at a shape, and one that cannot be read: both are named, and the runtime prints nothing."""
    run_file = _fixed_file(form, tmp_path / "fixed.pt2")
    assert run_file({"input_ids": torch.ones(2, 7)})[0].shape == (2, 7)
    capfd.readouterr()
    with pytest.raises(UserError) as refused:
        run_file({"input_ids": torch.ones(2, 8)})
    text = str(refused.value)
    assert "fixed.pt2 was written, but does not run at input_ids 2 x 8: " in text and "\n" not in text
    (tmp_path / "broken.pt2").write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"broken\.pt2 was written, but cannot be read back: "):
        (torch_export if form == "torch" else onnx_files).read(tmp_path / "broken.pt2", ("input_ids",))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("plugin", ["--ratio", "3"], "--ratio 3: the model has the ratios 1, 2, 4"),
        ("plugin", [], "choose it with --ratio, one of 1, 2, 4"),
        ("plugin", ["--ratio", "2", "--task", "sst2"], "--task_name sst2: the model has plugins of the tasks"),
        ("dense", ["--ratio", "2"], "this model has none"),
        ("dense", ["--opset", "9"], "--opset 9: torch's exporter writes opset 18 or newer"),
        ("dense", ["--repeats", "-1"], "--repeats must be at least 0"),
    ],
)
def test_wrong_flags_are_named(kind: str, more: list[str], message: str, tmp_path: Path) -> None:
    """Before anything is traced or written."""
    out = tmp_path / "made.onnx"
    with pytest.raises(UserError, match=message):
        tool.main(["--model", str(saved(kind, tmp_path)), "--format", "onnx", "--output", str(out), *more])
    assert not out.exists()


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    """--overwrite is named in the refusal."""
    out = tmp_path / "made.onnx"
    out.write_text("mine")
    with pytest.raises(UserError, match="--overwrite replaces it"):
        tool.parse(["--model", "m", "--format", "onnx", "--output", str(out)])
    assert out.read_text() == "mine"


def test_a_decomposed_bert_as_onnx(tmp_path: Path) -> None:
    """One file for any batch and length; the record says what was done and measured."""
    record = run("tucker", "onnx", tmp_path)
    assert record["within_tolerance"] and 0 <= record["max_difference"] < 1e-5
    assert [edit["kind"] for edit in record["edits"]] == ["decomposition"] and len(record["plans"]) == 4
    assert record["inputs"] == ["input_ids", "attention_mask", "token_type_ids"] and record["opset"] >= 18
    assert record["timing"]["pairs"] == 1 and record["timing"]["model_ms"] > 0
    import onnx

    graph = onnx.load(tmp_path / "tucker.onnx").graph
    axes = [[axis.dim_param for axis in one.type.tensor_type.shape.dim] for one in graph.input]
    assert axes == [["batch", "length"]] * 3 and [one.name for one in graph.output] == ["logits"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tucker"])
def test_every_kind_as_onnx(kind: str, tmp_path: Path) -> None:
    """The numbers of the model at every shape."""
    assert run(kind, "onnx", tmp_path)["max_difference"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "tucker", "pruned", "plugin", "plugin_bert"])
def test_as_torch_export(kind: str, tmp_path: Path) -> None:
    """The same of a file that is saved and loaded again."""
    assert run(kind, "torch", tmp_path)["max_difference"] < 1e-4


def test_the_model_is_as_before(tmp_path: Path) -> None:
    """Making the exportable copy leaves the model at its ratio, with its attention and weights."""
    source = source_of("plugin", tmp_path)
    before = source.model.config._attn_implementation
    exportable(source.model, 4)
    with use_ratio(source.model, 2):
        assert source.model.config._attn_implementation == before
