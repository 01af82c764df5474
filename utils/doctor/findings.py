"""What a check finds, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

#: missing: it is not there or does not work; warning: it may do; ok.
State = Literal["ok", "warning", "missing"]
_WIDEST = 60


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        found: what is there, in a few words.
        remedy: the command or act that gets what is missing; "" where nothing is to be done.
        is_needed: the quickstart does not work without it.
    """

    name: str
    state: State
    found: str
    remedy: str = ""
    is_needed: bool = False


def is_healthy(findings: Sequence[Finding]) -> bool:
    """Whether everything is there that the quickstart needs."""
    return not any(finding.is_needed and finding.state == "missing" for finding in findings)


def as_text(groups: dict[str, list[Finding]]) -> str:
    """A table with a part per group; a remedy stands below what it mends."""
    widest = max(len(finding.name) for group in groups.values() for finding in group)
    lines = []
    for title, group in groups.items():
        lines += ["", title, "-" * len(title)]
        for finding in group:
            needed = " (needed)" if finding.is_needed and finding.state == "missing" else ""
            lines.append(f"{finding.state:<8} {finding.name:<{min(widest, _WIDEST)}} {finding.found}{needed}".rstrip())
            if finding.remedy:
                lines.append(f"{'':<8} -> {finding.remedy}")
    return "\n".join([*lines, "", verdict([finding for group in groups.values() for finding in group])])


def verdict(findings: Sequence[Finding]) -> str:
    """How many of each state, and whether the quickstart works."""
    counts = {state: sum(finding.state == state for finding in findings) for state in ("ok", "warning", "missing")}
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    lacking = [finding.name for finding in findings if finding.is_needed and finding.state == "missing"]
    if lacking:
        return f"{told}. The quickstart lacks: {', '.join(lacking)}."
    return f"{told}. Everything that the quickstart needs is there: bash scripts/quickstart.sh"


def as_json(groups: dict[str, list[Finding]]) -> dict[str, Any]:
    """For programs."""
    findings = [finding for group in groups.values() for finding in group]
    return {
        "healthy": is_healthy(findings),
        "findings": [{"group": title, **asdict(finding)} for title, group in groups.items() for finding in group],
    }
