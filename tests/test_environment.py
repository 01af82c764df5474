"""Which Python the environment is made with, on machines where some cannot make one; run with stand-ins."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: A Python that is too old, one whose venv module is incomplete, and a whole one; `-c` programs tell them apart.
STAND_INS = {
    "old": 'case "$2" in *version_info*) exit 1 ;; esac',
    "incomplete": 'case "$2" in *ensurepip*) exit 1 ;; esac',
    "whole": "exit 0",
}


def found_python(folder: Path, pythons: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What `toolkit_find_python` prints where PATH holds `pythons` (name -> kind) only."""
    path = folder / "bin"
    path.mkdir()
    for name, kind in pythons.items():
        (path / name).write_text(f"#!/bin/bash\n{STAND_INS[kind]}\n", encoding="utf-8")
        (path / name).chmod(0o755)
    return called("toolkit_find_python", PATH=str(path))


def called(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a function of env.sh does."""
    lines = (ROOT / "scripts" / "env.sh").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "toolkit_environment"
    functions = "\n".join(lines[:-1])  # all but the call that makes an environment
    return subprocess.run(
        ["/bin/bash", "-c", f"{functions}\n{command}"], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"python3.11": "whole", "python3": "whole"}, "python3.11"),
        ({"python3.11": "incomplete", "python3.12": "whole"}, "python3.12"),
        ({"python3.11": "incomplete", "python3": "old", "python": "whole"}, "python"),
    ],
)
def test_the_first_python_that_can_make_an_environment_is_taken(
    pythons: dict[str, str], chosen: str, tmp_path: Path
) -> None:
    """One without ensurepip, or too old, is passed over for the next."""
    done = found_python(tmp_path, pythons)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "bin" / chosen)), done.stderr


@pytest.mark.parametrize(
    ("pythons", "named"),
    [
        ({"python3.12": "incomplete", "python3": "incomplete"}, "bin/python3.12 cannot make a virtual environment"),
        ({"python3": "old"}, "found no Python 3.11 or newer on PATH"),
        ({}, "found no Python 3.11 or newer on PATH"),
    ],
)
def test_without_such_a_python_the_reason_is_told(pythons: dict[str, str], named: str, tmp_path: Path) -> None:
    """Exit code 1, and whether an installation or a package of the system is missing."""
    done = found_python(tmp_path, pythons)
    assert done.returncode == 1 and named in done.stderr and done.stderr.count("\n") == 1


# --- a disk that is full ---------------------------------------------------------------------------------------------

#: Makes an environment of itself; installs, and imports what it has installed, as the words in a file say.
_INSTALLER = """#!/bin/bash
state="$(cat "$STATE")"
case "$*" in
*"-m venv "*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
*"pip install"*)
    case "$state" in
    "full disk") echo "ERROR: [Errno 28] No space left on device"; exit 1 ;;
    "no network") echo "ERROR: Could not find a version"; exit 1 ;;
    esac ;;
-) cat >/dev/null
    [[ "$state" != "cut off" ]] || { echo "torch cannot be imported: OSError: file too short"; exit 1; } ;;
esac
exit 0
"""


def installed(folder: Path, state: str) -> subprocess.CompletedProcess[str]:
    """`toolkit_make_venv` with a Python that behaves in this way."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "python3.11").write_text(_INSTALLER, encoding="utf-8")
    (folder / "bin" / "python3.11").chmod(0o755)
    (folder / "requirements.txt").write_text("torch==1\n", encoding="utf-8")
    (folder / "state").write_text(state, encoding="utf-8")
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    return called(f"toolkit_make_venv {folder}", PATH=path, STATE=str(folder / "state"))


@pytest.mark.parametrize("state", ["full disk", "cut off"])
def test_an_environment_that_does_not_work_is_never_ready(state: str, tmp_path: Path) -> None:
    """The mark of an installation stays, the next call fails alike or starts from nothing, and is ready then."""
    for _ in range(2):
        done = installed(tmp_path, state)
        assert done.returncode == 1 and "ready" not in done.stderr
        assert ("does not work: torch cannot be imported" in done.stderr) == (state == "cut off")
        assert (tmp_path / ".venv" / "installing").exists()
        assert not (tmp_path / ".venv" / "requirements.sha256").exists()
    (tmp_path / ".venv" / "cut-off.py").touch()
    done = installed(tmp_path, "fine")
    assert done.returncode == 0 and "starting it again" in done.stderr and "ready" in done.stderr
    assert not (tmp_path / ".venv" / "installing").exists() and not (tmp_path / ".venv" / "cut-off.py").exists()
    assert installed(tmp_path, "full disk").stderr == ""  # nothing is left to do


def test_a_failure_that_leaves_whole_packages_goes_on(tmp_path: Path) -> None:
    """What was installed before the network failed is not installed again."""
    assert installed(tmp_path, "no network").returncode == 1
    (tmp_path / ".venv" / "kept.py").touch()
    done = installed(tmp_path, "fine")
    assert done.returncode == 0 and "starting it again" not in done.stderr
    assert (tmp_path / ".venv" / "kept.py").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [("whole", "numpy cannot be imported: ModuleNotFoundError"), ("cut", "module.py of made is not whole")],
)
def test_every_file_has_the_length_that_its_package_lists(content: str, told: str, tmp_path: Path) -> None:
    """A file that was cut off is found though nothing imports it; then the imports are tried."""
    site, information = tmp_path / "site", tmp_path / "site" / "made-1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: made\nVersion: 1\n")
    (information / "RECORD").write_text("module.py,sha256=x,5\nmade-1.dist-info/RECORD,,\n")
    (site / "module.py").write_text(content)
    (tmp_path / "bin").mkdir()
    program = f"import sys; sys.path[:] = [p for p in sys.path if 'packages' not in p]; sys.path.insert(0, '{site}')"
    (tmp_path / "bin" / "python").write_text(
        f"#!/bin/bash\n{{ echo {shlex.quote(program)}; cat; }} | {sys.executable} -I -S -\n"
    )
    (tmp_path / "bin" / "python").chmod(0o755)
    done = called(f"toolkit_check_packages {tmp_path}", PATH="/usr/bin:/bin")
    assert done.returncode == 1 and told in done.stderr
