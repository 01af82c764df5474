"""What each tool proposes when it has ended: commands that are understood, name what is there, and run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.helpers_hints import check, proposals, run
from tests.tiny import Tiny
from tests.tiny import run as run_t5
from tests.tiny_bert import TinyBert, run_general, run_task
from utils.errors import UserError
from utils.hints import ROOT, beside, command, fresh, next_lines
from utils.tucker.task_arguments import parse_task_arguments

pytestmark = pytest.mark.usefixtures("single_thread")


# --- how commands are written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my runs", "it's", 'say "hi"', "a;b", "$HOME", "~", "über", "a&b", "(1)", "#1", "*"])
def test_a_shell_reads_a_proposed_command_as_it_was_meant(name: str) -> None:
    line = command("utils.plan", "--model", Path("runs") / name, "--budget", "macs<=0.5x", None, ["--batch", 2])
    script = f"printf '%s\\n' {line.split(' ', 1)[1]}"
    read = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert read == ["-m", "utils.plan", "--model", f"runs/{name}", "--budget", "macs<=0.5x", "--batch", "2"]


@pytest.mark.parametrize("program", ["task_distill.py", "utils.cost"])
def test_a_command_runs_from_another_folder_too(program: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    line = command(program, "--model", "x")
    assert str(ROOT) in line
    assert "PYTHONPATH=" in line or program.endswith(".py")


def test_at_the_root_a_command_is_as_short_as_in_the_readme(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    assert command("task_distill.py", "--mode", "sparsify").endswith(" task_distill.py --mode sparsify")
    assert command("scripts/wiki.sh", "base") == "bash scripts/wiki.sh base"


def test_proposed_folders_are_new_and_lie_beside_what_was_made(tmp_path: Path, monkeypatch) -> None:
    made = tmp_path / "mrpc"
    assert beside(made, "sparsified") == tmp_path / "mrpc-sparsified"
    (tmp_path / "mrpc-sparsified").mkdir()
    (tmp_path / "mrpc-sparsified-2").symlink_to("nowhere")
    assert beside(made, "sparsified") == tmp_path / "mrpc-sparsified-3"
    (tmp_path / "mrpc-report.html").touch()
    assert beside(made, "report.html").name == "mrpc-report-2.html"
    assert fresh(tmp_path / "a.b-c") == tmp_path / "a.b-c"
    monkeypatch.chdir(tmp_path)
    assert beside(Path(), "plugins") == tmp_path.parent / f"{tmp_path.name}-plugins"
    longest = beside(tmp_path / ("ü" * 127), "decomposed")
    longest.mkdir()
    assert longest.name.endswith("-decomposed")


def test_the_first_command_is_next_and_others_are_alternatives_or_follow() -> None:
    assert next_lines(["a", "b"]) == "next: a\nor: b"
    assert next_lines(["a", "b"], "then") == "next: a\nthen: b"
    assert next_lines([]) == ""


# --- task_distill.py -------------------------------------------------------------------------------------------------


class Walk:
    """Runs commands and follows what they propose."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, words: list[str]) -> list[list[str]]:
        """Runs a proposed command; gives what that one proposes, checked."""
        run(words)
        return self.told()

    def told(self) -> list[list[str]]:
        """What was proposed since, checked."""
        found = proposals(self._capsys.readouterr().out)
        made: list[str] = []
        for words in found:
            made.append(str(check(words, made)))
        return found


@pytest.fixture(scope="module")
def tiny_own(tmp_path_factory: pytest.TempPathFactory) -> TinyBert:
    """A model and data whose folders have names that a shell would take apart."""
    return TinyBert(tmp_path_factory.mktemp("it's a place"))


@pytest.fixture
def walk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Walk:
    monkeypatch.chdir(ROOT)
    return Walk(capsys)


def words(tiny: TinyBert, output: Path, *more: object, task: str = "sst2") -> list[str]:
    """Arguments of a run on data whose folder's name has blanks."""
    place = ["--task_name", task, "--data_dir", str(tiny.glue), "--output_dir", str(output)]
    loop = ["--max_seq_length", "32", "--train_batch_size", "8", "--learning_rate", "1e-3", "--num_train_epochs", "2"]
    return [*place, *loop, *map(str, more)]


def test_a_teachers_proposals_run_and_lead_to_an_evaluated_student(tiny_own: TinyBert, tmp_path: Path, walk) -> None:
    run_task(words(tiny_own, tmp_path / "my run", "--mode", "finetune", "--teacher_model", tiny_own.model))
    sparsify, decompose = walk.told()
    assert sparsify[2:4] == ["--mode", "sparsify"]
    assert "--use_swap" in decompose and decompose[decompose.index("--rank_layer") + 1] == "16"
    evaluate, serve = walk(decompose)
    assert serve[:3] == [serve[0], "-m", "serving"]
    report, _ = walk(evaluate)
    walk(report)
    assert Path(report[report.index("--output") + 1]).is_file()


def test_each_stage_alone_proposes_the_one_behind_it(tiny_own: TinyBert, tmp_path: Path, walk) -> None:
    teacher = tmp_path / "teacher"
    run_task(words(tiny_own, teacher, "--mode", "finetune", "--teacher_model", tiny_own.model, "--do_eval"))
    assert [found[2:4] for found in walk.told()] == [["--mode", "sparsify"], ["--stage", "both"]]
    student = [
        "--teacher_model",
        teacher,
        "--student_model",
        teacher,
        "--use_swap",
        "--protocol",
        "II",
        "--rank_dim",
        4,
    ]
    run_task(words(tiny_own, tmp_path / "inside", "--stage", "intermediate", *student))
    (prediction,) = walk.told()
    assert prediction[2:4] == ["--stage", "prediction"]
    assert next(found[2:4] for found in walk(prediction)) == ["--mode", "evaluate"]


def test_the_general_student_goes_on_to_a_task_that_is_there(tiny_own: TinyBert, tmp_path: Path, walk) -> None:
    ranks = ["--use_swap", "--rank_layer", "8", "--rank_condim", "16", "--rank_dim", "16", "--init_from_teacher"]
    loop = ["--max_seq_length", "32", "--train_batch_size", "16", "--num_train_epochs", "1"]
    place = ["--pregenerated_data", tiny_own.text, "--teacher_model", tiny_own.model, "--output_dir", tmp_path / "g"]
    run_general([*map(str, place), *loop, *ranks])
    finetune, distil = walk.told()
    assert finetune[2:4] == ["--mode", "finetune"] and str(tiny_own.glue) in finetune
    assert distil[distil.index("--student_model") + 1] == str(tmp_path / "g")
    assert distil[distil.index("--teacher_model") + 1] == finetune[finetune.index("--output_dir") + 1]


# --- train_t5.py -----------------------------------------------------------------------------------------------------


def test_a_t5s_proposals_lead_to_plugins_their_table_and_a_report(tiny: Tiny, tmp_path: Path, walk) -> None:
    run_t5(tiny.sst2(tmp_path / "run"))
    (plugins,) = walk.told()
    valid, serve = walk(plugins)
    assert serve[serve.index("--model") + 1] == str(tmp_path / "run" / "best")
    report, _ = walk(valid)
    assert report[1:3] == ["-m", "utils.report"]


@pytest.mark.parametrize("dataset", ["wiki", "qa"])
def test_text_and_questions_are_not_served(tiny: Tiny, tmp_path: Path, walk, dataset: str) -> None:
    run_t5(getattr(tiny, dataset)(tmp_path / "plugins", "--distil", "hidden", "--mux-num", 2, "--training-step", 2))
    (valid,) = walk.told()
    assert valid[2:4] == ["--mode", "valid"]
    if dataset == "wiki":
        walk(valid)


@pytest.mark.parametrize("stage", ["intermediate", "prediction", "both"])
def test_a_teacher_is_not_distilled_into_itself(tiny_own: TinyBert, tmp_path: Path, stage: str) -> None:
    """The refusal names flags that make a student of it, and with them the call is understood."""
    run_task(words(tiny_own, tmp_path / "t", "--mode", "finetune", "--teacher_model", tiny_own.model))
    given = words(tiny_own, tmp_path / "s", "--stage", stage, "--teacher_model", tmp_path / "t")
    for student in (tmp_path / "t", tmp_path / "t" / "best", f"{tmp_path}/x/../t/"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="is the --teacher_model itself") as refused:
            run_task([*given, "--student_model", str(student)])
    flags = str(refused.value).split("make one of it with ")[1].rstrip(".").split()
    assert parse_task_arguments([*given, "--student_model", "s", *flags])[1][0].decomposition.rank_dim == 16
