"""The launchers of scripts/bert, run with the stand-in for Python of `test_scripts`."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from tests.test_scripts import ROOT, calls, flag, launch, repository

__all__ = ["repository"]
_WITH_OUTPUT = {"general_distill.py", "task_distill.py"}


@pytest.fixture
def bert(repository: Path) -> Path:
    """The repository with these launchers as well."""
    shutil.copytree(ROOT / "scripts" / "bert", repository / "scripts" / "bert", dirs_exist_ok=True)
    return repository


def scripts_called(root: Path) -> list[str]:
    """The calls of the two entry scripts."""
    return [call for call in calls(root) if any(script in call for script in _WITH_OUTPUT)]


@pytest.mark.parametrize("model", ["tiny", "google/bert-small"])
def test_stages_find_each_others_output(bert: Path, model: str) -> None:
    """Text, student, teacher and both stages: each reads what the one before wrote, without renaming anything."""
    for folder in ("data/pregenerated", "data/glue/sst2"):
        (bert / folder).mkdir(parents=True)
    for words in (["general_distill.sh", model], ["task_distill.sh", model, "sst2"], ["predict.sh", model]):
        done = launch(bert, f"bert/{words[0]}", *words[1:])
        assert done.returncode == 0, done.stderr
    general, teacher, intermediate, prediction, predict = scripts_called(bert)
    assert flag(intermediate, "--student_model") == flag(general, "--output-path")
    assert (
        flag(intermediate, "--teacher_model") == flag(prediction, "--teacher_model") == flag(teacher, "--output-path")
    )
    assert flag(prediction, "--student_model") == flag(intermediate, "--output-path")
    assert flag(predict, "--student_model") == flag(prediction, "--output-path")
    assert model.split("/")[-1] in flag(predict, "--predictions_dir")
    assert "--use_swap" in general and flag(teacher, "--mode") == "finetune"
    if model == "tiny":
        pregenerate = next(call for call in calls(bert) if "utils.pregenerate_training_data" in call)
        assert flag(general, "--pregenerated_data") == flag(pregenerate, "--output_dir")


def test_a_second_call_runs_nothing_again(bert: Path) -> None:
    """Finished stages are skipped."""
    for _ in range(2):
        assert launch(bert, "bert/general_distill.sh", "tiny").returncode == 0
        assert launch(bert, "bert/task_distill.sh", "tiny", "rte").returncode == 0
    assert len(scripts_called(bert)) == 4


def test_flags_are_for_the_distillation_and_come_last(bert: Path) -> None:
    """The teacher's fine-tuning does not get them."""
    launch(bert, "bert/general_distill.sh", "tiny")
    assert launch(bert, "bert/task_distill.sh", "tiny", "sst2", "--aug_train").returncode == 0
    assert ["--aug_train" in call for call in scripts_called(bert)] == [False, False, True, True]


def test_the_teacher_itself_can_be_the_student(bert: Path) -> None:
    """STUDENT=teacher: no general distillation is asked for; the first stage decomposes it, the second does not."""
    assert launch(bert, "bert/task_distill.sh", "tiny", "sst2", STUDENT="teacher").returncode == 0
    teacher, intermediate, prediction = scripts_called(bert)
    assert flag(intermediate, "--student_model") == flag(teacher, "--output-path") and "--use_swap" in intermediate
    assert flag(prediction, "--student_model") == flag(intermediate, "--output-path") and "--use_swap" not in prediction


def test_no_line_of_a_launcher_is_too_long() -> None:
    """The house's width holds for the shell as well."""
    long = [
        f"{file.name}:{number}"
        for file in (ROOT / "scripts").rglob("*.sh")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if len(line) > 120
    ]
    assert not long


def test_several_gpus_share_the_batch(bert: Path) -> None:
    """torchrun with two processes, half of the rows each."""
    done = launch(bert, "bert/general_distill.sh", "tiny", "--dry-run", NUM_GPUS="2")
    call = done.stdout.splitlines()[-1]
    assert "-m torch.distributed.run --standalone --nproc_per_node 2 general_distill.py" in call
    assert flag(call, "--batch-size") == "16"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["general_distill.sh", "bert-x"],
            "--train_corpus data/wikicorpus_128 --bert_model bert-x",
        ),
        (["task_distill.sh", "tiny", "sst2"], "bash scripts/bert/general_distill.sh tiny"),
        (["predict.sh", "tiny"], "bash scripts/bert/task_distill.sh tiny mrpc"),
        (["task_distill.sh", "tiny", "cola"], "TASK cola: unknown; known: mnli"),
        (["task_distill.sh", "tiny"], "expected 2 argument"),
        (["task_distill.sh", "tiny", "sst2", "--student_model", "x"], "STUDENT="),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_makes_it(bert: Path, words: list[str], message: str) -> None:
    """Exit code 2."""
    done = launch(bert, f"bert/{words[0]}", *words[1:])
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize(
    "words", [["general_distill.sh", "tiny"], ["task_distill.sh", "bert-x", "mrpc"], ["predict.sh", "tiny"]]
)
def test_dry_run_changes_nothing(bert: Path, words: list[str]) -> None:
    """The commands are printed, none is run, no file appears."""
    before = sorted(bert.rglob("*"))
    done = launch(bert, f"bert/{words[0]}", *words[1:], "--dry-run")
    assert done.returncode == 0, done.stderr
    assert sorted(bert.rglob("*")) == before


@pytest.mark.parametrize(("layers", "width", "expected"), [(6, 384, "36 192 192"), (12, 768, "72 384 384")])
@pytest.mark.parametrize("place", ["", "best"])
def test_ranks_follow_from_the_models_sizes(bert: Path, place: str, layers: int, width: int, expected: str) -> None:
    """Half of the matrices and of the width, of a model's folder and of a run's; RANKS_OF_STUDENT wins."""
    (bert / "data/pregenerated").mkdir(parents=True)
    (bert / "models/x" / place).mkdir(parents=True)
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width}
    (bert / "models/x" / place / "config.json").write_text(json.dumps(sizes, indent=2))
    names = ("--rank_layer", "--rank_condim", "--rank_dim")
    for environment, ranks in (({}, expected), ({"RANKS_OF_STUDENT": "1 2 3"}, "1 2 3")):
        done = launch(bert, "bert/general_distill.sh", "models/x", "--dry-run", **environment)
        call = done.stdout.splitlines()[-1]
        assert " ".join(flag(call, name) for name in names) == ranks


# ---- names and places -----------------------------------------------------------------------------------------------

TWINS = (
    ("runs/m1/best", "runs/m2/best"),
    ("a/my model=2/best", "b/my model=2/best"),
    ("google/bert-small", "prajjwal1/bert-small"),
)


@pytest.mark.parametrize("models", TWINS)
def test_models_with_the_same_last_part_are_kept_apart(bert: Path, models: tuple[str, str]) -> None:
    """Each has folders of its own: nothing of the other is read, skipped or overwritten."""
    for folder in ("data/pregenerated", "data/glue/sst2"):
        (bert / folder).mkdir(parents=True)
    folders: list[list[str]] = []
    for model in models:
        for words in (["bert/general_distill.sh", model], ["bert/task_distill.sh", model, "sst2"]):
            done = launch(bert, *words)
            assert done.returncode == 0, done.stderr
        folders.append([call.split("--output-path ")[1] for call in scripts_called(bert)])
    assert len(folders[0]) == 4 and len(set(folders[1])) == 8


@pytest.mark.parametrize("model", ["runs/m1/best", "./runs/m1/best/", "runs/m1/../m1/best"])
def test_a_model_has_one_name_however_its_path_is_written(bert: Path, model: str) -> None:
    """Also its absolute path, as long as it lies below the repository; a very long one is cut."""
    (bert / "data/pregenerated").mkdir(parents=True)
    for given in (model, str(bert / "runs/m1/best")):
        call = launch(bert, "bert/general_distill.sh", given, "--dry-run").stdout.splitlines()[-1]
        assert flag(call, "--output-path") == "checkpoints/bert/runs--m1--best/general"
    found = set()
    for name in ("x" * 300, "x" * 299 + "y"):
        call = launch(bert, "bert/general_distill.sh", f"/{name[:150]}/{name[150:]}", "--dry-run").stdout.splitlines()[
            -1
        ]
        found.add(flag(call, "--output-path"))
    assert len(found) == 2 and all(len(Path(path).parent.name) < 200 for path in found)


def test_printed_commands_can_be_pasted(bert: Path) -> None:
    """A model whose name has a blank: commands, and hints at what is missing, are quoted."""
    (bert / "data/glue/sst2").mkdir(parents=True)
    done = launch(bert, "bert/task_distill.sh", "my models/a=b", "sst2")
    assert "bash scripts/bert/general_distill.sh my\\ models/a=b" in done.stderr
    (bert / "data/pregenerated").mkdir()
    line = launch(bert, "bert/general_distill.sh", "my models/a=b", "--dry-run").stdout.splitlines()[-1]
    words = shlex.split(line)
    assert words[words.index("--teacher_model") + 1] == "my models/a=b"


@pytest.mark.parametrize("task", ["SST-2", "sst2", "Sst-2"])
def test_tasks_have_either_spelling(bert: Path, task: str) -> None:
    """As the folder is spelt, or as the scripts have it."""
    launch(bert, "bert/general_distill.sh", "tiny")
    assert launch(bert, "bert/task_distill.sh", "tiny", task).returncode == 0
    assert {flag(call, "--task_name") for call in scripts_called(bert)[1:]} == {"sst2"}


@pytest.mark.parametrize("name", ["--output_dir", "--output-path"])
def test_a_stage_that_is_sent_elsewhere_is_looked_for_there(bert: Path, name: str) -> None:
    """By either name of the flag: a second call finds it finished."""
    (bert / "data/pregenerated").mkdir(parents=True)
    for _ in range(2):
        done = launch(bert, "bert/general_distill.sh", "bert-x", name, "else where")
        assert done.returncode == 0, done.stderr
    assert "skipped, else where is complete" in done.stdout and len(scripts_called(bert)) == 1
