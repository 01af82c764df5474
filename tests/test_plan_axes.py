"""python -m utils.plan over ranks, layers and the ratios of a quantised model: the sizes that one saved model holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from metric.cost import parameter_counts
from model import DecompositionConfig, apply_edit, available_ratios, first_layers, sort_components, use_ratio
from model.decomposition import at_ranks
from model.pruning import with_layers
from tests.helpers_close import same_logits
from tests.helpers_decomposition import bank_of, decomposed, tiny_bert, tiny_logits
from tests.helpers_stacks import build
from utils import cost
from utils.errors import UserError
from utils.plan import __main__ as plan_script
from utils.plan.points import Wanted, find_points

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = ("--batch", "2", "--length", "6", "--repeats", "2", "--device", "cpu")
_BANK = DecompositionConfig("IV", "san_ffn", rank_layer=6, rank_condim=8, rank_dim=8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cost tables of a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def saved(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def plan(*words: object):
    return plan_script.main(["--precision", "fp32", *map(str, words), *SMALL])


def written(folder: Path):
    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


def test_ranks_are_offered_and_what_is_written_has_the_leading_components(tmp_path, capsys):
    """0R is the model as it is saved, 50R what the sorted model computes with the first half of its components."""
    folder, dense = saved(decomposed(_BANK), tmp_path / "bank"), saved(tiny_bert(), tmp_path / "dense")
    words = ("--model", folder, "--axis", "rank", "--grid", "0,50,75", "--whole", dense)
    made = plan(*words, "--budget", "macs<=1x")
    assert [point.name for point in made.points] == ["dense", "bank 0R", "bank 50R", "bank 75R"]
    params = [candidate.costs["params"] for candidate in made.candidates]
    assert params[1] > params[2] > params[3]
    plan(*words, "--budget", f"params<={params[2]:g}", "--commit", tmp_path / "out")
    assert "it has not learnt since it was cut" in capsys.readouterr().out
    small, expected = written(tmp_path / "out"), written(folder)
    sort_components(expected)
    expected = at_ranks(expected, {"rank_layer": 3, "rank_condim": 4, "rank_dim": 4})
    assert bank_of(small).ranks == bank_of(expected).ranks
    assert torch.allclose(tiny_logits(small), tiny_logits(expected), atol=4e-6)


def test_macs_are_those_that_the_cost_command_counts(tmp_path):
    """Weights of a bank that are formed once per model count in neither."""
    folder = saved(decomposed(_BANK), tmp_path / "bank")
    (found,) = plan("--model", folder, "--whole", folder, "--budget", "macs<=1x").candidates
    (told,) = cost.main(["--model", str(folder), "--batch", "2", "--length", "6", "--repeats", "2"])
    assert told.macs == found.costs["macs"]


def test_layers_are_offered_down_to_one_and_the_whole_counts_as_the_dense_model(tmp_path):
    model = tiny_bert(num_hidden_layers=3)
    folder = saved(model, tmp_path / "dense")
    made = plan("--model", folder, "--axis", "layers", "--budget", "macs<=0.7x", "--commit", tmp_path / "out")
    assert [point.name for point in made.points] == ["dense 3L", "dense 2L", "dense 1L"]
    assert made.whole == "dense 3L" and made.chosen == "dense 2L"
    assert same_logits(tiny_logits(written(tmp_path / "out")), tiny_logits(with_layers(model, 2)))


def test_a_model_that_lost_layers_already_is_offered_from_those_that_it_has(tmp_path):
    model = tiny_bert(num_hidden_layers=3)
    apply_edit(model, first_layers(2))
    points = find_points([str(saved(model, tmp_path / "two"))], Wanted(axis="layers"))
    assert [(point.value, point.is_whole, point.is_saved) for point in points] == [(2, False, True), (1, False, False)]


def test_a_quantised_model_is_offered_at_its_plugins_ratios(tmp_path):
    """int8 lies on top of the plugins, which stay what is switched."""
    model = build("bert-plugin+int8")
    folder = saved(model, tmp_path / "int8")
    made = plan("--model", folder, "--budget", "macs<=0.99x", "--commit", tmp_path / "out")
    assert [point.name for point in made.points] == ["int8 k=1", "int8 k=2", "int8 k=3"]
    small = written(tmp_path / "out")
    ratio = int(made.points[[point.name for point in made.points].index(made.chosen)].value)
    assert ratio > 1 and available_ratios(small) == (1, ratio)
    with use_ratio(model.eval(), ratio):
        assert same_logits(tiny_logits(small), tiny_logits(model))


def test_a_quantised_model_at_ratio_1_is_written_without_plugins(tmp_path):
    """It has as many parameters as the plan says."""
    model = build("bert-plugin+int8")
    made = plan("--model", saved(model, tmp_path / "int8"), "--budget", "delta_bytes<=0", "--commit", tmp_path / "out")
    small = written(tmp_path / "out")
    assert made.chosen == "int8 k=1" and available_ratios(small) == (1,)
    assert parameter_counts(small).total == made.candidates[0].costs["params"]
    assert same_logits(tiny_logits(small), tiny_logits(model.eval()))


def test_the_base_of_a_schedule_over_ranks_is_no_student_of_it(tmp_path):
    """Its bank has learnt nothing; and scales without a student are told as they are written."""
    run = tmp_path / "MiniDisc"
    for stage in ("decomposed", "iteration-1"):
        saved(decomposed(_BANK), run / stage / "best")
        (run / stage / "result.json").write_text(json.dumps({"task": "sst2"}))
    rows = [{"scale": s, "written": f"{100 * s:g}R", "accuracy": 0.5, "tradeoff": 0.5} for s in (0.25, 0.5)]
    entry = {"iteration": 1, "scale": 0.5, "table": rows}
    (run / "schedule.json").write_text(json.dumps({"task": "sst2", "metric": "accuracy", "iterations": [entry]}))
    assert [point.name for point in find_points([str(run)])] == ["iteration-1"]
    assert "accuracy at 25R 0.5000" in plan_script.unsaved_scales(run)[0].text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--axis", "rank"), "--axis rank has no effect: no --model is a BERT whose last edit is a decomposition"),
        (("--axis", "sparsity"), "--axis sparsity has no effect: no --model is sparsified"),
        (("--axis", "ratio"), "--axis ratio has no effect: no --model has plugins"),
        (("--axis", "layers", "--grid", "4,1"), "--grid: .*dense has 2 layers and cannot become 4L"),
        (("--axis", "layers", "--grid", "50S"), "--grid: 50S is none of the layers"),
        (("--grid", "50"), "--grid 50 has no effect: no --model can be cut"),
    ],
)
def test_an_axis_that_a_model_does_not_have_is_told(tmp_path, words, sentence):
    folder = saved(tiny_bert(), tmp_path / "dense")
    with pytest.raises(UserError, match=sentence):
        plan("--model", folder, "--budget", "macs<=1x", *words)
