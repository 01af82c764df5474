"""`python -m utils.report`: what its rows say, and what stands on its pages."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from tests import helpers_report as made
from tests.helpers_decomposition import tiny_bert
from tests.helpers_fuzz import fuzz, json_files
from utils.arguments import as_json
from utils.engine import Runtime
from utils.report.__main__ import main, parse, write_report
from utils.report.commands import command_of
from utils.report.markdown import table
from utils.report.reading import find_runs, read_run
from utils.report.rows import Row, build_rows
from utils.tucker.general_arguments import parse_general_arguments
from utils.tucker.report import costs
from utils.tucker.task_arguments import TaskArguments, parse_task_arguments, recorded_arguments
from utils.variator.arguments import parse_arguments


def rows_by_name(folders: list[Path], *more: object) -> dict[str, Row]:
    return {row.name: row for row in build_rows(find_runs(folders), *more)}  # type: ignore[arg-type]


def test_runs_that_differ_only_in_their_seed_are_one_row(tmp_path: Path) -> None:
    """Mean, sample deviation and n over seeds; costs of the one that has them; training is a mean.

    The folder above all of them ends in one of the seeds.
    """
    above = tmp_path / "runs-3"
    made.teacher(above, 0.8)
    for seed, accuracy in ((1, 0.6), (2, 0.7), (3, 0.8)):
        made.student(above, seed, accuracy)
    made.student(above, 1, 0.5, name="hotter", lr=1e-3)
    rows = rows_by_name([above])
    assert set(rows) == {"teacher", "sst2-*/student", "sst2-1/hotter"}
    row = rows["sst2-*/student"]
    assert (row.mean, row.deviation, row.seeds) == (pytest.approx(0.7), pytest.approx(0.1), (1, 2, 3))
    assert (row.num_params, row.macs, row.latency_ms, row.latency_shape) == (100, 1e6, 1.0, (8, 128))
    assert (row.tokens, row.train_seconds) == (2000, 120)
    assert (row.method, row.edits) == ("pruning, distill", "pruning 90%")
    assert row.retention == pytest.approx(0.7 / 0.8)


def test_retention_is_against_the_named_dense_run(tmp_path: Path) -> None:
    """--dense goes before the teacher that the run itself names."""
    made.teacher(tmp_path, 0.8)
    student = made.student(tmp_path, 1, 0.6)
    other = made.teacher(tmp_path / "other", 0.5)
    assert build_rows([student])[0].retention == pytest.approx(0.6 / 0.8)
    assert build_rows([student], None, [other])[0].retention == pytest.approx(0.6 / 0.5)


def test_ratios_are_rows_beside_their_own_dense_model(tmp_path: Path) -> None:
    """A row per ratio; the dense one of the same run is the reference; training is that of the plugins."""
    rows = rows_by_name([made.ratios(tmp_path, dense=0.8, at_four=0.6)])
    dense, four = rows["valid, dense"], rows["valid, k=4"]
    assert (dense.is_dense, dense.retention, dense.tokens) == (True, 1.0, None)
    assert (four.edits, four.retention, four.tokens) == ("plugin k=4", pytest.approx(0.75), 500)
    assert (four.metric, four.memory_bytes) == ("f1", 5_000_000)


def test_plugins_on_a_bert_are_a_row_per_ratio(tmp_path: Path) -> None:
    """Each with its own metric and costs; they are held against the dense teacher, found through the student."""
    teacher = made.teacher(tmp_path, 0.8)
    made.adapted(tmp_path / "on-dense", "plugin", teacher, {1: 0.8, 2: 0.72, 4: 0.6})
    pruned = made.student(tmp_path, 1, 0.7)
    made.adapted(tmp_path / "on-pruned", "pruning + plugin", pruned, {1: 0.7, 2: 0.64, 4: 0.4})
    rows = rows_by_name([tmp_path / "on-dense", tmp_path / "on-pruned"])
    said = {
        name: (row.edits, row.mean, row.macs, row.retention and round(row.retention, 6)) for name, row in rows.items()
    }
    assert said == {
        "on-dense, dense": ("dense", 0.8, 4e6, 1.0),
        "on-dense, k=2": ("plugin k=2", 0.72, 2e6, 0.9),
        "on-dense, k=4": ("plugin k=4", 0.6, 1e6, 0.75),
        "on-pruned, k=1": ("pruning", 0.7, 4e6, 0.875),
        "on-pruned, k=2": ("pruning + plugin k=2", 0.64, 2e6, 0.8),
        "on-pruned, k=4": ("pruning + plugin k=4", 0.4, 1e6, 0.5),
    }
    assert [rows[name].tokens for name in ("on-dense, dense", "on-dense, k=4", "on-pruned, k=1")] == [7000, 300, 1000]
    assert rows["on-pruned, k=4"].method == "pruning + plugin"


def test_plugins_trained_otherwise_share_the_row_of_their_student(tmp_path: Path) -> None:
    """Without plugins two adaptations of one student are the same model; with them they are not."""
    teacher = made.teacher(tmp_path, 0.8)
    for name, lr, at_four in (("a", 1e-3, 0.6), ("b", 1e-4, 0.5)):
        folder = made.adapted(tmp_path / name, "plugin", teacher, {1: 0.8, 4: at_four})
        given = json.loads((folder / "arguments.json").read_text())["arguments"]
        made.arguments(folder, 1, {**given, "lr": lr})
    assert set(rows_by_name([tmp_path / "a", tmp_path / "b"])) == {"*, dense", "a, k=4", "b, k=4"}


def test_costs_and_evaluation_of_one_model_are_one_row(tmp_path: Path) -> None:
    """Where no arguments are recorded, too; those of another model stay apart."""
    for name, at_two in (("a", 0.7), ("b", 0.7)):
        made.evaluated(tmp_path / name, f"{name}/model", "plugin + quantization", {1: 0.8, 2: at_two})
    rows = rows_by_name([tmp_path])
    assert {name: row.macs for name, row in rows.items()} == {
        f"{name}/evaluation, k={k}": 4e6 / k for name in "ab" for k in (1, 2)
    }
    assert rows["a/evaluation, k=1"].edits == "quantization"


def test_memory_of_a_bert_is_measured_and_shown(tmp_path: Path) -> None:
    """What an evaluation writes of the timed forward is at least the model's own weights."""
    found = costs(tiny_bert().eval(), [3, 5], Runtime("fp32", "bert", 1))
    made.write(tmp_path / "a" / "evaluation.json", {**made.evaluation("sst2", "dense", 0.8, None, 1), **found})
    memory = rows_by_name([tmp_path / "a"])["a"].memory_bytes
    assert memory is not None and memory > 4 * found["num_params"]


def test_what_was_not_measured_says_so(tmp_path: Path) -> None:
    """Never a zero or an empty cell; a run that was interrupted is a row that says it."""
    made.student(tmp_path, 2, 0.7)
    made.arguments(tmp_path / "cut", 1, {"task_name": "sst2", "stage": "finetune"})
    rows = build_rows(find_runs([tmp_path]))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(rows)]
    assert all(cell for line in cells for cell in line)
    by_name = {line[0]: dict(zip(cells[0], line, strict=True)) for line in cells[2:]}
    assert by_name[r"cut (not finished)"]["value"] == "not measured"
    student = by_name["sst2-2/student"]
    assert [student[name] for name in ("MACs (M)", "latency (ms)", "memory (MB)", "retention")] == ["not measured"] * 4


def test_no_run_directory_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty folder, a missing one and a file: exit code 2 and one sentence with the path."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for name in ("empty", "nowhere", "notes.txt"):
        with pytest.raises(SystemExit) as stopped:
            main([str(tmp_path / name), "--output", str(tmp_path / "r.html")])
        assert stopped.value.code == 2
        assert f"{tmp_path / name} is no run directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["arguments.json", "result.json", "costs/evaluation.json", "best/config.json", "rows", "ratios", "plan"]
)
@pytest.mark.parametrize("count", [40, pytest.param(5_000, marks=pytest.mark.slow)])
def test_any_content_makes_a_page_or_a_sentence(tmp_path: Path, name: str, count: int) -> None:
    """Whatever the files of a run hold."""
    made.teacher(tmp_path)
    if name == "rows":
        file = made.ratios(tmp_path, 0.8, 0.6) / "result.json"
    elif name == "ratios":
        made.evaluated(tmp_path / "a", "m", "plugin", {1: 0.8, 2: 0.7})
        file = tmp_path / "a" / "costs" / "evaluation.json"
    elif name == "plan":
        file = made.committed(tmp_path / "cut", str(tmp_path / "teacher")) / "plan.json"
    else:
        file = made.student(tmp_path, 1, 0.7) / name
    given = parse([str(tmp_path), "--output", str(tmp_path / "r.html")])

    def check(content: bytes) -> None:
        file.write_bytes(content)
        write_report(given)

    fuzz(count, json_files(json.loads(file.read_text())), check)


HOSTILE = '<script>document.title="x"</script>"\'&`|'


def test_what_comes_from_files_is_escaped(tmp_path: Path) -> None:
    """A name, task, edit, version and argument full of markup stay text, in HTML, JSON and Markdown."""
    folder = made.student(tmp_path, 1, 0.7, name="<script>a&b")
    made.arguments(folder, 1, {"task_name": HOSTILE, "stage": "finetune", "teacher_model": HOSTILE})
    made.write(folder / "best" / "config.json", {"compression": [{"kind": HOSTILE}]})
    other = made.student(tmp_path, 2, 0.7)
    html, markdown = write_report(
        parse([str(folder), str(other), "--title", HOSTILE, "--output", str(tmp_path / "r.html")])
    )
    page, text = html.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")
    assert len(re.findall("<script", page)) == 2  # the data and the page's own
    assert "<script>document" not in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))  # type: ignore[union-attr]
    assert HOSTILE in {row["task"] for row in data["rows"]}
    outside = re.sub(r"(?s)```+.*?```+", "", text)
    assert not re.search(r"(?<!\\)<script", outside)


def test_page_is_alone(tmp_path: Path) -> None:
    """Nothing in it is fetched: no address, import or source; its policy forbids what is not in it."""
    page = write_report(parse([str(made.teacher(tmp_path)), "--output", str(tmp_path / "r.html")]))[0].read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"(?i)\b(src|href)\s*=|@import|url\(|fetch\(|https?://(?!www\.w3\.org/2000/svg)", page)


def test_commands_are_those_that_make_the_run_again(tmp_path: Path) -> None:
    """Parsed by the script, the command gives the recorded arguments."""
    t5 = "--dataset sst2 --data-path d --model-config m --mode valid --no-costs --mux-num 2 4 --output-path o --lr 3e-4"
    groups = parse_arguments(t5.split())
    general = "--pregenerated_data p --teacher_model t --init_from_teacher --use_swap --rank_layer 4 --output_dir o"
    command = parse_general_arguments(general.split())
    task = "--mode maxidisc --layer_or_sparsity_path 70,90S;80,90S --task_name cola --data_dir d --teacher_model t"
    _, commands = parse_task_arguments([*task.split(), "--output_dir", "o", "--learning_rate", "1e-3"])
    recorded = [
        as_json(*groups),
        as_json(*command),
        {**recorded_arguments(commands[0], "schedule"), "mode": "maxidisc"},
    ]
    for number, values in enumerate(recorded):
        made.arguments(tmp_path / str(number), 1, values)
        values["output_path"] = str(tmp_path / str(number))
    shown = [command_of(read_run(tmp_path / str(number))) for number in range(3)]
    words = [shlex.split(line or "")[2:] for line in shown]
    assert as_json(*parse_arguments(words[0])) == recorded[0]
    assert as_json(*parse_general_arguments(words[1])) == recorded[1]
    again = parse_task_arguments(words[2])[1][0]
    assert {**recorded_arguments(again, "schedule"), "mode": "maxidisc"} == recorded[2]
    assert "--weight_decay" not in (shown[0] or "") and "--num_train_epochs" not in (
        shown[2] or ""
    )  # defaults are left out


#: Mode -> flags that train something in it.
TRAINED = {
    "finetune": "--teacher_model t",
    "distill": "--teacher_model t --student_model s --pred_distill --temperature 2",
    "sparsify": "--teacher_model t --layer_or_sparsity 90S",
    "maxidisc": "--teacher_model t --layer_or_sparsity_path 70,90S",
    "minidisc": "--teacher_model t --target_sparsity 80",
    "adapt": "--student_model s --mux_num 2 4 --distil task-hidden --task_ratio 0.5",
}


def test_every_mode_that_trains_is_among_these() -> None:
    """One that is added to the script has to be added here; the others record nothing."""
    hint = get_type_hints(TaskArguments)["mode"]
    modes = {mode for part in get_args(hint) for mode in get_args(part)}
    assert modes - {"evaluate", "predict"} == set(TRAINED)


@pytest.mark.parametrize("mode", TRAINED)
def test_command_of_every_mode_is_understood(tmp_path: Path, mode: str) -> None:
    """The script parses it into the same plan and the recorded arguments."""
    words = ["--mode", mode, *TRAINED[mode].split(), "--task_name", "rte", "--data_dir", "d", "--lr", "3e-3"]
    plan, (command, *_) = parse_task_arguments([*words, "--output_dir", str(tmp_path)])
    scheduled = {"mode": plan.schedule} if plan.schedule else {}
    stage = plan.stages[0] if plan.stages else "schedule"
    recorded = {**recorded_arguments(command, stage), **scheduled}
    made.write(tmp_path / "arguments.json", {"arguments": recorded})
    again, (command, *_) = parse_task_arguments(shlex.split(command_of(read_run(tmp_path)) or "")[2:])
    assert again == plan
    assert {**recorded_arguments(command, stage), **scheduled} == recorded
