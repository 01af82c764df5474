"""The packages of requirements.txt beside those that are installed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from utils.doctor.findings import Finding

_PIN = re.compile(r"^\s*([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?\s*==\s*([\w.+!]+)")


def read_pins(requirements: Path) -> dict[str, str]:
    """Name (lower case, with hyphens) and version of every line `name==version`."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    matches = (_PIN.match(line) for line in lines)
    return {re.sub(r"[-_.]+", "-", found[1]).lower(): found[2] for found in matches if found}


def check_packages(pins: Mapping[str, str], installed: Mapping[str, str]) -> list[Finding]:
    """One finding per package; a local version (2.13.0+cpu) counts as the one before the plus sign.

    Args:
        pins: see `read_pins`.
        installed: see `utils.installation.installed`.
    """
    return [_check(name, pinned, installed.get(name)) for name, pinned in pins.items()]


def check_requirements(requirements: Path, installed: Mapping[str, str]) -> list[Finding]:
    """The same for a file; one finding where it cannot be read."""
    try:
        return check_packages(read_pins(requirements), installed)
    except OSError as error:
        remedy = "run this in the repository, or restore the file: git checkout requirements.txt"
        return [Finding("requirements.txt", "missing", error.strerror or str(error), remedy, True)]


def _check(name: str, pinned: str, found: str | None) -> Finding:
    install = f"pip install {name}=={pinned} (or all of them: source scripts/env.sh)"
    if found is None:
        return Finding(name, "missing", f"not installed, expected {pinned}", install, True)
    if found.split("+")[0] != pinned:
        return Finding(name, "warning", f"{found}, tested with {pinned}", install, True)
    return Finding(name, "ok", found, is_needed=True)
