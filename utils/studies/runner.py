"""Runs a study's stages: each is a call of an entry script, made once and resumed if it was interrupted."""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Runner:
    """Where a study writes, and how many CPU threads its stages have.

    Attributes:
        output: the study's folder; `commands.txt` in it logs every call.
        threads: of each stage.
    """

    output: Path
    threads: int

    def run(self, folder: Path, command: str, done: str = "result.json") -> None:
        """Run `command` (a script and its flags, `--output_path folder` included) unless `folder`/`done` is there.

        Raises:
            subprocess.CalledProcessError: the stage failed; it has said why.
        """
        if (folder / done).is_file():
            return
        shown = f"python {command}" + (" --resume" if any(folder.glob("**/arguments.json")) else "")
        print(f"+ {shown}", flush=True)
        self.output.mkdir(parents=True, exist_ok=True)
        with open(self.output / "commands.txt", "a", encoding="utf-8") as log:
            log.write(shown + "\n")
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        words = shlex.split(shown)
        subprocess.run([sys.executable, *words[1:]], check=True, env=environment)

    def commands(self) -> list[str]:
        """The calls that made what is there: of a stage that was run again, the last one."""
        log = self.output / "commands.txt"
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        return list({_folder(line): line for line in lines if "--resume" not in line}.values())


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds, to three digits."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def _folder(command: str) -> str:
    words = shlex.split(command)
    flags = ("--output-path", "--output_path", "--output_dir")
    return next((words[i + 1] for i, word in enumerate(words[:-1]) if word in flags), command)
