"""The files of pre-generated text in a folder, as their names and metrics tell; none of the libraries is needed."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from dataset.errors import DataError
from dataset.sources import listing, read_json


class EpochFiles(NamedTuple):
    """The files of an epoch and what its metrics say."""

    instances: Path
    metrics: Path
    num_examples: int
    max_seq_len: int


def find_epochs(folder: str | Path) -> list[EpochFiles]:
    """The epochs in a folder, from ``epoch_0.json`` on.

    Raises:
        DataError: there are none, one is missing among them, or a metrics file is missing or damaged.
    """
    root = Path(folder)
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    numbers = sorted(int(match.group(1)) for name in names if (match := re.fullmatch(r"epoch_(\d+)\.json", name)))
    if not numbers:
        raise DataError(f"{root}: expected epoch_0.json, epoch_1.json, … of pre-generated data, {listing(root)}")
    if numbers != list(range(len(numbers))):
        absent = next(number for number in range(len(numbers)) if number not in numbers)
        raise DataError(f"{root}: there is epoch_{numbers[-1]}.json but no epoch_{absent}.json")
    return [_epoch_files(root, number) for number in numbers]


def _epoch_files(root: Path, number: int) -> EpochFiles:
    instances, metrics = root / f"epoch_{number}.json", root / f"epoch_{number}_metrics.json"
    if not metrics.is_file():
        raise DataError(f"{metrics}: missing; it says that {instances.name} is complete and how many lines it has")
    values = read_json(metrics)
    num_examples, max_seq_len = (_count(values, name, metrics) for name in ("num_training_examples", "max_seq_len"))
    return EpochFiles(instances, metrics, num_examples, max_seq_len)


def _count(values: Any, name: str, metrics: Path) -> int:
    found = values.get(name) if isinstance(values, dict) else None
    if type(found) is not int or found < 0:
        told = found if isinstance(found, int | float) else type(found).__name__
        raise DataError(f"{metrics}: expected JSON with {name}, a whole number, found {told}")
    return found
