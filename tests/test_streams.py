"""Standard streams as shells hand them over: cut off, closed, full, in plain ASCII; and errors of names and disks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.errors import refusal_of, run_as_script
from utils.streams import LenientStream

ROOT = Path(__file__).resolve().parent.parent
_TALKS = "from utils.streams import protect; protect(); import sys\n"


def shell(code: str, redirection: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A small Python program below bash, with the toolkit's streams."""
    command = f'"$0" -c "$1" {redirection}'
    environment = {**os.environ, **variables}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}", sys.executable, _TALKS + code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )


def test_an_error_is_one_line_with_its_excerpt_below() -> None:
    """Line ends of a path are shown as such; what was given stands below the sentence, as it was indented."""
    code = (
        "from utils.errors import UserError, run_as_script\n"
        "def main(): raise UserError('a\\nb.\\n  x<=1\\n  ^')\n"
        "run_as_script(main, False)"
    )
    done = shell(code, "")
    assert done.returncode == 2 and done.stderr == "error: a\\nb.\n  x<=1\n  ^\n"


def test_a_reader_that_goes_away_stops_nothing() -> None:
    """`| head -1`: the program goes on to its end, with exit code 0 and without a word."""
    code = "for i in range(20000): print(i, flush=i < 9)\nprint('end', file=sys.stderr)"
    done = shell(code, "| head -1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "end\n")


@pytest.mark.parametrize("redirection", ["2>&-", ">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(redirection: str, tmp_path: Path) -> None:
    """The program runs, and a file that it opens gets no standard stream's number."""
    file = tmp_path / "file"
    code = (
        f"f = open({str(file)!r}, 'w'); f.write(str(f.fileno())); f.flush(); import os\n"
        "print('out'); print('err', file=sys.stderr); sys.stdout.isatty(); sys.stderr.isatty(); sys.stdin.read()\n"
        "os.write(1, b''); os.write(2, b'')"
    )
    done = shell(code, redirection if "<" in redirection else f"{redirection} </dev/null")
    assert done.returncode == 0, done.stderr
    assert int(file.read_text()) > 2


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=str,
)
def test_terminals_that_know_few_letters(variables: dict[str, str]) -> None:
    """A letter that the terminal lacks is written as its escape, in either stream, and so is half a character."""
    text = r"'a \u00b7 \u2013 \u4e2d \udcff b'"
    done = shell(f"print({text}); print({text}, file=sys.stderr)", "", **variables)
    assert done.returncode == 0 and done.stdout.startswith("a ") and done.stdout.endswith(" b\n"), done.stderr
    assert r"\udcff" in done.stdout and r"\u4e2d" in done.stderr


def test_output_that_goes_to_a_full_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is done to its end, and then one sentence says that its words were lost; exit code 2."""
    done: list[int] = []

    def work() -> None:
        print("lost")
        print("more")
        done.append(1)

    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        stream = LenientStream(full.fileno(), "utf-8", line_buffering=True)
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as ended:
            run_as_script(work, debug=False)
    assert ended.value.code == 2 and done == [1]
    assert capsys.readouterr().err == "error: Could not write standard output: No space left on device.\n"


# --- what the operating system refuses -------------------------------------------------------------------------------


def _too_long() -> None:
    Path("x" * 300).stat()


def _below_a_file() -> None:
    open(Path(__file__) / "below").close()


def _missing() -> None:
    open("/there/is/none").close()


def _wrapped() -> None:
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights")
    except OSError as error:
        raise RuntimeError("could not serialize") from error


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (_too_long, f"error: {'x' * 300}: File name too long.\n"),
        (_below_a_file, f"error: {Path(__file__) / 'below'}: Not a directory.\n"),
        (_missing, "error: /there/is/none: No such file or directory.\n"),
        (_wrapped, "error: weights: No space left on device.\n"),
    ],
)
def test_refusals_are_one_sentence(work: Callable[[], None], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Names, permissions and disks are the user's matter: exit code 2; --debug shows where it came from."""
    with pytest.raises(SystemExit) as ended:
        run_as_script(work, debug=False)
    assert ended.value.code == 2 and capsys.readouterr().err == told
    with pytest.raises((OSError, RuntimeError)):
        run_as_script(work, debug=True)


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(errno.ECONNREFUSED, "refused"), KeyError("x"), OSError("x")]
)
def test_bugs_keep_their_traceback(error: Exception) -> None:
    """Only what the operating system says of names, permissions and disks counts."""
    assert refusal_of(error) is None


def test_an_error_with_line_ends_in_a_path_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A newline in a file's name does not make two lines."""

    def work() -> None:
        (tmp_path / "a\nb").read_text()

    with pytest.raises(SystemExit):
        run_as_script(work, debug=False)
    assert capsys.readouterr().err == f"error: {tmp_path}/a\\nb: No such file or directory.\n"


def test_every_program_has_these_streams() -> None:
    """By `run_as_script`, or by `protect` where a program has to do without it."""
    without = []
    for path in sorted(ROOT.rglob("*.py")):
        if {".venv", "tests", "docs"} & {*path.relative_to(ROOT).parts}:
            continue
        text = path.read_text(encoding="utf-8")
        if '__name__ == "__main__"' not in text:
            continue
        if "run_as_script(" not in text and "protect()" not in text:
            without.append(str(path.relative_to(ROOT)))
    # Servers of other libraries; whose output utils.export reads; what starts other programs with their own streams.
    peers = [f"benchmarks/peers/{name}_server.py" for name in ("litserve", "mosec")]
    assert without == [*peers, "utils/export/probe.py", "utils/warm.py"]
