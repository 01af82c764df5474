"""Processes that `utils.warm` forks are to their callers what an ordinary Python with the same words is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: A server that loads none of the libraries, which these tests do not need.
_SERVER = "import os, sys; from utils.warm import Server; os.setsid(); Server(sys.argv[1]).serve()"
_WAITING = """
import pathlib, signal, sys, time
def heard(number, frame):
    with open("heard.txt", "a") as file:
        file.write(f"{int(number)} ")
    sys.exit(70 + number)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, heard)
pathlib.Path("begun.txt").touch()
while True:  # a signal just before a long sleep would be handled after it
    time.sleep(0.1)
"""


def until(condition: Callable[[], bool]) -> None:
    """Wait for what takes milliseconds."""
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("nothing happened in half a minute")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A server and its socket."""
    path = tmp_path_factory.mktemp("warm") / "socket"
    server = subprocess.Popen([sys.executable, "-c", _SERVER, str(path)], cwd=ROOT, stdin=subprocess.PIPE)
    assert server.stdin is not None
    until(path.exists)
    yield server, path
    server.stdin.close()
    assert server.wait(timeout=30) == 0 and not path.exists()


@pytest.fixture
def served(server: tuple[subprocess.Popen[bytes], Path]) -> Path:
    """The socket of a server."""
    return server[1]


def words_of(socket: Path, *words: str) -> list[str]:
    """The command of a caller."""
    return [sys.executable, "-P", "-S", "-E", str(ROOT / "utils" / "warm.py"), str(socket), *words]


@pytest.mark.parametrize(
    ("ending", "status"), [("", 0), ("sys.exit(7)", 7), ("sys.exit('no')", 1), ("1 / 0", 1), ("sys.exit(0)", 0)]
)
@pytest.mark.parametrize("is_served", [True, False], ids=["a server", "no server"])
def test_streams_words_folder_environment_and_exit_code(
    served: Path, tmp_path: Path, ending: str, status: int, is_served: bool
) -> None:
    """With a server and without one, which is an ordinary Python then."""
    text = "import os, sys\nprint(sys.argv[1:], sys.stdin.read(), os.getcwd(), os.environ['TOLD'])\n"
    (tmp_path / "script.py").write_text(f"{text}print('problem', file=sys.stderr)\n{ending}\n")
    command = words_of(served if is_served else tmp_path / "none", "script.py", "a b", "--c")
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "TOLD": "yes"}, input="given", capture_output=True, text=True
    )
    assert done.stdout == f"['a b', '--c'] given {tmp_path} yes\n"
    assert done.returncode == status and done.stderr.startswith("problem\n")
    assert ("ZeroDivisionError" in done.stderr) == ("1 / 0" in ending)


def test_modules_run_by_their_names(served: Path) -> None:
    """As `python -m` does, with the module's path as the first word."""
    done = subprocess.run(words_of(served, "-m", "json.tool", "--help"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_is_heard_once_and_waited_for(served: Path, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "script.py").write_text(_WAITING)
    caller = subprocess.Popen(words_of(served, "script.py"), cwd=tmp_path)
    until((tmp_path / "begun.txt").exists)
    caller.send_signal(number)
    assert caller.wait(timeout=30) == 70 + number
    assert (tmp_path / "heard.txt").read_text() == f"{int(number)} "


def test_a_process_is_told_to_end_when_its_caller_is_gone(served: Path, tmp_path: Path) -> None:
    """Killed without a chance to pass anything on; the server goes on with the next."""
    (tmp_path / "script.py").write_text(_WAITING)
    caller = subprocess.Popen(words_of(served, "script.py"), cwd=tmp_path)
    until((tmp_path / "begun.txt").exists)
    caller.kill()
    caller.wait()
    until((tmp_path / "heard.txt").exists)
    (tmp_path / "next.py").write_text("raise SystemExit(3)")
    assert subprocess.run(words_of(served, "next.py"), cwd=tmp_path).returncode == 3


def test_a_signal_to_all_processes_of_a_job_leaves_the_server(
    server: tuple[subprocess.Popen[bytes], Path], tmp_path: Path
) -> None:
    """A scheduler's end reaches the server as well: the run that it forked is waited for, and its code is passed on."""
    (tmp_path / "script.py").write_text(_WAITING)
    caller = subprocess.Popen(words_of(server[1], "script.py"), cwd=tmp_path)
    until((tmp_path / "begun.txt").exists)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        server[0].send_signal(number)
    caller.send_signal(signal.SIGTERM)
    assert caller.wait(timeout=30) == 70 + signal.SIGTERM and server[0].poll() is None


def test_a_process_that_is_killed_has_the_shells_status(served: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert subprocess.run(words_of(served, "script.py"), cwd=tmp_path).returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), ([], 2), (["--nothing"], 2)])
def test_help_and_mistakes_start_no_server(tmp_path: Path, words: list[str], status: int) -> None:
    """Told at once, and nothing is left behind."""
    done = subprocess.run([*words_of(tmp_path)[:-1], *words], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode == status and ("SOCKET" in done.stdout) == (status == 0)
    assert (not done.stderr) == (status == 0) and not list(tmp_path.iterdir())
