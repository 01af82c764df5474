"""Two dozen kinds of damage to every file of a checkpoint and of a model: none is trained on, or loaded, in silence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from model import PluginConfig, apply_edit
from model.delta import save_delta
from tests.helpers_engine import Bench, names, weights
from tests.tiny import backbone
from utils.checksums import CHECKSUMS_FILE, damage_in, listed
from utils.engine import TrainerConfig
from utils.engine.checkpoint import checkpoint_path, list_checkpoints
from utils.engine.resume import prepare_resume, problem_of
from utils.errors import UserError
from utils.opening.weights import load_weights, open_delta
from utils.studies.faults.damage import DAMAGES
from utils.writing import atomic_directory, write_json_into

pytestmark = pytest.mark.usefixtures("one_thread")

FILES = ("model.safetensors", "optimizer.safetensors", "random.safetensors", "trainer.json", "arguments.json")
CONFIG = TrainerConfig(epochs=1, lr=0.1, save_step=4, keep_checkpoints=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 steps with checkpoints at 4 and 8."""
    bench = Bench(tmp_path_factory.mktemp("damaged") / "run")
    bench.trainer(CONFIG).fit()
    return bench.path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", DAMAGES)
def test_no_damage_is_trained_on(kind: str, name: str, run: Path, tmp_path: Path) -> None:
    """--resume refuses, names the file and the older checkpoint, and changes nothing; auto goes on at the older one."""
    copy = shutil.copytree(run, tmp_path / "run")
    newest, older = checkpoint_path(copy, 8), checkpoint_path(copy, 4)
    before = (newest / name).read_bytes()
    DAMAGES[kind](newest / name)
    if (newest / name).is_file() and (newest / name).read_bytes() == before:
        assert kind == "of an older checkpoint" and (older / name).read_bytes() == before
        return
    with pytest.raises(UserError, match=rf"{name}.*; .*step-00000004 is whole: --resume auto goes on there\.$"):
        prepare_resume(copy, True)
    assert list_checkpoints(copy) == [older, newest]
    (remark,) = prepare_resume(copy, "auto")
    assert name in remark and list_checkpoints(copy) == [older] and problem_of(older) is None


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_list_never_lets_damage_pass(kind: str, run: Path, tmp_path: Path) -> None:
    """It is told, or it still says the same (a blank was hit), or there is none, as of older checkpoints."""
    copy = checkpoint_path(shutil.copytree(run, tmp_path / "run"), 8)
    known = listed(copy)
    assert known is not None and set(known) == set(FILES)
    DAMAGES[kind](copy / CHECKSUMS_FILE)
    assert problem_of(copy) is not None or listed(copy) in (known, None)


@pytest.mark.parametrize("resume", [True, "auto"])
def test_checkpoints_without_checksums_go_on(resume: bool | str, run: Path, tmp_path: Path) -> None:
    """Those of older versions; the run ends as one with them."""
    plain, whole = (Bench(shutil.copytree(run, tmp_path / name)) for name in ("plain", "whole"))
    for path in list_checkpoints(plain.path):
        (path / CHECKSUMS_FILE).unlink()
    longer = TrainerConfig(epochs=2, lr=0.1, save_step=4, keep_checkpoints=2)
    trainers = [bench.trainer(longer, resume=resume) for bench in (plain, whole)]  # type: ignore[arg-type]
    for trainer in trainers:
        assert trainer.progress.step == 8
        trainer.fit()
    assert weights(trainers[0]).equal(weights(trainers[1]))


def test_cleaning_up_leaves_what_somebody_put_into_a_checkpoint(tmp_path: Path) -> None:
    """Notes in an old checkpoint keep it; the others go as before."""
    bench = Bench(tmp_path / "run")
    bench.trainer(TrainerConfig(epochs=1, save_step=2, keep_checkpoints=3)).fit()
    notes = checkpoint_path(bench.path, 4) / "model-notes.safetensors"
    notes.write_text("mine")
    bench.trainer(TrainerConfig(epochs=2, save_step=2, keep_checkpoints=2), resume=True).fit()
    assert names(bench.path / "checkpoints") == {"step-00000004", "step-00000014", "step-00000016"}
    assert notes.read_text() == "mine"


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 and its plugins, written as a run writes them."""
    root = tmp_path_factory.mktemp("model")
    with atomic_directory(root / "best") as folder:
        backbone(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(root / "best")
    apply_edit(model, PluginConfig(ratios=(2,)))
    with atomic_directory(root / "plugins") as folder:
        save_delta(model, "plugin", folder, {})
    return root


def _load(folder: Path) -> None:
    if folder.name == "plugins":
        open_delta(AutoModelForSeq2SeqLM.from_pretrained(folder.parent / "best"), "plugin", folder)
    else:
        load_weights(AutoModelForSeq2SeqLM, str(folder))


@pytest.mark.parametrize(("folder", "file"), [("best", "model.safetensors"), ("plugins", "plugin-k2.safetensors")])
def test_damaged_weights_are_not_loaded(folder: str, file: str, best: Path, tmp_path: Path) -> None:
    """A bit in the middle of a tensor is found; without the list it is what somebody wants."""
    copy = shutil.copytree(best, tmp_path / "copy") / folder
    _load(copy)
    DAMAGES["bit flipped in the middle"](copy / file)
    with pytest.raises(
        UserError, match=rf"{file} is damaged: .*if it was changed on purpose, remove .*checksums\.json"
    ):
        _load(copy)
    (copy / CHECKSUMS_FILE).unlink()
    _load(copy)


def test_a_config_may_be_edited_and_files_added(best: Path, tmp_path: Path) -> None:
    """As the papers' own releases ask for."""
    copy = shutil.copytree(best, tmp_path / "copy") / "best"
    config = copy / "config.json"
    config.write_text(config.read_text().replace('"dropout_rate": 0.0', '"dropout_rate": 0.1'))
    (copy / "notes.bin").write_text("mine")
    _load(copy)
    (copy / CHECKSUMS_FILE).write_text('{"model.safetensors": "md5:0"}')
    _load(copy)


def test_a_model_that_a_library_has_saved_anew_opens(best: Path, tmp_path: Path) -> None:
    """`save_pretrained` into a folder of ours writes no list: the old one, of other weights, says nothing any more."""
    copy = shutil.copytree(best, tmp_path / "copy") / "best"
    model = AutoModelForSeq2SeqLM.from_pretrained(copy)
    torch.nn.init.zeros_(model.shared.weight)
    model.save_pretrained(copy)
    assert not load_weights(AutoModelForSeq2SeqLM, str(copy)).model.shared.weight.any()


def test_a_file_that_is_written_anew_is_listed_anew(tmp_path: Path) -> None:
    """`write_json_into` keeps the list true, and makes none where there is none."""
    with atomic_directory(tmp_path / "best") as folder:
        (folder / "choice.json").write_text("{}")
        torch.save({}, folder / "pytorch_model.bin")
    write_json_into(tmp_path / "best", "choice.json", {"scale": 0.5})
    assert damage_in(tmp_path / "best") is None
    assert set(listed(tmp_path / "best") or ()) == {"choice.json", "pytorch_model.bin"}
    (tmp_path / "plain").mkdir()
    write_json_into(tmp_path / "plain", "choice.json", {})
    assert names(tmp_path / "plain") == {"choice.json"}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "[]",
            "{}",
            '{"sha256": []}',
            '{"sha256": {"a": 1}}',
            '{"sha256": {"../a": "0"}}',
            '{"sha256": {"/a": "0"}}',
        ),
        *('{"sha256": {"": "0"}}', '{"sha256": {"a\\u0000": "0"}}', "[" * 100000, '{"sha256": ' + "1" * 5000 + "}"),
    ],
    ids=lambda text: text[:30],
)
def test_a_list_that_is_none(text: str, tmp_path: Path) -> None:
    """Whatever is written there: told as damaged, and no path out of the folder is followed."""
    (tmp_path / CHECKSUMS_FILE).write_text(text)
    assert listed(tmp_path) is None
    assert damage_in(tmp_path) == f"{tmp_path / CHECKSUMS_FILE} is damaged"


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    """A sentence, no error."""
    for name in ("x" * 300, "\\ud800"):
        (tmp_path / CHECKSUMS_FILE).write_text(f'{{"sha256": {{"{name}": "0"}}}}')
        assert damage_in(tmp_path)
