"""Which Python the environment is made with, on machines where some cannot make one; run with stand-ins."""

from __future__ import annotations

import subprocess
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
    lines = (ROOT / "scripts" / "env.sh").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "toolkit_environment"
    functions = "\n".join(lines[:-1])  # all but the call that makes an environment
    return subprocess.run(
        ["/bin/bash", "-c", f"{functions}\ntoolkit_find_python"],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
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
