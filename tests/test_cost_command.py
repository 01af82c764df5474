"""`python -m utils.cost`: what it reports of a stack is what is there, and mistakes are told in one sentence."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from metric.cost import count_macs, parameter_counts
from model import ModelError, use_ratio
from tests.helpers_decomposition import tiny_bert
from tests.helpers_stacks import build
from utils import cost
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("single_thread")


def saved(path: Path, stack: str) -> Any:
    """A model of the table, saved."""
    model = build(stack)
    model.save_pretrained(path)
    return model


def test_a_stack_is_reported_edit_by_edit_and_measured_as_a_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Own parameters, files and MACs are counted here once more; there is a row per ratio, and all is in the JSON."""
    model = saved(tmp_path / "model", "bert-layer_drop+san+embedding+plugin+int8")
    file = tmp_path / "costs" / "cost.json"
    shape = ("--batch", "2", "--length", "6", "--repeats", "2")
    costs = cost.main(["--model", str(tmp_path / "model"), *shape, "--json", str(file)])
    assert [made.ratio for made in costs] == [1, 2, 3]
    first = costs[0]
    own = {edit.kind: edit.num_params for edit in first.edits}
    assert list(own) == ["layer_drop", "decomposition", "embedding", "plugin", "quantization"]
    assert own["layer_drop"] == 0
    assert own["plugin"] == sum(p.numel() for name, p in model.named_parameters() if ".bank." in name)
    int8 = {name: p.numel() for name, p in model.named_parameters() if name.endswith("weight_int8")}
    rest = sum(p.numel() for n, p in model.named_parameters() if n.rpartition(".")[0] + ".weight_int8" in int8)
    assert own["quantization"] == rest > sum(int8.values()) == 2 * 12 * 36
    assert first.num_params == parameter_counts(model).total
    assert first.disk_bytes == (tmp_path / "model" / "model.safetensors").stat().st_size
    assert first.memory_bytes == sum(p.numel() * p.element_size() for p in model.parameters()) < 4 * first.num_params
    for made in costs:
        with use_ratio(model, made.ratio), torch.inference_mode():
            forward = partial(model, input_ids=torch.full((1, 6), 5))
            count_macs(forward)  # forms the bank's weights
            again = count_macs(forward)
        assert made.macs == again
        assert 0 < made.latency_ms <= made.latency_p95_ms and made.peak_memory_bytes > 0
    assert [entry["macs"] for entry in json.loads(file.read_text())] == [made.macs for made in costs]
    printed = capsys.readouterr().out
    assert printed.index("layer_drop") < printed.index("decomposition") < printed.index("quantization")
    assert "MACs/example of 6 tokens" in printed
    assert f"{first.num_params:,} parameters" in printed and f"made: {file}" in printed


@pytest.mark.parametrize("stack", ["t5-lora+plugin", "enct5-pruning+int8_activations"])
def test_other_families_are_measured_too(tmp_path: Path, stack: str) -> None:
    saved(tmp_path, stack)
    costs = cost.main(["--model", str(tmp_path), "--batch", "1", "--length", "4", "--repeats", "1"])
    assert [made.ratio for made in costs] == ([1, 2, 3] if "plugin" in stack else [1])
    assert {made.family for made in costs} == {stack.partition("-")[0]}


def test_mistakes_are_told_in_one_sentence(tmp_path: Path) -> None:
    model = tiny_bert()
    with pytest.raises(UserError, match="at most 16 tokens long, found 2 x 17"):
        cost.measure_model(model, 2, 17)
    with pytest.raises(ModelError, match="no plugins for ratio 4; it has: 1"):
        cost.measure_model(model, 2, 8, ratio=4)
    with pytest.raises(UserError, match="holds no model: there is no config"):
        cost.load_any(str(tmp_path))
    with pytest.raises(UserError, match="--repeats must be at least 1, found 0"):
        cost.parse(["--model", str(tmp_path), "--repeats", "0"])
    model.config.architectures = ["BertForEverything"]
    model.config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="names BertForEverything, which is none of this toolkit's"):
        cost.load_any(str(tmp_path))
