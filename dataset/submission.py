"""The files of a GLUE leaderboard submission: written from predictions, checked, and zipped.

One TSV file per test set, with the header `index<TAB>prediction` and a row for every test example in order.
Names, words and sizes are the leaderboard's (gluebenchmark.com, FAQ).
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from dataset.errors import DataError, shown
from dataset.glue import SCORES
from dataset.sources import read_lines

HEADER = "index\tprediction"
#: A zip entry needs a date; a fixed one makes equal predictions give equal archives.
_DATE = (1980, 1, 1, 0, 0, 0)
_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_THREE_WAYS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class PredictionFile:
    """One file of a submission.

    Attributes:
        file: its name.
        rows: number of test examples.
        words: what stands for label 0, 1, … (the order of `Task.labels`); () where scores are predicted.
    """

    file: str
    rows: int
    words: tuple[str, ...]


#: By the task's short name, in the order of the leaderboard.
FILES: Mapping[str, PredictionFile] = MappingProxyType(
    {
        "cola": PredictionFile("CoLA.tsv", 1063, _BINARY),
        "sst2": PredictionFile("SST-2.tsv", 1821, _BINARY),
        "mrpc": PredictionFile("MRPC.tsv", 1725, _BINARY),
        "stsb": PredictionFile("STS-B.tsv", 1379, ()),
        "qqp": PredictionFile("QQP.tsv", 390965, _BINARY),
        "mnli": PredictionFile("MNLI-m.tsv", 9796, _THREE_WAYS),
        "mnlimm": PredictionFile("MNLI-mm.tsv", 9847, _THREE_WAYS),
        "qnli": PredictionFile("QNLI.tsv", 5463, _ENTAILMENT),
        "rte": PredictionFile("RTE.tsv", 3000, _ENTAILMENT),
        "wnli": PredictionFile("WNLI.tsv", 146, _BINARY),
        "ax": PredictionFile("AX.tsv", 1104, _THREE_WAYS),
    }
)


def write_predictions(
    name: str, predictions: Sequence[int | float], folder: str | Path, row_ids: Sequence[str] | None = None
) -> Path:
    """Write one file of a submission.

    Args:
        name: a key of `FILES`.
        predictions: label ids in the order of `Task.labels`, or scores, which are clipped to 0 … 5; one per test
            example, in order. Their number is checked by `check_submission`, so that a part can be looked at.
        folder: made where it is missing.
        row_ids: what the rows are called in the file's column `index`; left out: 0, 1, 2 …

    Raises:
        DataError: the test set is unknown, or a prediction is none of its labels or no finite number.
    """
    if name not in FILES:
        raise DataError(f"{name!r} has no file in a GLUE submission; there are: {', '.join(FILES)}")
    entry = FILES[name]
    target = Path(folder) / entry.file
    target.parent.mkdir(parents=True, exist_ok=True)
    called = range(len(predictions)) if row_ids is None else row_ids
    rows = [
        f"{called[index]}\t{_word(entry, prediction, f'{name}, prediction {index}')}\n"
        for index, prediction in enumerate(predictions)
    ]
    with target.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines([f"{HEADER}\n", *rows])
    return target


def _word(entry: PredictionFile, prediction: int | float, where: str) -> str:
    if not math.isfinite(prediction):
        raise DataError(f"{where}: found {prediction}, expected a finite number")
    if not entry.words:
        return f"{min(max(float(prediction), SCORES[0]), SCORES[1]):.3f}"
    if prediction != int(prediction) or not 0 <= prediction < len(entry.words):
        raise DataError(f"{where}: found label {prediction}, expected 0 to {len(entry.words) - 1}")
    return entry.words[int(prediction)]


def submission_problems(folder: str | Path) -> list[str]:
    """Everything that the leaderboard would refuse, a sentence per problem; empty for a good submission."""
    root = Path(folder)
    if not root.is_dir():
        return [f"{root} is not a folder"]
    problems = []
    if missing := [entry.file for entry in FILES.values() if not (root / entry.file).is_file()]:
        problems.append(f"missing: {', '.join(missing)}")
    for entry in FILES.values():
        if (root / entry.file).is_file():
            problems += _file_problems(root / entry.file, entry)
    return problems


def check_submission(folder: str | Path) -> None:
    """Check files, numbers of rows, indices and labels.

    Raises:
        DataError: with all problems at once.
    """
    if problems := submission_problems(folder):
        raise DataError(f"{folder} is no whole GLUE submission: {'; '.join(problems)}")


def _file_problems(path: Path, entry: PredictionFile) -> list[str]:
    """Of the rows that are wrong, the first one and their number; then the number of rows."""
    lines = read_lines(path)
    header = next(lines, None)
    if header is None or header.text != HEADER:
        found = "an empty file" if header is None else shown(header.text)
        return [f"{path.name}:1: found {found}, expected the header {HEADER!r}"]
    rows, wrong = 0, 0
    first = ""
    for rows, line in enumerate(lines, start=1):
        if problem := _row_problem(line.text, rows - 1, entry):
            first = first or f"{path.name}:{line.number}: {problem}"
            wrong += 1
    problems = [f"{first} ({wrong} such rows)" if wrong > 1 else first] if wrong else []
    if rows != entry.rows:
        problems.append(f"{path.name}: {rows} rows, expected {entry.rows}")
    return problems


def _row_problem(text: str, index: int, entry: PredictionFile) -> str:
    columns = text.split("\t")
    if len(columns) != 2:
        return f"{len(columns)} columns, expected 2 (tab separated)"
    if columns[0] != str(index):
        return f"index {shown(columns[0])}, expected {index}"
    if entry.words:
        return "" if columns[1] in entry.words else f"{shown(columns[1])} is none of {', '.join(entry.words)}"
    try:
        score = float(columns[1])
    except ValueError:
        return f"{shown(columns[1])} is not a number"
    return "" if SCORES[0] <= score <= SCORES[1] else f"{columns[1]} is not between {SCORES[0]:g} and {SCORES[1]:g}"


def write_zip(folder: str | Path, target: str | Path | None = None) -> Path:
    """Check the submission in `folder` and pack its files into `target` (default: `folder`/submission.zip).

    The archive holds the leaderboard's files and nothing else.

    Raises:
        DataError: something is missing or wrong.
    """
    root = Path(folder)
    check_submission(root)
    archive = root / "submission.zip" if target is None else Path(target)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        for name, content in _contents(root):
            stream.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
    return archive


def _contents(root: Path) -> Iterator[tuple[str, bytes]]:
    for entry in FILES.values():
        yield entry.file, (root / entry.file).read_bytes()
