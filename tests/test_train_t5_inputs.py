"""The real script on what else it reads: SQuAD, checkpoints and plugins of the original, ModelCenter directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from dataset.errors import DataError
from model import PluginConfig, apply_edit
from model.delta import read_delta_edit
from model.heads import Seq2SeqHead
from model.plugin.published import ORIGINAL_DECODER_START, save_published_plugin
from model.weights import read_torch_file
from tests.tiny import Tiny, original_checkpoint, result_of, rows_of, run, valid
from utils import loading
from utils.loading import load_t5
from utils.variator import evaluation
from utils.variator.arguments import TaskArguments, choose_decoder_start

pytestmark = pytest.mark.usefixtures("one_thread")


# --- SQuAD ---------------------------------------------------------------------------------------------------


def test_squad_trains_and_validates_by_generation(tiny: Tiny, tmp_path: Path) -> None:
    """Exact match and F1 over all questions, at the dense model and with plugins."""
    run(tiny.qa(tmp_path / "run", "--epochs", 2))
    row = next(r for r in rows_of(tmp_path / "run") if r["split"] == "valid")
    assert {"exact_match", "f1"} <= row.keys() and 0 <= row["exact_match"] <= row["f1"] <= 1
    run(tiny.qa(tmp_path / "mux", "--checkpoint", tmp_path / "run" / "best", "--distil", "task-hidden", "--mux-num", 4))
    best = (tmp_path / "run" / "best", tmp_path / "mux" / "best")
    run(tiny.qa(tmp_path / "valid", "--mode", "valid", "--no-costs", "--checkpoint", best[0], "--plugin-path", best[1]))
    rows = result_of(tmp_path / "valid")["rows"]
    assert [r["ratio"] for r in rows] == [1, 4] and all("f1" in r for r in rows)


@pytest.mark.parametrize(("given", "start"), [((), 0), (("--decoder-start", 2), 2)])
def test_squad_answers_begin_with_the_decoder_start(
    given: tuple[object, ...], start: int, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--decoder-start reaches the training rows and generation, and is remembered beside the weights."""
    trained: set[int] = set()
    generated: list[int] = []
    forward, generate = Seq2SeqHead.__call__, evaluation.generate_answers

    def recorded(self: Seq2SeqHead, model: Any, batch: Any) -> Any:
        trained.update(batch["decoder_input_ids"][:, 0].tolist())
        return forward(self, model, batch)

    def recorded_generation(model: Any, batch: Any, sentinels: Any, eos: int, decoder_start: int) -> Any:
        generated.append(decoder_start)
        return generate(model, batch, sentinels, eos, decoder_start)

    monkeypatch.setattr(Seq2SeqHead, "__call__", recorded)
    monkeypatch.setattr(evaluation, "generate_answers", recorded_generation)
    run(tiny.qa(tmp_path / "run", "--training-step", 1, *given))
    best = tmp_path / "run" / "best"
    run(tiny.qa(tmp_path / "valid", "--mode", "valid", "--no-costs", "--checkpoint", best))
    assert trained == {start} and set(generated) == {start} and len(generated) == 2


def test_one_squad_file_is_for_validation_only(tiny: Tiny, tmp_path: Path) -> None:
    """Training on it would validate on the rows that were trained on."""
    file = tiny.squad / "dev-v1.1.json"
    with pytest.raises(DataError, match=r"--data_dir .*dev-v1\.1\.json is one file.*name the folder"):
        run([*tiny.qa(tmp_path / "run"), "--data-path", str(file)])
    assert not (tmp_path / "run").exists()
    run([*tiny.qa(tmp_path / "valid", "--mode", "valid", "--no-costs"), "--data-path", str(file)])
    assert "exact_match" in result_of(tmp_path / "valid")["rows"][0]


def test_squad_can_be_learnt(tiny: Tiny, tmp_path: Path) -> None:
    """A T5 that has learnt the one answer reaches exact match 1: generation reads what training wrote."""
    run([*tiny.qa(tmp_path / "run", "--epochs", 40, "--valid-step", 1000), "--lr", "1e-2"])
    assert result_of(tmp_path / "run")["best_value"] == 1.0


# --- the original's files --------------------------------------------------------------------------------------


def test_original_checkpoint_as_start(tiny: Tiny, tmp_path: Path) -> None:
    """A best_model.pt with ModelCenter's names and units gives the same model as the directory it was made of."""
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny.model)
    path = original_checkpoint(model, tmp_path / "best_model.pt")
    loaded = load_t5(str(tiny.model), path)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)
    assert loaded.decoder_start == 2
    original = valid(tiny, tmp_path / "original", "--checkpoint", path)
    start = valid(tiny, tmp_path / "ours", "--decoder-start", 2)
    assert original[0]["accuracy"] == start[0]["accuracy"]
    assert original[0]["loss"] == pytest.approx(start[0]["loss"], abs=1e-4)
    run(tiny.sst2(tmp_path / "run", "--checkpoint", path, "--training-step", 2))
    assert json.loads((tmp_path / "run" / "best" / "task.json").read_text())["decoder_start"] == 2


def test_squad_from_an_original_checkpoint_starts_as_the_original_did(tiny: Tiny, tmp_path: Path) -> None:
    """The original started answers with 0 and classification with 2; a start that is given wins."""
    path = tmp_path / "best_model.pt"
    path.touch()
    cases: list[tuple[str, int | None, int]] = [("squad", None, 0), ("sst2", None, 2), ("squad", 2, 2)]
    for dataset, given, start in cases:
        task = TaskArguments(dataset=dataset, checkpoint=path, decoder_start=given)
        assert choose_decoder_start(task, ORIGINAL_DECODER_START) == start
    assert choose_decoder_start(TaskArguments(dataset="squad", checkpoint=tmp_path), 2) == 2
    assert choose_decoder_start(TaskArguments(dataset="squad"), None) == 0


def test_an_original_checkpoint_is_read_once(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gigabytes are not read a second time for the LoRA in it."""
    path = original_checkpoint(AutoModelForSeq2SeqLM.from_pretrained(tiny.model), tmp_path / "best_model.pt")
    read: list[Path] = []

    def counted(file: Path) -> Any:
        read.append(file)
        return read_torch_file(file)

    monkeypatch.setattr(loading, "read_torch_file", counted)
    load_t5(str(tiny.model), path)
    assert read == [path]


def test_original_checkpoint_with_plugins(tiny: Tiny, tmp_path: Path) -> None:
    """A best_model.pt that holds plugins too is evaluated with them: no --plugin-path needed."""
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny.model)
    path = original_checkpoint(model, tmp_path / "best_model.pt")
    apply_edit(model, PluginConfig(ratios=(4,)))
    save_published_plugin(model, 4, tmp_path / "plugin.pkl")
    both = {**torch.load(path, weights_only=True), **torch.load(tmp_path / "plugin.pkl", weights_only=True)}
    torch.save(both, path)
    whole = valid(tiny, tmp_path / "whole", "--checkpoint", path, "--mux-num", 4)
    apart = valid(tiny, tmp_path / "apart", "--plugin-path", tmp_path / "plugin.pkl", "--decoder-start", 2)
    assert [row["ratio"] for row in whole] == [row["ratio"] for row in apart] == [1, 4]
    assert whole[1]["loss"] == pytest.approx(apart[1]["loss"], abs=1e-4)
    assert "untrained" not in whole[1]["name"]


def test_published_plugin_as_start(tiny: Tiny, tmp_path: Path) -> None:
    """A published .pkl is evaluated with its own ratio and size, and can be adapted."""
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny.model)
    apply_edit(model, PluginConfig(ratios=(4,)))
    save_published_plugin(model, 4, tmp_path / "plugin.pkl")
    rows = valid(tiny, tmp_path / "valid", "--plugin-path", tmp_path / "plugin.pkl", "--costs")
    assert [row["name"] for row in rows] == ["dense", "k=4"]
    assert rows[1]["delta_bytes"] == (tmp_path / "plugin.pkl").stat().st_size
    run(tiny.sst2(tmp_path / "run", "--distil", "hidden", "--plugin-path", tmp_path / "plugin.pkl"))
    edit = read_delta_edit(tmp_path / "run" / "best", "plugin")
    assert isinstance(edit, PluginConfig) and edit.ratios == (4,) and edit.residual_scale == 100.0


def test_modelcenter_directory_as_backbone(tiny: Tiny, tmp_path: Path) -> None:
    """A ModelCenter directory (its config.json and pytorch_model.pt) works as --model-config."""
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny.model)
    folder = tmp_path / "modelcenter"
    AutoTokenizer.from_pretrained(tiny.model).save_pretrained(folder)
    config = model.config
    values = {
        "vocab_size": config.vocab_size,
        "dim_model": config.d_model,
        "dim_head": config.d_kv,
        "dim_ff": config.d_ff,
        "num_heads": config.num_heads,
        "num_encoder_layers": config.num_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "ffn_activate_fn": "relu",
    }
    (folder / "config.json").write_text(json.dumps(values))
    original_checkpoint(model, folder / "pytorch_model.pt")
    rows = valid(tiny, tmp_path / "valid", "--model-config", folder)
    assert rows[0]["loss"] == pytest.approx(valid(tiny, tmp_path / "ours")[0]["loss"], abs=1e-4)
