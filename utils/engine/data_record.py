"""data.json in a run directory: the fingerprint of the data that the run began with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.weights import read_json
from utils.errors import UserError
from utils.writing import write_json

DATA_FILE = "data.json"
FORMAT_VERSION = 1

#: Set (train, valid) -> name (of a file, or `rows`) -> its fingerprint.
Fingerprints = Mapping[str, Mapping[str, str]]


def fingerprints_of(train: Any, valid: Sequence[Any] = ()) -> dict[str, dict[str, str]]:
    """The fingerprints of batch sources; of one that has none, nothing is known and nothing is checked."""
    sets = {"train": train, **{f"valid{i or ''}": source for i, source in enumerate(valid)}}
    return {name: source.fingerprint() for name, source in sets.items() if hasattr(source, "fingerprint")}


def check_data(directory: Path, found: Fingerprints, resumed: bool, allow_changes: bool) -> str | None:
    """Record the data of a run that begins; compare them with the record in one that goes on.

    Args:
        resumed: the run goes on at a checkpoint.
        allow_changes: other data than before are taken, and recorded from now on.

    Returns:
        What the user should know: that changed data are used.

    Raises:
        UserError, ModelError: the data are others than those that the run began with; the record is damaged.
    """
    file, changed = directory / DATA_FILE, None
    if resumed and file.is_file():
        recorded = read_json(file)
        if recorded.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{file} has format version {recorded.get('format_version')!r}, this toolkit reads {FORMAT_VERSION}."
            )
        before = recorded.get("data")
        if not isinstance(before, dict) or not all(isinstance(parts, dict) for parts in before.values()):
            raise UserError(f"{file} is damaged: its entry 'data' holds no fingerprints.")
        changed = _first_difference(before, found)
    if changed is not None and not allow_changes:
        raise UserError(
            f"--resume in {directory}: the data are not those that the run began with ({changed}): put them back, or "
            "go on with --allow_changed_data."
        )
    write_json(file, {"format_version": FORMAT_VERSION, "data": {name: dict(part) for name, part in found.items()}})
    return None if changed is None else f"the data have changed since the run began ({changed})."


def _first_difference(before: Fingerprints, now: Fingerprints) -> str | None:
    for name, parts in now.items():
        known = before.get(name)
        if known is None or known == parts:
            continue
        for part in sorted({*known, *parts}):
            if known.get(part) != parts.get(part):
                return f"{name}, {part}: was {known.get(part, 'not there')}, is {parts.get(part, 'not there')}"
    return None
