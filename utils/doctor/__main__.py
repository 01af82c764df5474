"""What this machine has and lacks for the toolkit, and how to get it (docs/doctor.md).

python -m utils.doctor            looks at everything, and runs every mode of the entry scripts for a step
python -m utils.doctor --quick    without these runs: seconds
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
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
from utils.doctor.recipes import ROOT, check_launchers, check_recipes
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
    distributions, requirements = installed(), torch_requirements()
    torch = check_torch(distributions, requirements)
    groups = {
        "machine": [check_python(), check_bash(), check_processor(), check_memory(), torch, *check_gpus()],
        "packages": check_requirements(root / "requirements.txt", distributions),
        "disk": [check_folder(root / name) for name in _FOLDERS],
        "data (for other sizes than the quickstart's)": [check_glue(root), *check_places(root)],
        "launchers (dry runs)": check_launchers(root),
    }
    if not quick:
        groups["entry scripts (two steps on models of two layers)"] = _runs()
    return groups


def _runs() -> list[Finding]:
    findings = []
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        for finding in check_recipes(Path(folder)):
            print(f"{finding.state:<8} {finding.name}", file=sys.stderr, flush=True)
            findings.append(finding)
    return findings


def _guard(given: argparse.Namespace) -> None:
    from utils.errors import run_as_script  # which may need what the doctor is asked to look for
    from utils.outputs import guard

    run_as_script(lambda: guard("utils.doctor", given), debug=False)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """Look, tell, and end with the exit code."""
    given = parse(arguments)
    if given.json is not None:
        _guard(given)
    groups = examine(root, given.quick)
    print(as_text(groups), flush=True)
    if given.json is not None:
        try:
            given.json.write_text(json.dumps(as_json(groups), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        except OSError as error:
            print(f"error: Could not write {given.json}: {error.strerror or error}.", file=sys.stderr)
            raise SystemExit(2) from None
    if not is_healthy([finding for group in groups.values() for finding in group]):
        raise SystemExit(UNHEALTHY)


if __name__ == "__main__":
    protect()
    main()
