"""What a model is after loading: its dtype, its dropout, the LoRA of an original checkpoint, the ratios asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from model import LoraConfig, PluginConfig, apply_edit, available_ratios, find_edit
from model.compression import delta_state
from model.delta import save_delta
from model.plugin.objective import freeze_for
from tests.tiny import Tiny, original_checkpoint, result_of, run
from utils.errors import UserError
from utils.loading import load_t5, set_dropout

pytestmark = pytest.mark.usefixtures("one_thread")


def test_parameters_are_float32_whatever_the_file_holds(tiny: Tiny, tmp_path: Path) -> None:
    """A backbone saved in half precision is trained in float32: half is autocast's business."""
    AutoModelForSeq2SeqLM.from_pretrained(tiny.model).half().save_pretrained(tmp_path / "half")
    model = load_t5(str(tmp_path / "half"), None, tokenizer=False).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_directory_that_lacks_weights_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """A tensor that its config.json calls for and no file holds would be random: the first is named."""
    shutil.copytree(tiny.model, tmp_path / "t5")
    weights = load_file(tmp_path / "t5" / "model.safetensors")
    del weights["encoder.block.1.layer.1.DenseReluDense.wo.weight"]
    save_file(weights, tmp_path / "t5" / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"t5 lacks 1 tensors of .*, encoder\.block\.1\.layer\.1\.Dense.*wo\.weight for"
    ):
        load_t5(str(tmp_path / "t5"), None, tokenizer=False)


def test_lora_of_an_original_checkpoint_is_loaded(tiny: Tiny, tmp_path: Path) -> None:
    """A best_model.pt trained with --delta-tuning keeps its LoRA; entries beyond the decoder's depth are left out."""
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny.model)
    path = original_checkpoint(model, tmp_path / "best_model.pt")
    lora = LoraConfig(rank=3)
    apply_edit(model, lora)
    for module in lora.own_modules(model).values():
        torch.nn.init.normal_(module.get_parameter("lora_B"))
    state = delta_state(model, lora)
    dead = {k.replace("_dec.1.", "_dec.7."): v for k, v in state.items() if "_dec.1." in k}
    torch.save({**torch.load(path, weights_only=True), **state, **dead}, path)
    loaded = load_t5(str(tiny.model), path, tokenizer=False).model
    assert find_edit(loaded, LoraConfig) == lora
    for name, tensor in delta_state(loaded, lora).items():
        assert torch.equal(tensor, state[name]), name


def test_dropout_reaches_layers_and_attention_and_leaves_the_config(tiny: Tiny) -> None:
    """With --dropout two training passes differ, evaluation is exact, and the saved config says 0."""
    model = load_t5(str(tiny.model), None, tokenizer=False).model
    ids = torch.arange(5, 13).unsqueeze(0)
    before = model.eval()(input_ids=ids, decoder_input_ids=ids).logits
    set_dropout(model, 0.5)
    assert torch.equal(model.eval()(input_ids=ids, decoder_input_ids=ids).logits, before)
    noisy = [model.train()(input_ids=ids, decoder_input_ids=ids).logits for _ in range(2)]
    assert not torch.equal(*noisy) and model.config.dropout_rate == 0.0
    rates = {m.dropout for m in model.modules() if isinstance(getattr(m, "dropout", None), float)}
    assert rates == {0.5}


def test_only_the_ratios_asked_for_are_loaded_trained_and_saved(tiny: Tiny, tmp_path: Path) -> None:
    """--mux-num 2 with a file of 2 and 4 adapts and saves ratio 2 alone; 4 does not pass for adapted."""
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny.model)
    apply_edit(model, PluginConfig(ratios=(2, 4)))
    (tmp_path / "plugins").mkdir()
    save_delta(model, "plugin", tmp_path / "plugins")
    flags = ("--distil", "hidden", "--mux-num", 2, "--plugin-path", tmp_path / "plugins", "--training-step", 1)
    run(tiny.sst2(tmp_path / "run", *flags))
    assert sorted(p.name for p in (tmp_path / "run" / "best").glob("*.safetensors")) == ["plugin-k2.safetensors"]
    trained = load_file(next((tmp_path / "run" / "checkpoints").glob("step-*")) / "model.safetensors")
    assert trained and all(".bank.2." in name for name in trained)


def test_freezing_by_ratio(tiny: Tiny) -> None:
    """Only the plugins of the named ratios learn; without distillation no plugin does."""
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny.model)
    apply_edit(model, PluginConfig(ratios=(2, 4)))
    assert available_ratios(model) == (1, 2, 4)
    freeze_for(model, "hidden", delta_tuning=False, ratios=(4,))
    assert {n.split(".bank.")[1][0] for n, p in model.named_parameters() if p.requires_grad} == {"4"}
    freeze_for(model, "no", delta_tuning=False)
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".bank." in n)
    assert model.shared.weight.requires_grad


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--distil hidden --dropout 0.1", "--dropout is for training the T5"),
        ("--distil hidden --mux-num 1", "--mux_num 1 leaves no plugin"),
        ("--distil hidden --task_ratio 0.5", "--task_ratio has no effect with --distil hidden"),
        ("--distil hidden --plugin_path somewhere --residual_scale 10", "--residual_scale is for new plugins"),
        ("--dropout 1.5", "--dropout must be at least 0 and below 1"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(tiny: Tiny, tmp_path: Path, flags: str, said: str) -> None:
    """A setting without effect is an error, never silence."""
    with pytest.raises(UserError, match=said):
        run(tiny.sst2(tmp_path / "run", *flags.split()))


def test_compat_of_saved_plugins_cannot_be_changed(tiny: Tiny, tmp_path: Path) -> None:
    """--compat that differs from what the plugins were trained with is refused, not ignored."""
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny.model)
    apply_edit(model, PluginConfig(ratios=(2,)))
    (tmp_path / "plugins").mkdir()
    save_delta(model, "plugin", tmp_path / "plugins")
    flags = ("--mode", "valid", "--no-costs", "--plugin-path", tmp_path / "plugins")
    with pytest.raises(UserError, match=r"--compat original: .* were trained with native"):
        run(tiny.sst2(tmp_path / "run", *flags, "--compat", "original"))
    run(tiny.sst2(tmp_path / "same", *flags, "--compat", "native"))


def test_plugins_inside_a_model_directory_are_not_called_untrained(tiny: Tiny, tmp_path: Path) -> None:
    """A saved model that carries its plugins is evaluated with them, under their plain name."""
    model = load_t5(str(tiny.model), None)
    apply_edit(model.model, PluginConfig(ratios=(4,)))
    model.model.save_pretrained(tmp_path / "small")
    model.tokenizer.save_pretrained(tmp_path / "small")
    arguments = tiny.sst2(tmp_path / "run", "--mode", "valid", "--no-costs", "--mux-num", 4)
    run([str(tmp_path / "small") if value == str(tiny.model) else value for value in arguments])
    assert [row["name"] for row in result_of(tmp_path / "run")["rows"]] == ["dense", "k=4"]


def test_help_is_grouped_and_shows_one_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    """--help has a group per subject; each flag is there once, with underscores."""
    with pytest.raises(SystemExit) as stop:
        run(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "--max_seq_length" in text and "max_input_length" not in text
    for title in ("task:", "plugins:", "training:", "evaluation and checkpoints:", "run:", "accepted without effect"):
        assert title in text, title
