"""`python -m utils.report` on what a first hour leaves: of which kind each folder is, and what can be compared."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import helpers_report as made
from tests.tiny_bert import TinyBert, run_task
from utils.plan import __main__ as plan_script
from utils.report import __main__ as report
from utils.report.columns import remarks
from utils.report.html import page
from utils.report.markdown import markdown
from utils.report.reading import find_runs
from utils.report.rows import Row, build_rows
from utils.tucker.report import format_values
from utils.tucker.task_arguments import parse_task_arguments
from utils.variator.report import format_table

pytestmark = pytest.mark.usefixtures("single_thread")


def rows_by_name(folders: list[Path]) -> dict[str, Row]:
    """The rows, whose names have to differ."""
    return {row.name: row for row in build_rows(find_runs(folders))}


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer's first hour leaves: a teacher, both stages behind it, an evaluation, and two written plans."""
    root = tmp_path_factory.mktemp("walked")
    tiny = TinyBert(root / "data")
    run_task(tiny.task(root / "teacher", "--mode", "finetune", "--teacher_model", tiny.model, "--do_eval"))
    models = ["--teacher_model", root / "teacher", "--student_model", root / "teacher"]
    ranks = ["--use_swap", "--rank_layer", "16", "--rank_condim", "16", "--rank_dim", "16"]
    run_task(tiny.task(root / "both", "--stage", "both", *models, *ranks, "--seed", 7))
    evaluate = ["--mode", "evaluate", "--student_model", root / "both", "--output_dir", root / "both-evaluation"]
    run_task(["--task_name", "sst2", "--data_dir", str(tiny.glue), "--max_seq_length", "32", *map(str, evaluate)])
    run_task(tiny.task(root / "sorted", "--mode", "sparsify", "--teacher_model", root / "teacher"))
    small = f"--batch 2 --length 8 --repeats 2 --device cpu --cost-table {root / 'costs.json'} --remeasure".split()
    for name, budget, more in (("cut", "macs<=0.8x", ["--grid", "50"]), ("copy", "macs<=1x", [])):
        words = ["--model", str(root / "sorted"), "--budget", budget, "--commit", str(root / name), *more]
        plan_script.main([*words, *small])
    return root


def test_an_evaluation_elsewhere_is_a_part_of_the_run_that_made_the_model(walked: Path) -> None:
    """One row, with the seed of the training, the costs of the evaluation and the commands of all three calls."""
    rows = rows_by_name([walked / "both", walked / "both-evaluation"])
    assert list(rows) == ["both"]
    row = rows["both"]
    assert row.seeds == (7,) and row.macs is not None and row.tokens is not None
    assert [Path(folder).name for folder, _ in row.commands] == ["intermediate", "prediction", "both-evaluation"]
    lines = [shlex.split(line or "")[2:] for _, line in row.commands]
    stages = [parse_task_arguments(words)[0] for words in lines]
    assert [plan.stages for plan in stages] == [("intermediate",), ("prediction",), ()]
    assert stages[2].evaluate and "--use_swap" in lines[0] and "--use_swap" not in lines[1]


@pytest.mark.parametrize("place", ["evaluation", "own-name", "prediction/evaluation", "prediction/own-name", "a/b"])
@pytest.mark.parametrize("given", ["run", "above", "both"])
@pytest.mark.parametrize("moved", [False, True])
def test_an_evaluation_below_its_run_is_a_part_of_it(
    walked: Path, tmp_path: Path, place: str, given: str, moved: bool
) -> None:
    """In whatever folder of `--stage both` it lies, however it is given, and where its model has moved since."""
    shutil.copytree(walked / "both", tmp_path / "both")
    below = tmp_path / "both" / place
    shutil.copytree(walked / "both-evaluation", below)
    found = json.loads((below / "evaluation.json").read_text(encoding="utf-8"))
    made.write(
        below / "evaluation.json", {**found, "model": "gone" if moved else str(tmp_path / "both" / "prediction")}
    )
    folders = {"run": [tmp_path / "both"], "above": [tmp_path], "both": [tmp_path / "both", below]}[given]
    (row,) = build_rows(find_runs(folders))
    assert row.seeds == (7,) and row.macs == found["macs"] and row.tokens is not None
    assert [Path(folder).name for folder, _ in row.commands] == ["intermediate", "prediction", below.name]


def test_an_evaluation_below_a_run_that_is_of_another_model_stays_a_row(walked: Path, tmp_path: Path) -> None:
    """What it names counts more than where it lies; runs beside the stages, as the launchers leave them, are rows."""
    shutil.copytree(walked / "both", tmp_path / "sst2")
    shutil.copytree(walked / "teacher", tmp_path / "sst2" / "teacher")
    shutil.copytree(walked / "both-evaluation", tmp_path / "sst2" / "prediction" / "other")
    found = json.loads((walked / "both-evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    other = {**found, "model": str(tmp_path / "sst2" / "teacher"), "macs": 12345}
    made.write(tmp_path / "sst2" / "prediction" / "other" / "evaluation.json", other)
    rows = rows_by_name([tmp_path])
    assert set(rows) == {"sst2", "sst2/teacher"} and rows["sst2"].macs is None
    assert "sst2/prediction/other" in {
        Path(folder).relative_to(tmp_path).as_posix() for folder, _ in rows["sst2/teacher"].commands
    }


def test_an_evaluation_alone_says_by_which_command_it_was_made(walked: Path) -> None:
    row = rows_by_name([walked / "both-evaluation"])["both-evaluation"]
    assert row.tokens is not None and row.seeds == (1,)  # of the run that made the model
    ((_, line),) = row.commands
    assert line is not None and parse_task_arguments(shlex.split(line)[2:])[0].evaluate


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("cut", "committed from {root}/sorted/best at 50S, not trained since"),
        ("copy", "committed from {root}/sorted/best at 0S"),
    ],
)
def test_what_a_plan_wrote_is_listed_as_what_it_is(walked: Path, name: str, note: str) -> None:
    row = rows_by_name([walked / name])[name]
    assert row.note == note.format(root=walked) and row.task == "sst2" and row.num_params
    assert row.circumstances is not None and row.circumstances.at.startswith("20")
    assert row.edits == ("pruning 50%" if name == "cut" else "pruning 0%")
    ((_, line),) = row.commands
    assert line is not None and plan_script.parse(shlex.split(line)[3:]).commit == walked / name
    text = markdown("t", [row])
    assert "committed from" in text and "no arguments recorded" not in text and "unknown" not in text


def test_what_recorded_nothing_says_so(tmp_path: Path) -> None:
    made.write(tmp_path / "old" / "evaluation.json", made.evaluation("sst2", "dense", 0.5, 1e6, 10))
    assert f"# {tmp_path / 'old'}: no arguments recorded" in markdown("t", build_rows([tmp_path / "old"]))


def test_latencies_of_other_moments_and_settings_are_marked(tmp_path: Path) -> None:
    """The same process: no word. Another one: a sentence. Another machine, precision or number of threads: a letter."""
    usual = {"at": "2030-01-01T10:00:00+00:00", "machine": "m", "device": "cpu", "precision": "fp32", "threads": 2}

    def told(*changes: dict[str, Any] | None) -> str:
        folders = []
        for number, change in enumerate(changes):
            values = made.evaluation("sst2", f"pruning {number}", 0.5, 1e6, 10)
            known = {} if change is None else {"measured": {**usual, **change}}
            folders.append(made.write(tmp_path / f"{len(changes)}{number}" / "evaluation.json", {**values, **known}))
        rows = build_rows(folders)
        text = markdown("t", rows)
        assert all(remark.split(";")[0] in page("t", rows) for remark in remarks(rows))
        return text

    alike = told({}, {})
    assert "processes" not in alike and "\\[a\\]" not in alike
    later = told({}, {"at": "2030-01-02T10:00:00+00:00"})
    assert "measured in 2 processes" in later and "\\[b\\]" not in later
    for change in ({"machine": "other"}, {"precision": "bf16"}, {"threads": 4}, {"device": "GPU"}):
        marked = told({}, change)
        assert "128) \\[a\\]" in marked and "128) \\[b\\]" in marked
    assert "not recorded" in told({}, None)


def test_an_evaluation_says_over_which_lengths_it_counts() -> None:
    """A plan counts full rows; both stand in one terminal."""
    sizes = {"num_params": 10, "latency_ms": 2.0, "latency_p95_ms": 3.0, "delta_bytes": 0, "macs": 5e6}
    shape = {"encoder_params": 5, "latency_batch": 8, "latency_length": 64}
    assert "MACs/example (real length): 5.00 M" in format_values({"metrics": {"accuracy": 0.5}, **sizes, **shape})
    rows = [{"name": "dense", "accuracy": 0.5, **sizes}]
    assert format_table(rows, "accuracy").endswith("MACs/example: at its real length, mean over the rows")
    assert "MACs" not in format_table([{"name": "dense", "accuracy": 0.5}], "accuracy")


def test_pages_beside_the_runs_are_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`runs/*` holds those that an earlier call made; any other file is still a mistake."""
    made.teacher(tmp_path)
    report.main([str(tmp_path / "teacher"), "--output", str(tmp_path / "r.html")])
    report.main([*map(str, sorted(tmp_path.iterdir())), "--output", str(tmp_path / "r.html")])
    assert capsys.readouterr().out.count("(1 row)") == 4
    for only in (tmp_path / "r.html", tmp_path / "teacher" / "result.json"):
        with pytest.raises(SystemExit):
            report.main([str(only), "--output", str(tmp_path / "q.html")])
