"""The GLUE submission: what is written is what the leaderboard takes, and everything wrong is named at once."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from dataset.errors import DataError
from dataset.submission import FILES, check_submission, submission_problems, write_predictions, write_zip
from dataset.tasks import TASKS
from utils import submission


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission that predicts the last label everywhere."""
    folder = tmp_path_factory.mktemp("submission")
    for name, entry in FILES.items():
        prediction = len(entry.words) - 1 if entry.words else 2.25
        write_predictions(name, [prediction] * entry.rows, folder)
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A submission of one's own to damage; links, as one file is large."""
    for path in whole.glob("*.tsv"):
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def replace(folder: Path, file: str, text: str) -> None:
    (folder / file).unlink()
    (folder / file).write_text(text, encoding="utf-8")


def test_files_have_the_leaderboards_form(whole: Path) -> None:
    """Header, index, and the words of the task."""
    lines = {path.name: path.read_text(encoding="utf-8").splitlines() for path in whole.glob("*.tsv")}
    assert {name: len(rows) - 1 for name, rows in lines.items()} == {
        **{"CoLA.tsv": 1063, "SST-2.tsv": 1821, "MRPC.tsv": 1725, "STS-B.tsv": 1379, "QQP.tsv": 390965},
        **{"MNLI-m.tsv": 9796, "MNLI-mm.tsv": 9847, "QNLI.tsv": 5463, "RTE.tsv": 3000, "WNLI.tsv": 146},
        "AX.tsv": 1104,
    }
    assert {rows[0] for rows in lines.values()} == {"index\tprediction"}
    assert lines["RTE.tsv"][1] == "0\tnot_entailment" and lines["MNLI-mm.tsv"][2] == "1\tcontradiction"
    assert lines["WNLI.tsv"][-1] == "145\t1" and lines["STS-B.tsv"][1] == "0\t2.250"


def test_words_are_in_the_order_of_the_tasks_labels() -> None:
    """A label id means the same here as in the table of tasks."""
    for name, entry in FILES.items():
        if name in TASKS:
            assert entry.words == TASKS[name].file_labels


def test_scores_are_clipped(tmp_path: Path) -> None:
    """A regression head may leave the range; the leaderboard may not see it."""
    path = write_predictions("stsb", [-0.3, 5.4, 3.14159, 5], tmp_path)
    assert [row.split("\t")[1] for row in path.read_text().splitlines()[1:]] == ["0.000", "5.000", "3.142", "5.000"]


def test_a_whole_submission_is_zipped(whole: Path, tmp_path: Path) -> None:
    """Exactly the eleven files, at the archive's top, the same bytes every time."""
    one, two = write_zip(whole, tmp_path / "a.zip"), write_zip(whole, tmp_path / "b.zip")
    with zipfile.ZipFile(one) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(entry.file for entry in FILES.values())
        assert archive.read("RTE.tsv") == (whole / "RTE.tsv").read_bytes()
    assert one.read_bytes() == two.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"] == []


def test_every_problem_is_named_at_once(copied: Path) -> None:
    """Missing files, wrong numbers of rows, wrong words, wrong order: one message."""
    (copied / "AX.tsv").unlink()
    (copied / "CoLA.tsv").unlink()
    replace(copied, "RTE.tsv", "index\tprediction\n0\tentailment\n1\tentails\n2\tentails\n")
    replace(copied, "WNLI.tsv", "index\tprediction\n" + "".join(f"{i + 1}\t1\n" for i in range(146)))
    replace(copied, "STS-B.tsv", "index\tprediction\n0\t5.1\n")
    replace(copied, "SST-2.tsv", "id\tlabel\n0\t1\n")
    replace(copied, "MRPC.tsv", "index\tprediction\n0 1\n")
    with pytest.raises(DataError) as error:
        check_submission(copied)
    for words in (
        "missing: CoLA.tsv, AX.tsv",
        "RTE.tsv:3: 'entails' is none of entailment, not_entailment (2 such rows)",
        "RTE.tsv: 3 rows, expected 3000",
        "WNLI.tsv:2: index '1', expected 0 (146 such rows)",
        "STS-B.tsv:2: 5.1 is not between 0 and 5",
        "SST-2.tsv:1: found 'id\\tlabel', expected the header",
        "MRPC.tsv:2: 1 columns, expected 2",
    ):
        assert words in str(error.value)
    with pytest.raises(DataError):
        write_zip(copied)
    assert not list(copied.glob("*.zip*"))


def test_empty_and_absent_folders_are_named(tmp_path: Path) -> None:
    """Nothing there is a problem too; so is an empty file."""
    assert submission_problems(tmp_path / "none") == [f"{tmp_path / 'none'} is not a folder"]
    (tmp_path / "AX.tsv").touch()
    problems = submission_problems(tmp_path)
    assert len(problems) == 2 and "AX.tsv:1: found an empty file" in problems[1]


@pytest.mark.parametrize(
    ("name", "prediction", "words"),
    [
        ("rte", 2, "prediction 1: found label 2, expected 0 to 1"),
        ("mnli", -1, "found label -1, expected 0 to 2"),
        ("cola", 0.5, "found label 0.5"),
        ("stsb", float("nan"), "found nan, expected a finite number"),
        ("mrcp", 0, "'mrcp' has no file"),
    ],
)
def test_predictions_that_cannot_be_are_refused(name: str, prediction: float, words: str, tmp_path: Path) -> None:
    """And no file is left that looks complete."""
    with pytest.raises(DataError, match=words):
        write_predictions(name, [0, prediction], tmp_path)
    assert not list(tmp_path.glob("*.tsv"))


def test_the_command_checks_and_zips(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence and exit code 2 for a bad submission."""
    submission.main([str(whole), "--output", str(tmp_path / "s.zip")])
    assert "s.zip (11 files, checked)" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        submission.main([str(tmp_path)])
    assert stop.value.code == 2 and "error: " in capsys.readouterr().err
