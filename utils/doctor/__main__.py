"""What this machine has and lacks for the toolkit, and how to get it (docs/doctor.md).

python -m utils.doctor            looks at everything, and runs every mode of the entry scripts for a step
python -m utils.doctor --quick    without these runs
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.arguments import ToolParser
from utils.doctor.data import check_glue, check_places
from utils.doctor.findings import Finding, as_json, as_text, is_healthy
from utils.doctor.machine import (
    check_bash,
    check_folder,
    check_gpus,
    check_memory,
    check_processor,
    check_python,
    check_torch,
)
from utils.doctor.packages import check_requirements
from utils.doctor.recipes import LAUNCHERS, RECIPES, ROOT, check_launchers, check_recipes
from utils.heartbeat import doing, listen
from utils.installation import installed, torch_requirements
from utils.streams import protect

#: Exit code where something is missing that the quickstart needs.
UNHEALTHY = 1
_FOLDERS = ("outputs", "checkpoints", "data")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = ToolParser(
        prog="python -m utils.doctor",
        description="Says what this machine has and lacks for the toolkit, and how to get it. Ends with exit code 0 "
        "where everything is there that the quickstart needs, and 1 otherwise.",
    )
    made.add_argument("--quick", action="store_true", help="leave out the runs of the entry scripts")
    made.add_argument("--json", type=Path, help="write the findings to this file, for programs")
    return made.parse_args(arguments)


def examine(root: Path, quick: bool) -> dict[str, list[Finding]]:
    """All checks, by group.

    Args:
        root: the repository, or another folder that is laid out as it is.
    """
    runs = [] if quick else [f"{len(RECIPES)} runs of the entry scripts (a minute or two; --quick leaves them out)"]
    _say("looking at " + ", ".join(["this machine", f"{len(LAUNCHERS)} dry runs of launchers", *runs]))
    distributions, requirements = installed(), torch_requirements()
    torch = check_torch(distributions, requirements)
    groups = {
        "machine": [check_python(), check_bash(), check_processor(), check_memory(), torch, *check_gpus()],
        "packages": check_requirements(root / "requirements.txt", distributions),
        "disk": [check_folder(root / name) for name in _FOLDERS],
        "data (for other sizes than the quickstart's)": [check_glue(root), *check_places(root)],
        "launchers (dry runs)": _told(check_launchers(root), "dry runs of launchers", len(LAUNCHERS)),
    }
    if not quick:
        groups["entry scripts (two steps on models of two layers)"] = _runs()
    return groups


def _runs() -> list[Finding]:
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        return _told(check_recipes(Path(folder)), "runs of the entry scripts", len(RECIPES))


def _told(findings: Iterable[Finding], what: str, total: int) -> list[Finding]:
    """The findings of something that takes long, each of which is said when it is there."""
    found: list[Finding] = []
    with doing(what, lambda: f"{len(found)} of {total}"):
        for finding in findings:
            found.append(finding)
            _say(f"{finding.state:<8} {finding.name} ({len(found)} of {total} {what})")
    return found


def _say(text: str) -> None:
    """What is going on, beside the table."""
    print(text, file=sys.stderr, flush=True)


def _guard(given: argparse.Namespace) -> None:
    from utils.errors import run_as_script  # which may need what the doctor is asked to look for
    from utils.outputs import guard

    run_as_script(lambda: guard("utils.doctor", given), debug=False)


def _write(file: Path, groups: dict[str, list[Finding]]) -> None:
    from utils.errors import run_as_script
    from utils.writing import write_json

    run_as_script(lambda: write_json(file, as_json(groups)), debug=False)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """Look, tell, and end with the exit code."""
    given = parse(arguments)
    if given.json is not None:
        _guard(given)
    groups = examine(root, given.quick)
    print(as_text(groups), flush=True)
    if given.json is not None:
        _write(given.json, groups)
    if not is_healthy([finding for group in groups.values() for finding in group]):
        raise SystemExit(UNHEALTHY)


if __name__ == "__main__":
    protect()
    listen()
    main()
