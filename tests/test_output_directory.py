"""Where a run writes: other runs and other files stay, and a full disk costs nothing that was saved before."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForSeq2SeqLM

import utils.engine.checkpoint as checkpoint_module
from model.errors import ModelError
from tests.tiny import Tiny, assert_same_tensors, die_before_step, killed_run, run, tensors_under
from utils.checksums import CHECKSUMS_FILE
from utils.engine import RunLog
from utils.engine.checkpoint import list_checkpoints
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


# --- the output directory ------------------------------------------------------------------------------------


def test_output_directory_that_holds_another_run(tiny: Tiny, tmp_path: Path) -> None:
    """Refused, untouched, and told that it is complete; --overwrite starts anew."""
    arguments = tiny.sst2(tmp_path / "run", "--training-step", 2)
    run(arguments)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    with pytest.raises(UserError, match=r"--output_dir .*run holds a run that is complete: .*another.*--overwrite"):
        run(arguments)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before
    run([*arguments, "--overwrite", "--random-seed", "2"])
    assert json.loads((tmp_path / "run" / "arguments.json").read_text())["seed"] == 2


def test_output_directory_with_other_files(tiny: Tiny, tmp_path: Path) -> None:
    """A directory with somebody's files is refused, also with --overwrite, and they stay."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    for more in ([], ["--overwrite"], ["--resume"]):
        with pytest.raises(
            UserError,
            match=r"--output_dir .*run is not empty and holds no run of this toolkit \(there is thesis\.tex\)",
        ):
            run(tiny.sst2(tmp_path / "run", *more))
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"


def test_output_path_that_is_a_file(tiny: Tiny, tmp_path: Path) -> None:
    """A file as --output-path is refused."""
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"--output_dir .*run is a file"):
        run(tiny.sst2(tmp_path / "run"))


def test_output_path_that_cannot_be_made(tiny: Tiny, tmp_path: Path) -> None:
    """A directory below a file cannot be made: one sentence with the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output_dir .*run"):
        run(tiny.sst2(tmp_path / "file" / "run"))


def test_resume_and_overwrite_exclude_each_other(tiny: Tiny, tmp_path: Path) -> None:
    """Both at once is an error."""
    with pytest.raises(UserError, match=r"--resume and --overwrite exclude each other"):
        run(tiny.sst2(tmp_path / "run", "--resume", "--overwrite"))


def test_resume_with_other_flags(tiny: Tiny, tmp_path: Path) -> None:
    """Every flag that differs is named with both values, and the run is not touched."""
    run(tiny.sst2(tmp_path / "run", "--training-step", 2))
    before = tensors_under(tmp_path / "run")
    with pytest.raises(UserError) as refused:
        run([*tiny.sst2(tmp_path / "run", "--resume", "--random-seed", 9), "--max-input-length", "31"])
    assert "--seed 9 (was 1)" in str(refused.value) and "--max_seq_length 31 (was " in str(refused.value)
    assert_same_tensors(tensors_under(tmp_path / "run"), before)


def test_a_killed_run_is_refused_without_resume(tiny: Tiny, tmp_path: Path) -> None:
    """The directory of a run that was killed counts as occupied."""
    killed_run(tiny.sst2(tmp_path / "run"), die_before_step, 1)
    with pytest.raises(UserError, match=r"holds another run: go on with --resume"):
        run(tiny.sst2(tmp_path / "run"))


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


@pytest.mark.parametrize("more", [(), ("--resume",), ("--resume", "auto"), ("--overwrite",)], ids=" ".join)
def test_a_read_only_disk(more: tuple[str, ...], tiny: Tiny, small_disk: Callable[[int], Path]) -> None:
    """A new run, and one that is to go on or to be replaced: one sentence, and nothing that was saved is lost."""
    disk = small_disk(20_000)
    run(tiny.sst2(disk / "run", "--training-step", 2))
    before = tensors_under(disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(UserError, match=r"--output_dir .*run.*: Read-only file system\.$"):
        run(tiny.sst2(disk / ("run" if more else "new-run"), *more))
    assert_same_tensors(tensors_under(disk / "run"), before)


def test_logs_that_cannot_be_opened(tmp_path: Path) -> None:
    """A folder where a log should be: one sentence."""
    (tmp_path / "log.log").mkdir()
    with pytest.raises(UserError, match=r"Could not write the logs in .*: Is a directory\.$"):
        RunLog(tmp_path)


def test_a_disk_that_becomes_read_only(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it trains: the checkpoint that cannot be written is named, the ones of before can be gone on from."""
    original = Path.mkdir

    def refused(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name.startswith(".step-00000004."):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        original(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refused)
        with pytest.raises(UserError, match=r"Could not write .*step-00000004: Read-only file system\.$"):
            run(tiny.sst2(tmp_path / "run", "--save-step", 2))
    run(tiny.sst2(tmp_path / "run", "--save-step", 2, "--resume", "auto"))
    run(tiny.sst2(tmp_path / "whole", "--save-step", 2))
    assert_same_tensors(tensors_under(tmp_path / "run"), tensors_under(tmp_path / "whole"))


@pytest.mark.parametrize("room", [300, 700, 1100, 1500, 2000])
def test_disk_really_full(tiny: Tiny, tmp_path: Path, small_disk: Callable[[int], Path], room: int) -> None:
    """On a file system that fills up, at whichever file: one sentence, and what was saved stays loadable."""
    disk = small_disk(room)
    arguments = tiny.sst2(disk / "run", "--save-step", 2, "--keep-checkpoints", 9)
    with pytest.raises((UserError, ModelError), match=r"[Nn]o space left on device|os error 28"):
        run(arguments)
    for path in list_checkpoints(disk / "run"):
        names = {"model.safetensors", "optimizer.safetensors", "random.safetensors", "trainer.json", "arguments.json"}
        names.add(CHECKSUMS_FILE)
        assert {p.name for p in path.iterdir()} == names
        assert tensors_under(path)
    if (disk / "run" / "best").exists():
        AutoModelForSeq2SeqLM.from_pretrained(disk / "run" / "best")
    assert not list(disk.rglob("*.partial"))
