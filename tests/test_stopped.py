"""The real script as a cluster runs it: SIGTERM, its exit code, and the same command again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import Tiny, assert_same_run, run
from utils.engine.checkpoint import list_checkpoints

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


def test_sigterm_and_the_same_command_again(tiny: Tiny, tmp_path: Path) -> None:
    """Code 143, the step that was saved is told, and the line that is proposed ends as a run that was not stopped."""
    arguments = [*tiny.sst2(tmp_path / "run", "--epochs", 40, "--valid-step", 50), "--resume", "auto"]
    metrics = tmp_path / "run" / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, "train_t5.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 3):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, error
    told = re.fullmatch(r"stopped: saved step (\d+) in .*run\.\nnext: (.*train_t5\.py .* --resume auto)\n", error)
    assert told and list_checkpoints(tmp_path / "run")[-1].name == f"step-{int(told[1]):08d}"
    assert metrics.read_text().splitlines()[-1].startswith(f'{{"split": "train", "step": {told[1]},')
    subprocess.run(told[2], shell=True, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    run([*arguments[:-2], "--output-path", str(tmp_path / "whole")])
    assert_same_run(tmp_path / "run", tmp_path / "whole")
