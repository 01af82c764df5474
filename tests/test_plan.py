"""python -m utils.plan on tiny models: the points it finds, what they cost, the choice, and the model it writes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from metric.cost import count_macs
from metric.errors import MetricError
from model import PluginConfig, apply_edit, available_ratios, committed, sparsity_of, use_ratio
from model.delta import save_delta
from tests.helpers_close import same_logits
from tests.helpers_decomposition import tiny_logits
from tests.helpers_edits import build_t5, inputs, logits
from tests.helpers_pruning import sorted_bert
from utils.errors import UserError
from utils.loading import load_t5
from utils.plan import __main__ as plan_script
from utils.plan.load import open_points
from utils.plan.points import find_points
from utils.plan.show import as_json

pytestmark = pytest.mark.usefixtures("single_thread")

SMALL = ("--batch", "2", "--length", "6", "--repeats", "2", "--device", "cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cost tables of a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "compression-toolkit" / "costs"


@pytest.fixture(scope="module")
def sparsified(tmp_path_factory) -> Path:
    """The run of --mode sparsify: a BERT of sparsity 0, the sparsities it counted, its metric."""
    run = tmp_path_factory.mktemp("runs") / "sparsification"
    sorted_bert().float().save_pretrained(run / "best")
    write(run / "result.json", task="sst2", metric="accuracy", best_value=0.75)
    write(run / "sparsified" / "result.json", num_params={"50": 1, "90": 1})
    return run


@pytest.fixture(scope="module")
def with_plugins(tmp_path_factory) -> Path:
    """A training of plugins whose steps tell a metric per ratio; the backbone lies in the run that it names."""
    root = tmp_path_factory.mktemp("plugins")
    model = build_t5("relu")
    model.save_pretrained(root / "dense" / "best")
    write(root / "dense" / "result.json", dataset="sst2", metric="accuracy", best_value=0.9)
    apply_edit(model, PluginConfig(ratios=(2, 4), bottleneck=4))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".bank." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    (root / "adapted" / "best").mkdir(parents=True)
    save_delta(model, "plugin", root / "adapted" / "best")
    write(root / "adapted" / "arguments.json", arguments={"checkpoint": str(root / "dense" / "best"), "mode": "train"})
    write(root / "adapted" / "result.json", dataset="sst2", metric="accuracy", best_value=0.8, best_step=2)
    rows = [{"split": "valid", "step": step, "accuracy_k2": 0.8 + step / 100, "accuracy_k4": 0.7} for step in (1, 2)]
    (root / "adapted" / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"cut o')
    return root / "adapted"


def write(file: Path, **values: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values), encoding="utf-8")


def plan(*words: object):
    return plan_script.main(["--precision", "fp32", *map(str, words), *SMALL])


def test_a_sparsified_model_is_offered_at_its_grid_and_committed_at_the_one_that_fits(sparsified, tmp_path, capsys):
    """What is written is what `committed` gives, and its real MACs keep the budget."""
    made = plan("--model", sparsified, "--budget", "macs<=0.9x", "--commit", tmp_path / "out", "--json", tmp_path / "p")
    assert [point.name for point in made.points] == [f"sparsification {s}S" for s in (0, 50, 90)]
    assert [point.metric.value if point.metric else None for point in made.points] == [0.75, None, None]
    assert made.chosen == "sparsification 50S" and "no promise of quality" in made.choice.reason
    dense = AutoModelForSequenceClassification.from_pretrained(sparsified / "best").eval()
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert sparsity_of(small) == 0.5
    assert same_logits(tiny_logits(small), tiny_logits(committed(dense, 0.5)))
    ids = torch.ones(1, 6, dtype=torch.long)
    macs = [count_macs(partial(model, input_ids=ids)) for model in (dense, small)]
    costs = {candidate.name: candidate.costs for candidate in made.candidates}
    assert [costs[f"sparsification {s}S"]["macs"] for s in (0, 50)] == macs and macs[1] <= 0.9 * macs[0]
    on_disk = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert costs["sparsification 50S"]["delta_bytes"] == on_disk
    told = json.loads((tmp_path / "out/plan.json").read_text())
    assert told.pop("command")[-1] == SMALL[-1]
    assert json.loads((tmp_path / "p").read_text()) == as_json(made) == told
    printed = capsys.readouterr().out
    assert "chosen: sparsification 50S" in printed
    assert f"MACs/example: of {SMALL[SMALL.index('--length') + 1]} tokens, none of them padding" in printed


def test_the_same_points_are_measured_once_and_other_files_again(sparsified, monkeypatch, cache, tmp_path):
    """A table is taken as long as models and settings are the same."""
    words = ("--model", sparsified, "--grid", "50", "--budget", "macs<=1x")
    first = plan(*words)
    monkeypatch.setattr(plan_script, "measure", lambda *_: pytest.fail("measured again"))
    again = plan(*words)
    assert [c.costs for c in again.candidates] == [c.costs for c in first.candidates]
    assert list(cache.iterdir()) == [first.table]
    with pytest.raises(pytest.fail.Exception):
        plan(*words, "--precision", "bf16")
    with pytest.raises(pytest.fail.Exception):
        plan(*words, "--remeasure")
    with pytest.raises(UserError, match=r"other repeats \(2 there, 3 now\)"):
        again = ("--cost-table", str(first.table), "--precision", "fp32", *SMALL, "--repeats", "3")
        plan_script.main([*map(str, words), *again])


def test_where_nothing_fits_the_exit_code_is_1_and_the_nearest_is_named(sparsified, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        plan("--model", sparsified, "--budget", "params<=2", "--commit", tmp_path / "out")
    assert stop.value.code == 1 and not (tmp_path / "out").exists()
    assert "none fits params<=2: the least params is" in capsys.readouterr().out


def test_plugins_are_offered_at_their_ratios_with_the_recorded_metrics(with_plugins, tmp_path):
    """The best step's metric per ratio, the backbone's for ratio 1; the written model has the chosen ratio alone."""
    made = plan("--model", with_plugins, "--budget", "macs<=0.999x,delta_bytes<=1M", "--commit", tmp_path / "out")
    assert [(p.name, p.metric.value) for p in made.points] == [
        ("adapted k=1", 0.9),
        ("adapted k=2", pytest.approx(0.82)),
        ("adapted k=4", 0.7),
    ]
    assert made.chosen == "adapted k=2" and made.whole == "adapted k=1"
    costs = [candidate.costs for candidate in made.candidates]
    assert costs[0]["delta_bytes"] == 0
    assert costs[1]["delta_bytes"] == (with_plugins / "best" / "plugin-k2.safetensors").stat().st_size
    assert costs[0]["macs"] > costs[1]["macs"] and costs[0]["params"] < costs[1]["params"] < costs[2]["params"]
    small = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    whole = AutoModelForSeq2SeqLM.from_pretrained(with_plugins.parent / "dense" / "best").eval()
    opened = open_points(made.points, torch.device("cpu"))[1]
    assert available_ratios(small) == (1, 2)
    with torch.no_grad(), opened.selected():  # at this ratio from the start
        assert same_logits(small(**inputs()).logits, opened.model(**inputs()).logits)
    with use_ratio(small, 1):
        assert same_logits(logits(small), logits(whole))


def test_the_students_of_a_schedule_are_points_and_scales_without_student_are_told(sparsified, tmp_path, capsys):
    """The metric of a student is that of its own scale, not the trade-off that selected it."""
    run = tmp_path / "MiniDisc"
    table = [{"scale": s, "metric": m, "tradeoff": 1.0} for s, m in ((0.5, 0.8), (0.9, 0.6))]
    model = AutoModelForSequenceClassification.from_pretrained(sparsified / "best")
    committed(model, 0.5).save_pretrained(run / "iteration-1" / "best")
    write(run / "iteration-1/best/choice.json", scale=0.5, score=1.0, reason="r", table=table)
    write(run / "iteration-1/result.json", task="sst2", metric="tradeoff", best_value=1.0)
    rows = [{"scale": row["scale"], "accuracy": row["metric"]} for row in table]
    write(
        run / "schedule.json",
        task="sst2",
        metric="accuracy",
        iterations=[{"iteration": 1, "scale": 0.5, "table": rows}],
    )
    made = plan("--model", run, "--whole", sparsified, "--budget", "macs<=0.9x")
    assert [point.metric.value for point in made.points if point.metric] == [0.75, 0.8]
    assert made.whole == made.points[0].name and made.whole.endswith("sparsification 0S")
    assert made.chosen == made.points[1].name and made.chosen.endswith("MiniDisc/iteration-1")
    assert "accuracy at 90S 0.6000, of which no students were saved" in capsys.readouterr().out
    with pytest.raises(UserError, match="no whole model is known"):
        plan("--model", run, "--budget", "macs<=0.9x")


def test_relative_and_absolute_places_go_together(sparsified, tmp_path, monkeypatch):
    monkeypatch.chdir(sparsified.parent)
    points = find_points([sparsified.name], whole=str(sparsified.resolve()))
    assert [point.name for point in points] == [f"sparsification {s}S" for s in (0, 50, 90)]


def test_metrics_of_two_tasks_are_not_compared(sparsified, tmp_path):
    other = tmp_path / "other"
    sorted_bert(seed=1).float().save_pretrained(other / "best")
    write(other / "result.json", task="mrpc", metric="f1", best_value=0.99)
    with pytest.raises(MetricError, match=r"accuracy of sst2; .*f1 of mrpc"):
        plan("--model", sparsified, other, "--grid", "50", "--budget", "macs<=1x")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--model", "nowhere"), "--model nowhere is no directory, it does not exist"),
        (("--model", "EMPTY"), "holds no model"),
        (("--model", "RUN", "--backbone", "x"), "--backbone x has no effect"),
        (("--model", "RUN", "--task", "sst2"), "--task_name sst2 has no effect"),
        (("--model", "RUN", "--length", "4096"), "--length 4096: sparsification 0S has"),
        (("--model", "RUN", "--batch", "0"), "--batch must be at least 1"),
        (("--model", "RUN", "--overwrite"), "--overwrite is for --commit"),
        (("--model", "RUN", "--commit", "RUN"), "which this call reads: name another folder"),
    ],
)
def test_mistakes_are_told_in_one_sentence(sparsified, tmp_path, words, sentence):
    places = {"RUN": str(sparsified), "EMPTY": str(tmp_path)}
    given = [places.get(word, word) for word in words]
    with pytest.raises(UserError, match=sentence):
        plan_script.main(["--budget", "macs<=1x", *SMALL, *given])


def test_points_are_evaluated_where_data_are_given(tiny, tmp_path):
    """The metric is measured now, at every ratio, by the evaluator of the entry script."""
    model, tokenizer, _ = load_t5(str(tiny.model), None)
    apply_edit(model, PluginConfig(ratios=(2,), bottleneck=4))
    model.save_pretrained(tmp_path / "plugins")
    tokenizer.save_pretrained(tmp_path / "plugins")
    assert all(point.metric is None for point in find_points([str(tmp_path / "plugins")]))
    words = ("--task", "sst2", "--data", tiny.glue, "--length", "16")
    made = plan_script.main(["--model", str(tmp_path / "plugins"), "--budget", "macs<=1x", *SMALL, *map(str, words)])
    assert {point.metric.origin for point in made.points if point.metric} == {"measured now"}
    assert all(point.metric is not None and 0 <= point.metric.value <= 1 for point in made.points)
