"""The real script, end to end, on a T5 of two layers: every stage, every output file, every flag."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from dataset import BucketedBatches, Collator, encode_classification, get_task, read_glue
from model import LoraConfig, PluginConfig, find_edit, use_ratio
from model.delta import load_delta, read_delta_edit
from tests.tiny import (
    Tiny,
    assert_same_tensors,
    result_of,
    rows_of,
    run,
    tensors_under,
    valid,
    write_sst2,
)
from utils.engine import Runtime
from utils.loading import load_t5
from utils.variator.data import DataRequest, build_data
from utils.variator.evaluation import Evaluator

pytestmark = pytest.mark.usefixtures("one_thread")

#: What a stage that trains ratios 2 and 4 saves.
PLUGIN_FILES = ("plugin-k2.safetensors", "plugin-k4.safetensors")


class Stages:
    """The stages of the method, each made once: backbone, plugin pre-training, fine-tuning, adaptation."""

    def __init__(self, tiny: Tiny, root: Path) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self.wiki, self.glue, self.mux = root / "wiki", root / "glue", root / "mux"
        run(tiny.wiki(self.wiki, "--distil", "hidden", "--mux-num", 2, 4, "--residual-scale", 1))
        run(tiny.sst2(self.glue, "--epochs", 3))
        adapt = ("--distil", "task-hidden", "--mux-num", 2, 4, "--plugin-path", self.wiki / "best")
        run(tiny.sst2(self.mux, "--checkpoint", self.glue / "best", *adapt))
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def stages(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """The run directories of all stages."""
    return Stages(tiny, tmp_path_factory.mktemp("stages"))


# --- training ------------------------------------------------------------------------------------------------


def test_fine_tuning_learns_and_writes_its_files(tiny: Tiny, stages: Stages) -> None:
    """The loss falls; best/ is a Hugging Face directory with tokenizer and task file; all records are there."""
    rows = [row for row in rows_of(stages.glue) if row["split"] == "train"]
    assert len(rows) == 18 and rows[-1]["loss"] < rows[0]["loss"]
    assert {p.name for p in stages.glue.iterdir()} >= {
        "arguments.json",
        "metrics.jsonl",
        "log.log",
        "tensorboard",
        "checkpoints",
        "best",
        "result.json",
    }
    AutoModelForSeq2SeqLM.from_pretrained(stages.glue / "best")
    AutoTokenizer.from_pretrained(stages.glue / "best")
    task = json.loads((stages.glue / "best" / "task.json").read_text())
    assert task == {"dataset": "sst2", "decoder_start": 0, "logit_scale": "hf"}
    recorded = json.loads((stages.glue / "arguments.json").read_text())
    assert recorded["arguments"]["lr"] == 1e-3 and recorded["versions"]["torch"] and recorded["seed"] == 1
    result = result_of(stages.glue)
    assert result["steps"] == 18 and result["metric"] == "accuracy"
    assert result["best_value"] == max(row["accuracy"] for row in rows_of(stages.glue) if row["split"] == "valid")


def test_plugin_pretraining_saves_the_plugins_alone(tiny: Tiny, stages: Stages) -> None:
    """best/ holds one file of plugin tensors per ratio and nothing of the backbone."""
    edit = read_delta_edit(stages.wiki / "best", "plugin")
    assert isinstance(edit, PluginConfig) and edit.ratios == (2, 4) and edit.residual_scale == 1.0
    assert {path.name for path in (stages.wiki / "best").glob("*.safetensors")} == set(PLUGIN_FILES)
    for ratio, file in zip((2, 4), PLUGIN_FILES, strict=True):
        described = json.loads((stages.wiki / "best" / file).with_suffix(".json").read_text())
        assert described["backbone"]["width"] == 32 and described["extra"] == {"dataset": "wiki"}
        names = load_file(stages.wiki / "best" / file)
        assert len(names) == 2 * 6 and all(name.startswith(f"ratio_{ratio}.") for name in names)
    losses = [row["loss"] for row in rows_of(stages.wiki) if row["split"] == "train"]
    assert losses[-1] < losses[0]


def test_adaptation_starts_from_the_pretrained_plugin(tiny: Tiny, stages: Stages, tmp_path: Path) -> None:
    """With learning rate 0 the adapted plugin is the one of --plugin-path, bit for bit."""
    plugin = stages.wiki / "best"
    adapt = ("--checkpoint", stages.glue / "best", "--distil", "hidden", "--plugin-path", plugin)
    run([*tiny.sst2(tmp_path / "run", *adapt), "--lr", "0", "--weight-decay", "0"])
    assert_same_tensors(tensors_under(tmp_path / "run" / "best"), tensors_under(plugin))


@pytest.mark.parametrize("distil", ["hidden", "task-hidden", "task"])
def test_distillation_changes_plugins_only(
    distil: str, tiny: Tiny, stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every --distil mode trains every plugin tensor and leaves every backbone tensor bit-identical."""
    import train_t5

    jobs: list[Any] = []
    original = train_t5.Job.train

    def recorded(job: train_t5.Job) -> None:
        jobs.append(job)
        original(job)

    monkeypatch.setattr(train_t5.Job, "train", recorded)
    more = ("--distil", distil, "--plugin-path", stages.wiki / "best", "--training-step", 3, "--warmup-step", 0)
    run(tiny.sst2(tmp_path / "run", "--checkpoint", stages.glue / "best", *more))
    state = {n: p.detach() for n, p in jobs[0].model.named_parameters()}
    backbone = {n.replace("base_layer.", ""): t for n, t in state.items() if ".bank." not in n}
    before = dict(AutoModelForSeq2SeqLM.from_pretrained(stages.glue / "best").named_parameters())
    assert_same_tensors(backbone, before)
    old = tensors_under(stages.wiki / "best")
    assert len(load_file(tmp_path / "run" / "checkpoints" / "step-00000003" / "model.safetensors")) == len(old)
    after = tensors_under(tmp_path / "run" / "best")
    assert all(not torch.equal(after[name], old[name]) for name in old)


def test_backbone_pretraining(tiny: Tiny, tmp_path: Path) -> None:
    """--dataset wiki --distil no trains the T5 itself by span corruption."""
    run(tiny.wiki(tmp_path / "run", "--training-step", 4))
    trained, start = tensors_under(tmp_path / "run" / "best"), tensors_under(tiny.model)
    assert trained.keys() == start.keys()
    assert any(not torch.equal(trained[name], start[name]) for name in start)
    assert not list((tmp_path / "run" / "best").glob("plugin*"))


def test_none_means_untrained_plugins(tiny: Tiny, tmp_path: Path) -> None:
    """--plugin-path none, as in the original's scripts, starts from untrained plugins."""
    run(tiny.sst2(tmp_path / "run", "--distil", "hidden", "--plugin-path", "none", "--training-step", 1))
    edit = read_delta_edit(tmp_path / "run" / "best", "plugin")
    assert isinstance(edit, PluginConfig) and edit.ratios == (4,)


# --- validation ----------------------------------------------------------------------------------------------


def test_valid_reports_the_dense_model_and_every_ratio(tiny: Tiny, stages: Stages, tmp_path: Path) -> None:
    """result.json has a row for dense and each ratio, with the metric and all costs; MACs fall with k."""
    more = ("--checkpoint", stages.glue / "best", "--plugin-path", stages.mux / "best", "--mux-num", 2, 4, "--costs")
    rows = valid(tiny, tmp_path / "valid", *more)
    assert [(row["name"], row["ratio"]) for row in rows] == [("dense", 1), ("k=2", 2), ("k=4", 4)]
    for row in rows:
        assert 0 <= row["accuracy"] <= 1 and row["latency_ms"] > 0 and row["latency_p95_ms"] >= row["latency_ms"]
    dense = sum(p.numel() for p in AutoModelForSeq2SeqLM.from_pretrained(tiny.model).parameters())
    for row in rows:
        k = row["ratio"]
        plugin = 0 if k == 1 else 2 * (32 * k * k + k + 2 * 32 * 64 + 64 + 64 * 32 + 32)
        assert row["num_params"] == dense + plugin
    sizes = [(stages.mux / "best" / file).stat().st_size for file in PLUGIN_FILES]
    assert [row["delta_bytes"] for row in rows] == [0, *sizes]


def test_macs_fall_with_the_ratio_where_the_ffn_is_large(tiny: Tiny, tmp_path: Path) -> None:
    """On a T5 whose FFN outweighs the plugin, as in real ones, MACs fall strictly with k."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config.from_pretrained(tiny.model)
    config.d_ff = 2048
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "wide")
    AutoTokenizer.from_pretrained(tiny.model).save_pretrained(tmp_path / "wide")
    rows = valid(tiny, tmp_path / "valid", "--model-config", tmp_path / "wide", "--mux-num", 2, 4, "--costs")
    assert rows[0]["macs"] > rows[1]["macs"] > rows[2]["macs"] > 0
    assert [row["name"] for row in rows] == ["dense", "k=2 untrained", "k=4 untrained"]


@pytest.mark.parametrize("distil", ["no", "hidden", "task-hidden", "task"])
def test_valid_does_not_depend_on_the_loss(distil: str, tiny: Tiny, stages: Stages, tmp_path: Path) -> None:
    """--mode valid evaluates the adapted model at its ratios whatever --distil says (the original could not)."""
    more = ("--checkpoint", stages.glue / "best", "--plugin-path", stages.mux / "best")
    rows = valid(tiny, tmp_path / distil, *more, "--distil", distil)
    assert [row["ratio"] for row in rows] == [1, 2, 4]
    best = result_of(stages.mux)
    logged = next(r for r in rows_of(stages.mux) if r["split"] == "valid" and r["step"] == best["best_step"])
    assert rows[1]["accuracy"] == logged["accuracy_k2"] and rows[2]["accuracy"] == logged["accuracy_k4"]
    assert rows[1]["loss"] == pytest.approx(logged["loss_k2"], abs=4e-5)


def test_validation_equals_a_loop_by_hand(tiny: Tiny, stages: Stages, tmp_path: Path) -> None:
    """Accuracy and loss of the script are those of one example at a time, for an odd number of rows."""
    rows = valid(tiny, tmp_path / "valid", "--checkpoint", stages.glue / "best", "--plugin-path", stages.mux / "best")
    model = AutoModelForSeq2SeqLM.from_pretrained(stages.glue / "best").eval()
    load_delta(model, "plugin", stages.mux / "best")
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    task = get_task("sst2")
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("negative", "positive")]
    examples = read_glue(task, tiny.glue, "valid")
    assert len(examples) == 11
    for row in rows:
        right, loss = 0, 0.0
        for example in examples:
            feature = encode_classification(task, [example], tokenizer, 64)[0]
            ids = torch.tensor([list(feature.input_ids)])
            with torch.no_grad(), use_ratio(model, row["ratio"]):
                scores = model(input_ids=ids, decoder_input_ids=torch.tensor([[0, sentinel]])).logits[0, -1, words]
            right += int(scores.argmax()) == example.label
            loss += float(torch.nn.functional.cross_entropy(scores, torch.tensor(example.label)))
        assert row["accuracy"] == pytest.approx(right / 11)
        assert row["loss"] == pytest.approx(loss / 11, abs=1e-4)


@pytest.mark.parametrize("num_rows", [1, 7, 32, 33])
def test_every_validation_row_counts_once(tiny: Tiny, tmp_path: Path, num_rows: int) -> None:
    """For one process and for two, every row is evaluated once, in batches that do not divide the rows."""
    write_sst2(tmp_path, train=1, valid=num_rows)
    tokenizer = AutoTokenizer.from_pretrained(tiny.model)
    task = get_task("sst2")
    features = encode_classification(task, read_glue(task, tmp_path, "valid"), tokenizer, 64)
    for world in (1, 2):
        counted: list[int] = []
        for rank in range(world):
            source = BucketedBatches(features, Collator(0), 4, shuffle=False, rank=rank, world_size=world)
            for batch in source.batches(0):
                counted += batch["index"].tolist()[: int(batch["num_rows"])]
        assert sorted(counted) == list(range(num_rows))


def test_two_ranks_give_the_metrics_of_one(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes' gathered rows give exactly the accuracy of one process; simulated in one."""
    loaded = load_t5(str(tiny.model), None)
    runtime = Runtime("fp32", "t5", 1)
    request = DataRequest("sst2", str(tiny.glue), 64, 2, 0, "hf", False)

    def metrics(world: int) -> dict[str, float]:
        gathered: list[Any] = []

        def gather(self: Runtime, rows: list[Any]) -> list[Any]:
            gathered.extend(rows)
            return list(gathered)

        found: dict[str, float] = {}
        for rank in range(world):
            with monkeypatch.context() as patch:
                patch.setattr(Runtime, "rank", rank)
                patch.setattr(Runtime, "world_size", world)
                patch.setattr(Runtime, "gather_rows", gather)
                data = build_data(request, loaded.tokenizer, loaded.model.config, runtime)
                found = Evaluator(runtime, loaded.model, loaded.tokenizer, data).at_ratio(1)
        assert len(gathered) == 11
        return found

    one, two = metrics(1), metrics(2)
    assert one["accuracy"] == two["accuracy"]
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-6)


# --- LoRA ----------------------------------------------------------------------------------------------------


def test_lora_then_plugins_on_top(tiny: Tiny, stages: Stages, tmp_path: Path) -> None:
    """--delta-tuning saves LoRA alone; it is a --checkpoint for plugin training and for validation."""
    lora, mux = tmp_path / "lora", tmp_path / "mux"
    run(tiny.sst2(lora, "--delta-tuning", "--epochs", 2))
    names = load_file(lora / "best" / "lora.safetensors")
    assert len(names) == 4 * 2 * 2 and all("_lora" in name for name in names)
    assert any(bool(tensor.any()) for name, tensor in names.items() if name.endswith("lora_B"))
    assert not (lora / "best" / "model.safetensors").exists()
    run(tiny.sst2(mux, "--checkpoint", lora / "best", "--distil", "hidden", "--mux-num", 4))
    assert {p.name for p in (mux / "best").glob("*.safetensors")} == {"plugin-k4.safetensors"}
    rows = valid(tiny, tmp_path / "valid", "--checkpoint", lora / "best", "--plugin-path", mux / "best")
    assert [row["ratio"] for row in rows] == [1, 4]
    assert rows[0]["accuracy"] == result_of(lora)["best_value"]  # the dense row carries the LoRA
    model = load_t5(str(tiny.model), lora / "best").model
    assert find_edit(model, LoraConfig) is not None


# --- options that must have an effect ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        ("--random-seed", 2),
        ("--precision", "bf16"),
        ("--schedule", "linear"),
        ("--warmup-step", 4),
        ("--clip-grad", 0.01),
        ("--weight-decay", 0.5),
        ("--grad-accumulation", 2),
        ("--batch-size", 3),
        ("--decoder-start", 2),
        ("--logit-scale", "original"),
        ("--max-input-length", 20),
    ],
    ids=lambda more: more[0].removeprefix("--"),
)
def test_a_flag_has_an_effect(more: tuple[object, ...], tiny: Tiny, stages: Stages, tmp_path: Path) -> None:
    """Six steps with the flag end with other weights than six steps without it."""
    run(tiny.sst2(tmp_path / "plain", "--training-step", 6, "--epochs", 3))
    run(tiny.sst2(tmp_path / "flag", "--training-step", 6, "--epochs", 3, *more))
    plain, changed = tensors_under(tmp_path / "plain"), tensors_under(tmp_path / "flag")
    key = next(k for k in plain if k.startswith("checkpoints/") and "model.safetensors:" in k)
    last = f"checkpoints/step-00000006/{key.split('/', 2)[2]}"
    assert plain[last].isfinite().all() and not torch.equal(plain[last], changed[last])


def test_task_ratio_weighs_the_task_loss(tiny: Tiny, tmp_path: Path) -> None:
    """--distil task-hidden: the loss is mse + task · ratio."""
    run(tiny.sst2(tmp_path / "run", "--distil", "task-hidden", "--task-ratio", 0.25, "--training-step", 1))
    row = rows_of(tmp_path / "run")[0]
    assert math.isclose(row["loss"], row["mse_loss"] + 0.25 * row["task_loss"], rel_tol=1e-5)
