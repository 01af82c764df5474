"""What happens when something is wrong: one clear sentence, exit code 2, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

import utils.engine.checkpoint as checkpoint_module
from dataset.errors import DataError
from model import PluginConfig, apply_edit, use_ratio
from model.delta import save_delta
from model.errors import ModelError
from model.plugin.published import save_published_plugin
from model.weights import read_torch_file
from tests.tiny import (
    Tiny,
    assert_same_tensors,
    backbone,
    die_before_step,
    killed_run,
    run,
    tensors_under,
)
from utils.engine.checkpoint import list_checkpoints
from utils.errors import USER_ERROR_CODE, UserError, run_as_script
from utils.variator.arguments import parse_arguments

ROOT = Path(__file__).resolve().parent.parent
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
    with pytest.raises(DataError, match=r"--data-path .*nowhere.* does not exist"):
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
    with pytest.raises(DataError, match=r"train\.tsv:6: 1 columns, expected at least 2"):
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
    with pytest.raises(UserError, match=r"--mux-num 8: .* have the ratios 2, 4 only"):
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
    """Unpickling this would create a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


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
        ("--model-config", "empty", r"empty is a directory without config\.json"),
        ("--plugin-path", "empty", r"--plugin-path .*empty holds no plugin"),
        ("--plugin-path", "nowhere", r"--plugin-path .*nowhere"),
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
    with pytest.raises(UserError, match=r"pass it as --plugin-path"):
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
    torch.testing.assert_close(short, long, rtol=0, atol=1e-6)
    torch.testing.assert_close(unmasked, long, rtol=0, atol=1e-6)


def test_ratio_larger_than_every_row_in_a_run(tiny: Tiny, tmp_path: Path) -> None:
    """Training and validating at k = 64 on rows of about 15 tokens works."""
    run(tiny.sst2(tmp_path / "run", "--distil", "hidden", "--mux-num", 64, "--training-step", 2))
    assert load_file(tmp_path / "run" / "best" / "plugin-k64.safetensors")


# --- the output directory ------------------------------------------------------------------------------------


def test_output_directory_that_holds_another_run(tiny: Tiny, tmp_path: Path) -> None:
    """Refused, untouched; --overwrite starts anew."""
    arguments = tiny.sst2(tmp_path / "run", "--training-step", 2)
    run(arguments)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    with pytest.raises(UserError, match=r"--output-path .*run holds another run: .*--resume.*--overwrite"):
        run(arguments)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before
    run([*arguments, "--overwrite", "--random-seed", "2"])
    assert json.loads((tmp_path / "run" / "arguments.json").read_text())["seed"] == 2


def test_output_directory_with_other_files(tiny: Tiny, tmp_path: Path) -> None:
    """A directory with somebody's files is refused, also with --overwrite, and they stay."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    for more in ([], ["--overwrite"], ["--resume"]):
        with pytest.raises(UserError, match=r"--output-path .*run is not empty and holds no run"):
            run(tiny.sst2(tmp_path / "run", *more))
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


def test_output_path_that_is_a_file(tiny: Tiny, tmp_path: Path) -> None:
    """A file as --output-path is refused."""
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"--output-path .*run is a file"):
        run(tiny.sst2(tmp_path / "run"))


def test_output_path_that_cannot_be_made(tiny: Tiny, tmp_path: Path) -> None:
    """A directory below a file cannot be made: one sentence with the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output-path .*run"):
        run(tiny.sst2(tmp_path / "file" / "run"))


def test_resume_and_overwrite_exclude_each_other(tiny: Tiny, tmp_path: Path) -> None:
    """Both at once is an error."""
    with pytest.raises(UserError, match=r"--resume and --overwrite exclude each other"):
        run(tiny.sst2(tmp_path / "run", "--resume", "--overwrite"))


def test_resume_with_other_flags(tiny: Tiny, tmp_path: Path) -> None:
    """Every flag that differs is named with both values, and the run is not touched."""
    run(tiny.sst2(tmp_path / "run", "--training-step", 2))
    before = tensors_under(tmp_path / "run")
    with pytest.raises(UserError, match=r"--lr 0\.5 \(was 0\.001\).*--random-seed 9 \(was 1\)"):
        run([*tiny.sst2(tmp_path / "run", "--resume", "--random-seed", 9), "--lr", "0.5"])
    assert_same_tensors(tensors_under(tmp_path / "run"), before)


# --- a full disk ---------------------------------------------------------------------------------------------


def test_disk_full_during_a_save(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third checkpoint does not fit: one sentence, and the second is whole and can be resumed from."""
    saves = 0

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        nonlocal saves
        saves += path.name == "optimizer.safetensors"
        save_file(tensors, path)
        if saves == 3:
            os.truncate(path, path.stat().st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    arguments = tiny.sst2(tmp_path / "run", "--save-step", 2)
    run(tiny.sst2(tmp_path / "whole", "--save-step", 2))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "save_file", full)
        with pytest.raises(UserError, match=r"Could not write .*step-00000006: No space left on device"):
            run(arguments)
    assert [p.name for p in list_checkpoints(tmp_path / "run")] == ["step-00000002", "step-00000004"]
    assert not list((tmp_path / "run").rglob("*.partial"))
    run([*arguments, "--resume"])
    assert_same_tensors(tensors_under(tmp_path / "run"), tensors_under(tmp_path / "whole"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of the given number of KiB; skips where that is not allowed."""
    path = tmp_path / "disk"

    def mount(size: int) -> Path:
        path.mkdir()
        if shutil.which("mount") is None or os.geteuid() != 0:
            pytest.skip("mounting a tmpfs needs root")
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(path)]
        if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        return path

    yield mount
    if os.path.ismount(path):
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("room", [300, 700, 1100, 1500, 2000])
def test_disk_really_full(tiny: Tiny, tmp_path: Path, small_disk: Callable[[int], Path], room: int) -> None:
    """On a file system that fills up, at whichever file: one sentence, and what was saved stays loadable."""
    disk = small_disk(room)
    arguments = tiny.sst2(disk / "run", "--save-step", 2, "--keep-checkpoints", 9)
    with pytest.raises((UserError, ModelError), match=r"[Nn]o space left on device|os error 28"):
        run(arguments)
    for path in list_checkpoints(disk / "run"):
        names = {"model.safetensors", "optimizer.safetensors", "random.safetensors", "trainer.json", "arguments.json"}
        assert {p.name for p in path.iterdir()} == names
        assert tensors_under(path)
    if (disk / "run" / "best").exists():
        AutoModelForSeq2SeqLM.from_pretrained(disk / "run" / "best")
    assert not list(disk.rglob("*.partial"))


# --- flags ---------------------------------------------------------------------------------------------------


def test_all_problems_are_told_at_once() -> None:
    """Missing and conflicting flags come in one message."""
    with pytest.raises(UserError) as error:
        parse_arguments(["--dataset", "sst2", "--mux-num", "-4", "--batch-size", "0", "--plugin-path", "x"])
    for part in ("--data-path", "--model-config", "--output-path", "--mux-num", "--batch-size", "--distil no"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--dataset sst3", r"--dataset.*sst3.*sst2"),
        ("--epochs many", r"--epochs.*many"),
        ("--distil maybe", r"--distil.*maybe.*task-hidden"),
        ("--learning-rate 3", r"--learning-rate"),
        ("--batchsize 3", r"--batchsize.*did you mean --batch[-_]size"),
        ("stray", r"stray"),
        ("--mux-num", r"--mux-num|--mux_num"),
    ],
)
def test_a_flag_that_is_not_understood(arguments: str, named: str) -> None:
    """Unknown datasets, values and flags are one sentence that says what would do."""
    with pytest.raises(UserError, match=named) as error:
        parse_arguments(arguments.split())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--lr -1", "--lr"),
        ("--epochs 0", "--epochs"),
        ("--grad-accumulation 0", "--grad-accumulation"),
        ("--keep-checkpoints 0", "--keep-checkpoints"),
        ("--clip-grad -1", "--clip-grad"),
        ("--warmup-step -1", "--warmup-step"),
        ("--max-input-length 0", "--max-input-length"),
        ("--mux-num 4 4 --distil hidden", "--mux-num"),
        ("--distil hidden --residual-scale 0", "--residual-scale"),
        ("--num-workers -1", "--num-workers"),
        ("--patience -1", "--patience"),
        ("--inspect-step 0", "--inspect-step"),
    ],
)
def test_numbers_out_of_range(arguments: str, named: str) -> None:
    """A number that cannot work is refused by its flag before anything is loaded."""
    base = "--dataset sst2 --data-path d --model-config m --output-path o"
    with pytest.raises(UserError, match=named):
        parse_arguments([*base.split(), *arguments.split()])


def test_hyphens_and_underscores() -> None:
    """Both spellings of every flag mean the same."""
    words = (
        "--data-path d --model-config m --output-path o --max-input-length 7 --delta-tuning --warmup-step 3 --no-costs"
    )
    hyphens = parse_arguments(["--dataset", "sst2", *words.split()])
    under = [w.replace("-", "_").replace("__", "--", 1) if w.startswith("--") else w for w in words.split()]
    assert parse_arguments(["--dataset", "sst2", *under]) == hyphens
    assert hyphens[0].max_input_length == 7 and hyphens[1].delta_tuning and hyphens[2].warmup_step == 3
    assert not hyphens[0].costs


@pytest.mark.parametrize("name", ["model", "student-config", "ctx-length", "target-length", "local-rank"])
def test_flags_of_the_original_without_effect(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Accepted in both spellings with a warning on standard error, without changing anything."""
    base = ["--dataset", "sst2", "--data-path", "d", "--model-config", "m", "--output-path", "o"]
    plain = parse_arguments(base)
    assert capsys.readouterr().err == ""
    for flag in (f"--{name}", f"--{name.replace('-', '_')}"):
        assert parse_arguments([*base, flag, "3"]) == plain
        assert f"--{name} has no effect" in capsys.readouterr().err


def test_fp16_is_refused_for_t5(tiny: Tiny, tmp_path: Path) -> None:
    """T5 overflows in fp16, and the refusal says so."""
    with pytest.raises(UserError, match=r"--precision fp16 is refused: T5's residual stream overflows"):
        run(tiny.sst2(tmp_path / "run", "--precision", "fp16"))
    assert not (tmp_path / "run").exists()


def test_diverging_loss_is_an_error(tiny: Tiny, tmp_path: Path) -> None:
    """A loss that becomes nan or inf stops the run with the step and what to do."""
    with pytest.raises(UserError, match=r"The (loss|gradient norm) became (nan|inf) at step \d+: lower --lr"):
        run([*tiny.sst2(tmp_path / "run", "--epochs", 9, "--clip-grad", 0), "--lr", "1e30"])


# --- the process: exit codes, streams, traceback ----------------------------------------------------------------


def script(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """`python train_t5.py …` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "train_t5.py", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_a_mistake_is_one_line_and_exit_code_2(tiny: Tiny, tmp_path: Path) -> None:
    """The real script: one line on standard error, nothing on standard output, exit code 2."""
    done = script([*tiny.sst2(tmp_path / "run"), "--data-path", str(tmp_path / "nowhere")])
    assert done.returncode == USER_ERROR_CODE == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: --data-path"), done.stderr
    assert done.stdout == ""


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """The same mistake with --debug: the traceback."""
    done = script(["--dataset", "sst3", "--debug"])
    assert done.returncode != 0
    assert "Traceback (most recent call last)" in done.stderr and "sst3" in done.stderr


@pytest.mark.parametrize("error", [UserError, DataError, ModelError])
def test_every_error_of_the_toolkit_ends_with_exit_code_2(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on standard error and exit code 2; re-raised with debug; other errors are not swallowed."""

    def fail() -> None:
        raise error("the sentence.")

    with pytest.raises(SystemExit) as stop:
        run_as_script(fail, debug=False)
    assert stop.value.code == 2 and capsys.readouterr().err == "error: the sentence.\n"
    with pytest.raises(error):
        run_as_script(fail, debug=True)
    with pytest.raises(ZeroDivisionError):
        run_as_script(lambda: 1 / 0, debug=False)


def test_a_published_plugin_of_this_model_is_accepted(tiny: Tiny, tmp_path: Path) -> None:
    """The refusals above are not blind: a fitting .pkl is taken."""
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny.model)
    apply_edit(model, PluginConfig(ratios=(4,)))
    save_published_plugin(model, 4, tmp_path / "plugin.pkl")
    run(tiny.sst2(tmp_path / "run", "--distil", "hidden", "--plugin-path", tmp_path / "plugin.pkl"))


def test_a_killed_run_is_refused_without_resume(tiny: Tiny, tmp_path: Path) -> None:
    """The directory of a run that was killed counts as occupied."""
    killed_run(tiny.sst2(tmp_path / "run"), die_before_step, 1)
    with pytest.raises(UserError, match=r"holds another run"):
        run(tiny.sst2(tmp_path / "run"))
