"""What all studies share: stages that are made once and resumed, result files, the page's commands, common flags."""

from __future__ import annotations

import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.arguments import ToolParser
from utils.errors import UserError, writing
from utils.going_on import WHOLE, again


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
        """Run `command` (a script and its flags, `--output_dir folder` included) unless `folder`/`done` is there.

        Raises:
            UserError: the stage failed; it has said why.
            SystemExit: it was stopped, and has said how to go on.
        """
        if (folder / done).is_file():
            return
        shown = f"python {command}" + (" --resume" if any(folder.glob("**/arguments.json")) else "")
        print(f"+ {shown}", flush=True)
        with writing(self.output / "commands.txt"):
            self.output.mkdir(parents=True, exist_ok=True)
            with open(self.output / "commands.txt", "a", encoding="utf-8") as log:
                log.write(shown + "\n")
        whole = {WHOLE: again(()) or ""}  # what a stage that is stopped proposes
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE", **whole}
        if code := _attended([sys.executable, *shlex.split(shown)[1:]], environment):
            raise UserError(
                f"The stage {folder} ended with exit code {code}, for the reason above; the same command goes on from "
                "there."
            )

    def commands(self) -> list[str]:
        """The calls that made what is there: of a stage that was run again, the last one."""
        log = self.output / "commands.txt"
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        return list({_folder(line): line for line in lines if "--resume" not in line}.values())


def _attended(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit code of a command. Ctrl-C reaches it as well as us, and it saves before it ends.

    Raises:
        SystemExit: with its code, when it has ended because of that.
    """
    was_asked = False
    with subprocess.Popen(words, env=dict(environment)) as process:
        while process.returncode is None:
            try:
                process.wait()
            except KeyboardInterrupt:
                was_asked = True
    if was_asked:
        raise SystemExit(process.returncode or 128 + signal.SIGINT)
    return process.returncode


def study_parser(name: str, description: str, summary: bool = True, costs: bool = True) -> ToolParser:
    """A study's command line with the flags that all have.

    Args:
        name: of the module and of its page in docs/results.
        description: the module's docstring, whose first line is shown.
        summary: whether it also writes a few rows into the README.
        costs: whether it can measure what is there without making more.
    """
    parser = ToolParser(prog=f"python -m utils.studies.{name}", description=description.split("\n")[0])
    shown = "(default: %(default)s)"
    output, page = Path("outputs/results") / name, Path("docs/results") / f"{name}.md"
    parser.add_argument("--threads", type=int, default=2, help=f"CPU threads of a stage {shown}")
    parser.add_argument("--output_dir", dest="output", type=Path, default=output, help=f"folder of the runs {shown}")
    parser.add_argument("--page", type=Path, default=page, help=f"page whose measured block is rewritten {shown}")
    if summary:
        parser.add_argument("--readme", type=Path, default=Path("README.md"), help=f"page of the summary {shown}")
    if costs:
        parser.add_argument("--costs", action="store_true", help="only measure MACs and latencies of what is there")
    parser.add_argument("--report", action="store_true", help="only write the pages")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_rows_flag(parser: ToolParser, names: Sequence[str]) -> None:
    """`--rows`, numbers of rows of the table; all by default."""
    numbers = list(range(len(names)))
    told = ", ".join(f"{number} {name}" for number, name in enumerate(names))
    parser.add_argument("--rows", nargs="*", type=int, choices=numbers, default=numbers, help=f"{told} (default: all)")


def read_result(path: Path) -> dict[str, Any] | None:
    """A result file, if it is there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def commands_block(
    runner: Runner, title: str, placeholders: Mapping[str, str], shown: Callable[[str], bool]
) -> list[str]:
    """Markdown of the calls that made what is there.

    Args:
        placeholders: what stands in the page for a place on this machine.
        shown: which calls to show.
    """
    calls = [call for call in runner.commands() if shown(call + " ")]
    for place, name in placeholders.items():
        calls = [call.replace(place, name) for call in calls]
    return [f"### {title}", "", "```", *calls, "```"]


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds, to three digits."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def _folder(command: str) -> str:
    words = shlex.split(command)
    flags = ("--output_dir", "--output_path", "--output-path")
    return next((words[i + 1] for i, word in enumerate(words[:-1]) if word in flags), command)
