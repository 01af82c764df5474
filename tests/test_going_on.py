"""What a stopped command proposes: the whole line that goes on, as it was started."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from utils.errors import Interrupted, UserError, run_as_script
from utils.going_on import BEFORE, RESUME, WHOLE, again
from utils.hints import python
from utils.studies.runner import Runner

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["train_t5.py", "--output_dir", "my run", "--lr=1e-3"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher of the tests' own."""
    for name in (WHOLE, BEFORE, "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", WORDS)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)


@pytest.mark.parametrize(
    "more", [(), ("--overwrite",), ("--resume",), ("--resume", "auto"), ("--resume=auto",), ("--continue-train",),
             ("--overwrite_output_dir", "--resume", "auto")],
)  # fmt: skip
def test_a_training_goes_on_with_the_same_words(more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Quoted, once with --resume auto, never with --overwrite, whatever these are called."""
    monkeypatch.setattr(sys, "argv", [*WORDS, *more, "--seed", "2"])
    line = again(RESUME)
    assert line is not None
    assert shlex.split(line) == [python(), *WORDS, "--seed", "2", "--resume", "auto"]


def test_a_tool_goes_on_with_the_same_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it can; of a module the `-m` that starts it."""
    monkeypatch.chdir(ROOT)
    assert again(()) == shlex.join([python(), *WORDS]) and again(None) is None
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="utils.paper.__main__"))
    assert again(()) == shlex.join([python(), "-m", "utils.paper", *WORDS[1:]])


def test_what_started_it_is_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that goes on by itself, for whatever it runs; one that passes its words on, in front of them."""
    monkeypatch.setenv(BEFORE, "GPUS=0 bash scripts/launch.sh")
    assert again(RESUME) == f"GPUS=0 bash scripts/launch.sh {shlex.join(WORDS)} --resume auto"
    monkeypatch.setenv(WHOLE, "bash scripts/quickstart.sh")
    assert again(RESUME) == again(None) == "bash scripts/quickstart.sh"


def test_a_parent_that_is_a_launcher_is_kept(tmp_path: Path) -> None:
    """What stands before the script's name in its command (torchrun, mpirun, here `timeout`); from rank 0 alone."""
    script = tmp_path / "my script.py"
    script.write_text(
        "from utils.errors import Interrupted, run_as_script\nfrom utils.going_on import RESUME\n"
        "def main():\n    raise Interrupted(15, 'saved.')\nrun_as_script(main, debug=False, goes_on=RESUME)\n"
    )
    command = ["timeout", "60", sys.executable, str(script), "--text", "a 'b'"]
    for rank, expected in (("0", f"next: {shlex.join([*command, *RESUME])}\n"), ("1", "")):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RANK": rank}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 128 + 15 and done.stderr == f"stopped: saved.\n{expected}", done.stderr


@pytest.mark.parametrize("stop", [Interrupted(15, "saved step 3 in run."), KeyboardInterrupt()])
def test_the_line_comes_behind_the_reason(stop: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    """For a signal that saved, and for Ctrl-C before anything was."""

    def main() -> None:
        raise stop

    with pytest.raises(SystemExit):
        run_as_script(main, debug=False, goes_on=RESUME)
    reason, proposed = capsys.readouterr().err.splitlines()
    assert reason.startswith("stopped: ") and proposed == f"next: {again(RESUME)}"


def bash(code: str, *words: str, **variables: str) -> list[str]:
    """Lines of a piece of a launcher; the first of `words` is what it is called."""
    environment = {name: value for name, value in os.environ.items() if name not in ("GPUS", "NUM_GPUS", "PYTHON")}
    command = ["bash", "-c", code, *words]
    return subprocess.run(
        command, cwd=ROOT, env={**environment, **variables}, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_launchers_tell_how_they_were_started() -> None:
    """Name, words and variables, quoted, without --overwrite; one that is called by another tells of that one."""
    code = 'source "$SOURCED"; parse_command_line usage 1-2 "$@"; echo "$GOES_ON_BY"'
    words = ("my scripts/wiki.sh", "tiny", "--overwrite", "--lr", "a b")
    sourced = {"SOURCED": str(ROOT / "scripts/common.sh"), "GPUS": "0,1"}
    (line,) = bash(code, *words, **sourced)
    assert shlex.split(line) == ["GPUS=0,1", "bash", "my scripts/wiki.sh", "tiny", "--lr", "a b"]
    assert bash(code, *words, **sourced, GOES_ON_BY="outer") == ["outer"]


def test_launch_sh_passes_on_what_stands_before_a_script(tmp_path: Path) -> None:
    """The script's own words come from the script, which adds --resume auto."""
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\necho "$STARTED_BY"\n')
    stand_in.chmod(0o755)
    told = bash("bash scripts/launch.sh train_t5.py --seed 1", PYTHON=str(stand_in), NUM_GPUS="0")[-1]
    assert told == f"NUM_GPUS=0 PYTHON={stand_in} bash scripts/launch.sh"


def test_a_study_tells_its_stages_and_what_ended_them(tmp_path: Path) -> None:
    """A stage that is stopped proposes the study; one that fails ends it in one sentence."""
    code = f"import os, pathlib, sys; pathlib.Path('{tmp_path}/told').write_text(os.environ['{WHOLE}']); sys.exit(3)"
    with pytest.raises(UserError, match=r"run ended with exit code 3, .* the same command goes on"):
        Runner(tmp_path, 1).run(tmp_path / "run", shlex.join(["-c", code]))
    assert (tmp_path / "told").read_text() == shlex.join([python(), *WORDS])


def test_ctrl_c_lets_the_stage_of_a_study_save(tmp_path: Path) -> None:
    """It reaches both; the study waits for the stage and ends with its code."""
    stage = (
        "import pathlib, signal, sys, time\n"
        f"def save(*_):\n    time.sleep(0.6); pathlib.Path('{tmp_path}/saved').touch(); sys.exit(130)\n"
        f"signal.signal(signal.SIGINT, save); pathlib.Path('{tmp_path}/begun').touch(); time.sleep(60)\n"
    )
    study = (
        "from pathlib import Path\nfrom utils.errors import run_as_script\nfrom utils.studies.runner import Runner\n"
        f"run_as_script(lambda: Runner(Path('{tmp_path}'), 1).run(Path('run'), {shlex.join(['-c', stage])!r}), False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", study], cwd=ROOT, start_new_session=True)
    while not (tmp_path / "begun").exists() and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130 and (tmp_path / "saved").exists()
