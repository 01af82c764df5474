"""Tools that run out of disk, or that the user interrupts: one sentence, the right exit code, nothing half-made."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import train_t5
from tests.tiny import Tiny, run
from utils import download, fetching, hints, make_corpus, save_data
from utils.errors import UserError, run_as_script

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("one_thread")


def full(*_: Any, **__: Any) -> Any:
    """Stands in for whatever writes to a disk that is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def quiet(_: str) -> None:
    """Says nothing."""


def unwritable_dataset(*_: Any) -> Any:
    """A dataset that loads and cannot be saved; it leaves half of itself behind."""

    class Half:
        def save_to_disk(self, path: str) -> None:
            Path(path).mkdir(parents=True, exist_ok=True)
            (Path(path) / "data-0.arrow").write_bytes(b"half")
            full()

    return Half()


def wrapped(*_: Any) -> Any:
    """A library's error that a full disk is the cause of."""
    try:
        full()
    except OSError as error:
        raise RuntimeError("An error occurred while generating the dataset") from error


# --- a full disk -----------------------------------------------------------------------------------------------------


def test_download_onto_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named with its reason and not taken for a broken connection, which would be tried again."""
    attempts: list[str] = []

    def fails(url: str, *_: object) -> None:
        attempts.append(url)
        full()

    monkeypatch.setattr(fetching, "_fetch_rest", fails)
    with pytest.raises(UserError, match=r"Could not write .*plugin\.pkl: No space left on device\."):
        fetching.fetch("http://127.0.0.1/plugin.pkl", tmp_path / "plugin.pkl", say=quiet)
    assert len(attempts) == 1 and not (tmp_path / "plugin.pkl").exists()


def test_a_connection_that_fails_while_reading_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the network is none of the disk, though the system numbers both."""

    class Unreachable:
        def read1(self, _: int) -> bytes:
            raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))

    with pytest.raises(fetching._Broken, match="No route to host"):
        fetching._read(Unreachable())  # type: ignore[arg-type]


def test_unpacking_onto_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive is not called damaged, and no half corpus stays."""
    (tmp_path / "a").write_text("text")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a", "corpus/a")
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UserError, match=r"Could not write .*corpus: No space left on device\."):
        download.unpack(tmp_path / "a.tar", tmp_path / "corpus", say=quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.tar"]


@pytest.mark.parametrize(
    ("load", "told"),
    [
        (unwritable_dataset, r"Could not write .*rte: No space left on device\."),
        (wrapped, r"rte: could not load nyu-mll/glue .*; make room on the disk of the hub's cache"),
    ],
)
def test_saving_datasets_onto_a_full_disk(load: Callable[..., Any], told: str, tmp_path: Path) -> None:
    """The folder of the data or the hub's cache is full: no half folder stays."""
    with pytest.raises(UserError, match=told):
        save_data.save(["rte"], tmp_path, load, quiet, lambda *_: None)
    assert not list(tmp_path.rglob("*rte*"))


def test_cutting_a_corpus_onto_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus of before stays, the half one goes."""
    (tmp_path / "text.txt").write_text("some words of text\n" * 9)
    output = tmp_path / "train.txt"
    output.write_text("before")

    def cut(lines: Iterator[str], _: int) -> Iterator[str]:
        yield next(lines)
        full()

    monkeypatch.setattr(make_corpus, "cut", cut)
    with pytest.raises(UserError, match=r"Could not write .*train\.txt: No space left on device\."):
        make_corpus.make_corpus([tmp_path / "text.txt"], output)
    assert output.read_text() == "before" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("folder", ["file/below", "file"])
def test_a_folder_that_cannot_be_made(folder: str, tmp_path: Path) -> None:
    """A file is in the way: one sentence from every tool."""
    (tmp_path / "file").write_text("")
    (tmp_path / "text.txt").write_text("some words of text\n")
    with pytest.raises(UserError, match=r"Could not write .*file"):
        make_corpus.make_corpus([tmp_path / "text.txt"], tmp_path / folder / "train.txt")
    with pytest.raises(UserError, match=r"Could not write .*file"):
        save_data.save(["rte"], tmp_path / folder, unwritable_dataset, quiet, lambda *_: None)


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


def interrupt(*_: Any, **__: Any) -> Any:
    """Ctrl-C in the middle of something long."""
    raise KeyboardInterrupt


def test_interrupted_before_training_starts(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the model loads: one line on standard error and exit code 130; the traceback with debug."""
    monkeypatch.setattr(train_t5, "load_t5", interrupt)
    with pytest.raises(SystemExit) as stop:
        run_as_script(lambda: run(tiny.sst2(tmp_path / "run")), debug=False)
    error = capsys.readouterr().err
    assert stop.value.code == 130 and error.startswith("stopped: interrupted") and error.count("\n") == 1
    with pytest.raises(KeyboardInterrupt):
        run_as_script(lambda: run(tiny.sst2(tmp_path / "run")), debug=True)


def test_interrupted_tools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for a tool in the middle of its work."""
    with pytest.raises(SystemExit) as stop:
        save_data.main(["--only", "rte", "--data-path", str(tmp_path)], interrupt, lambda *_: None)
    assert stop.value.code == 130 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_interrupted_while_the_libraries_load(tmp_path: Path) -> None:
    """The seconds before the script's first own line: ended by the signal, without a traceback."""
    flags = ["--mode", "train", "--dataset", "sst2", "--data-path", str(tmp_path), "--model-path", str(tmp_path)]
    command, pipe = [sys.executable, "train_t5.py", *flags, "--output-path", str(tmp_path / "run")], subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "libtorch" not in maps.read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out, err) == (-signal.SIGINT, "", "")


# --- hints -----------------------------------------------------------------------------------------------------------


def test_hints_start_the_interpreter_that_gave_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python` where PATH leads to it; the path of an environment that is not active, short if it lies below."""
    environment = tmp_path / ".venv" / "bin"
    environment.mkdir(parents=True)
    for name in ("python", "python3"):
        (environment / name).symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(environment / "python3"))
    monkeypatch.setenv("PATH", str(environment))
    assert hints.python() == "python"
    monkeypatch.setenv("PATH", "/nowhere")
    assert hints.python() == str(environment / "python3")
    monkeypatch.chdir(tmp_path)
    assert hints.python() == ".venv/bin/python3"
