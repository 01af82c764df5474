"""Data, models and plugins that are missing, damaged or do not fit: one clear sentence, and nothing is executed."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM

from dataset.errors import DataError
from model import PluginConfig, apply_edit, use_ratio
from model.delta import save_delta
from model.errors import ModelError
from model.plugin.published import save_published_plugin
from model.weights import read_torch_file
from tests.tiny import Tiny, backbone, run
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def plugin_directory(model_directory: Path, output: Path, ratios: tuple[int, ...] = (4,)) -> Path:
    """An untrained plugin for the model in `model_directory`, saved as a run's best/ is."""
    model = AutoModelForSeq2SeqLM.from_pretrained(model_directory)
    apply_edit(model, PluginConfig(ratios=ratios, residual_scale=1.0))
    output.mkdir()
    save_delta(model, "plugin", output)
    return output


def own_data(tiny: Tiny, folder: Path) -> Path:
    """The path of a fresh copy of the SST-2 training file, to be spoilt."""
    shutil.copytree(tiny.glue, folder)
    return folder / "SST-2" / "train.tsv"


# --- data ----------------------------------------------------------------------------------------------------


def test_missing_data_file(tiny: Tiny, tmp_path: Path) -> None:
    """The file that was looked for and what lies there instead are named."""
    own_data(tiny, tmp_path / "glue").rename(tmp_path / "glue" / "SST-2" / "training.tsv")
    with pytest.raises(DataError, match=r"train\.tsv"):
        run([*tiny.sst2(tmp_path / "run"), "--data-path", str(tmp_path / "glue")])
    assert not (tmp_path / "run").exists()


def test_missing_data_folder(tiny: Tiny, tmp_path: Path) -> None:
    """A --data-path that does not exist is named together with the flag."""
    with pytest.raises(DataError, match=r"--data_dir .*nowhere.* does not exist"):
        run([*tiny.sst2(tmp_path / "run"), "--data-path", str(tmp_path / "nowhere")])


@pytest.mark.parametrize("content", ["", "\n\n", "sentence\tlabel\n"], ids=["no_bytes", "blank_lines", "header_only"])
def test_empty_data_file(tiny: Tiny, tmp_path: Path, content: str) -> None:
    """A file without rows is an error that names it, never a run over nothing."""
    path = own_data(tiny, tmp_path / "glue")
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.tsv: this file (is empty|has a header and no rows)"):
        run([*tiny.sst2(tmp_path / "run"), "--data-path", str(tmp_path / "glue")])


def test_empty_corpus(tiny: Tiny, tmp_path: Path) -> None:
    """A corpus without a usable line is an error that names the file."""
    shutil.copytree(tiny.corpus, tmp_path / "corpus")
    (tmp_path / "corpus" / "train.txt").write_text("\nword\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.txt: no line with two words"):
        run([*tiny.wiki(tmp_path / "run"), "--data-path", str(tmp_path / "corpus")])


def test_row_with_too_few_columns(tiny: Tiny, tmp_path: Path) -> None:
    """File and line of the broken row, found and expected number of columns."""
    path = own_data(tiny, tmp_path / "glue")
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[5] = "no label here"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.tsv:6: 1 column, the header has 2"):
        run([*tiny.sst2(tmp_path / "run"), "--data-path", str(tmp_path / "glue")])


def test_label_outside_the_set(tiny: Tiny, tmp_path: Path) -> None:
    """File and line, the label that was found and those that are allowed."""
    path = own_data(tiny, tmp_path / "glue")
    path.write_text(path.read_text(encoding="utf-8") + "a film\t2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.tsv:26: label '2' is none of sst2's: 0, 1"):
        run([*tiny.sst2(tmp_path / "run"), "--data-path", str(tmp_path / "glue")])


def test_data_that_are_not_text(tiny: Tiny, tmp_path: Path) -> None:
    """A binary file under a TSV's name is refused by file and line."""
    path = own_data(tiny, tmp_path / "glue")
    path.write_bytes(b"sentence\tlabel\na\xff\xfe\t1\n")
    with pytest.raises(DataError, match=r"train\.tsv:2: this line is not UTF-8"):
        run([*tiny.sst2(tmp_path / "run"), "--data-path", str(tmp_path / "glue")])


def test_damaged_squad_json(tiny: Tiny, tmp_path: Path) -> None:
    """Truncated JSON is refused by file and line."""
    shutil.copytree(tiny.squad, tmp_path / "squad")
    path = tmp_path / "squad" / "train-v1.1.json"
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(DataError, match=r"train-v1\.1\.json:1: not valid JSON"):
        run([*tiny.qa(tmp_path / "run"), "--data-path", str(tmp_path / "squad")])


# --- models and plugins --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "layers", "named"),
    [(48, 2, r"width 48 \(the model has 32\)"), (32, 3, r"layers 3 \(the model has 2\)")],
    ids=["width", "depth"],
)
def test_plugin_for_another_backbone(tiny: Tiny, tmp_path: Path, width: int, layers: int, named: str) -> None:
    """A plugin of another width or depth is refused with both numbers."""
    other = plugin_directory(backbone(tmp_path / "other", width, layers), tmp_path / "plugin")
    with pytest.raises(ModelError, match=rf"plugin: this plugin was made for another backbone: .*{named}"):
        run(tiny.sst2(tmp_path / "run", "--distil", "hidden", "--plugin-path", other))


def test_published_plugin_for_another_depth(tiny: Tiny, goldens: Path, tmp_path: Path) -> None:
    """A published .pkl for three layers is refused by a model of two."""
    path = next(goldens.glob("variator_plugin-t5_*-mux_*.pkl"))
    with pytest.raises(ModelError, match=r"made for \d+ layers of width \d+, the model has 2 of width 32"):
        run(tiny.sst2(tmp_path / "run", "--distil", "hidden", "--plugin-path", path))


def test_ratio_that_the_plugin_file_lacks(tiny: Tiny, tmp_path: Path) -> None:
    """--mux-num with a ratio that --plugin-path does not hold names those that it holds."""
    plugin = plugin_directory(tiny.model, tmp_path / "plugin", (2, 4))
    with pytest.raises(UserError, match=r"--mux_num 8: .* have the ratios 2, 4 only"):
        run(tiny.sst2(tmp_path / "run", "--distil", "hidden", "--mux-num", 4, 8, "--plugin-path", plugin))


@pytest.mark.parametrize("share", [0.5, 0.001, 0.0], ids=["half", "header", "nothing"])
def test_truncated_safetensors_file(tiny: Tiny, tmp_path: Path, share: float) -> None:
    """A cut plugin file is refused with its name and its size, whatever is left of it."""
    plugin = plugin_directory(tiny.model, tmp_path / "plugin")
    file = plugin / "plugin-k4.safetensors"
    size = int(file.stat().st_size * share)
    os.truncate(file, size)
    with pytest.raises(ModelError, match=rf"plugin-k4\.safetensors \({size} bytes\) is not a whole safetensors file"):
        run(tiny.sst2(tmp_path / "run", "--distil", "hidden", "--plugin-path", plugin))


def test_truncated_backbone(tiny: Tiny, tmp_path: Path) -> None:
    """A cut model.safetensors of --model-config or --checkpoint is one sentence that names the directory."""
    shutil.copytree(tiny.model, tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises((UserError, ModelError), match=r"broken.*model\.safetensors \(\d+ bytes\) is not"):
        run(tiny.sst2(tmp_path / "run", "--checkpoint", tmp_path / "broken"))


class _TouchesMarker:
    """Unpickling this would make a directory."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
@pytest.mark.parametrize("flag", ["--plugin-path", "--checkpoint"])
def test_malicious_pickle(tiny: Tiny, tmp_path: Path, flag: str, form: str) -> None:
    """A .pkl or .pt whose unpickling runs a command is refused, and the command has not run."""
    marker, path = tmp_path / "marker", tmp_path / "evil.pkl"
    evil = {"mux_layer.0.mux_layer.bias": _TouchesMarker(marker)}
    if form == "torch":
        torch.save(evil, path)
    else:
        path.write_bytes(pickle.dumps(evil))
    with pytest.raises(ModelError, match=r"evil\.pkl (was refused|is not a whole PyTorch weight file)"):
        run(tiny.sst2(tmp_path / "run", "--distil", "hidden", flag, path))
    assert not marker.exists()
    pickle.loads(pickle.dumps(evil))  # the same file, unpickled carelessly: this is what was refused
    assert marker.exists()


def test_text_file_as_plugin(tiny: Tiny, tmp_path: Path) -> None:
    """A file that is no weight file at all is refused by name."""
    path = tmp_path / "plugin.pkl"
    path.write_text("404 not found", encoding="utf-8")
    with pytest.raises(ModelError, match=r"plugin\.pkl"):
        run(tiny.sst2(tmp_path / "run", "--distil", "hidden", "--plugin-path", path))


def test_state_dict_that_is_none(tmp_path: Path) -> None:
    """A torch file that holds a list of tensors is no state dict."""
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(ModelError, match=r"not a state dict: expected names with tensors, found list"):
        read_torch_file(tmp_path / "list.pt")


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [
        ("--checkpoint", "nowhere", r"--checkpoint .*nowhere does not exist"),
        ("--checkpoint", "empty", r"--checkpoint .*empty holds no model"),
        ("--model_config", "empty", r"empty is a directory without config\.json"),
        ("--plugin_path", "empty", r"--plugin_path .*empty holds no plugin"),
        ("--plugin_path", "nowhere", r"--plugin_path .*nowhere"),
    ],
)
def test_missing_model_or_plugin(tiny: Tiny, tmp_path: Path, flag: str, value: str, named: str) -> None:
    """A path that does not exist, or is an empty directory, is named with its flag."""
    (tmp_path / "empty").mkdir()
    with pytest.raises((UserError, ModelError), match=named):
        run(tiny.sst2(tmp_path / "run", "--distil", "hidden", flag, tmp_path / value))
    assert not (tmp_path / "run").exists()


def test_plugin_given_as_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    """A plugin directory as --checkpoint is refused with the flag that it belongs to."""
    plugin = plugin_directory(tiny.model, tmp_path / "plugin")
    with pytest.raises(UserError, match=r"pass it as --plugin_path"):
        run(tiny.sst2(tmp_path / "run", "--checkpoint", plugin))


@pytest.mark.parametrize("ratio", [4, 8, 16])
def test_ratio_larger_than_the_sequence(tiny: Tiny, ratio: int) -> None:
    """A sequence of 3 tokens at k = 4, 8, 16 works, and equals the sequence padded up to k by hand."""
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny.model).eval()
    apply_edit(model, PluginConfig(ratios=(ratio,), residual_scale=1.0))
    ids, start = torch.tensor([[5, 6, 7]]), torch.tensor([[0, 3]])
    padded = torch.nn.functional.pad(ids, (0, ratio - 3), value=model.config.pad_token_id)
    with torch.no_grad(), use_ratio(model, ratio):
        short = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=start).logits
        unmasked = model(input_ids=ids, decoder_input_ids=start).logits
        long = model(
            input_ids=padded, attention_mask=(padded != model.config.pad_token_id).long(), decoder_input_ids=start
        ).logits
    torch.testing.assert_close(short, long, rtol=0, atol=4e-6)
    torch.testing.assert_close(unmasked, long, rtol=0, atol=4e-6)


def test_ratio_larger_than_every_row_in_a_run(tiny: Tiny, tmp_path: Path) -> None:
    """Training and validating at k = 64 on rows of about 15 tokens works."""
    run(tiny.sst2(tmp_path / "run", "--distil", "hidden", "--mux-num", 64, "--training-step", 2))
    assert load_file(tmp_path / "run" / "best" / "plugin-k64.safetensors")


def test_a_published_plugin_of_this_model_is_accepted(tiny: Tiny, tmp_path: Path) -> None:
    """The refusals above are not blind: a fitting .pkl is taken."""
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny.model)
    apply_edit(model, PluginConfig(ratios=(4,)))
    save_published_plugin(model, 4, tmp_path / "plugin.pkl")
    run(tiny.sst2(tmp_path / "run", "--distil", "hidden", "--plugin-path", tmp_path / "plugin.pkl"))
