"""The shell interface of MiniDisc's release: bert_scripts/ and t5_scripts/, run with the stand-in of `test_scripts`."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_scripts import ROOT, calls, flag, launch, repository
from utils.tucker.task_arguments import parse_task_arguments

__all__ = ["repository"]
STAGES = ("finetuning", "sparsification", "distillation", "maxidisc", "minidisc")
MODES = ("finetune", "sparsify", "distill", "maxidisc", "minidisc")


@pytest.fixture(params=["links", "files"])
def release(repository: Path, request: pytest.FixtureRequest) -> Path:
    """The repository with these launchers as links, as git has them, or as files, as a plain copy makes of them."""
    links = request.param == "links"
    for name in ("bert", "minidisc", "bert_scripts", "t5_scripts"):
        shutil.copytree(ROOT / "scripts" / name, repository / "scripts" / name, symlinks=links, dirs_exist_ok=True)
    for name in ("bert_scripts", "t5_scripts"):
        if links:
            (repository / name).symlink_to((ROOT / name).readlink())
        else:
            shutil.copytree(ROOT / name, repository / name)
    for task in ("mrpc", "conll"):
        (repository / "datasets" / task).mkdir(parents=True)
    (repository / "datasets" / "mrpc" / "test.tsv").touch()
    return repository


def printed(release: Path, script: str, *words: str) -> list[str]:
    """The command that a launcher prints, as words of task_distill.py."""
    done = launch(release, f"../{script}", *words, "--dry-run")
    assert done.returncode == 0, done.stderr
    found = shlex.split(done.stdout.splitlines()[-1])
    return found[found.index("task_distill.py") + 1 :]


def value(words: list[str], name: str) -> str:
    """The last value of a flag."""
    return words[len(words) - words[::-1].index(name)]


@pytest.mark.parametrize("task", ["mrpc", "conll"])
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_stages_find_each_others_output(release: Path, family: str, task: str) -> None:
    """As printed, one after the other, without a word behind them: each reads what the one before wrote."""
    for stage in STAGES:
        done = launch(release, f"../{family}_scripts/run_{stage}_{task}.sh")
        assert done.returncode == 0, done.stderr
    finetuning, sparsification, *schedules = calls(release)
    assert [flag(call, "--mode") for call in calls(release)] == list(MODES)
    assert flag(sparsification, "--teacher_model") == flag(finetuning, "--output-path")
    assert {flag(call, "--teacher_model") for call in schedules} == {flag(sparsification, "--output-path")}
    assert len({flag(call, "--output-path") for call in calls(release)}) == 5
    assert {flag(call, "--data_dir") for call in calls(release)} == {"datasets"}
    kind = "ner" if task == "conll" else "cls"
    backbone = {"bert": "bert", "t5": "enct5"}[family]
    assert flag(finetuning, "--model_type") == f"ft{backbone}_{kind}"
    assert {flag(call, "--model_type") for call in schedules} == {f"sparse{backbone}_{kind}"}


@pytest.mark.parametrize(
    "task", ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli", "conll", "wnut17"]
)
def test_every_task_has_its_scripts_and_they_are_understood(task: str) -> None:
    """In both folders, all five stages; the commands are parsed without a complaint."""
    for family in ("bert", "t5"):
        for stage in STAGES:
            script = ROOT / f"{family}_scripts" / f"run_{stage}_{task}.sh"
            assert script.resolve() == ROOT / "scripts" / "minidisc" / "original.sh"
    for family, stage in (("bert", "finetuning"), ("t5", "distillation"), ("bert", "minidisc")):
        parse_task_arguments(printed(ROOT, f"{family}_scripts/run_{stage}_{task}.sh"))


@pytest.mark.parametrize(
    ("script", "words", "expected", "folder"),
    [
        ("run_distillation_mrpc.sh", "kdbert_cls 4L", {"--layer_or_sparsity": "4L"}, "kdbert_cls_none_4L_mrpc"),
        (
            "run_distillation_mrpc.sh",
            "sparsebert_cls 80S x",
            {"--layer_or_sparsity": "80S"},
            "sparsebert_cls_x_80S_mrpc",
        ),
        ("run_distillation_mrpc.sh", "pkdbert_cls models/small", {"--layer_or_sparsity": "models/small"}, None),
        ("run_maxidisc_mrpc.sh", "kdbert_cls 6,4L x", {"--layer_or_sparsity_path": "6,4L"}, "kdbert_cls_x_6,4L_mrpc"),
        ("run_maxidisc_conll.sh", "70,90S x", {"--layer_or_sparsity_path": "70,90S"}, "sparsebert_ner_x_70,90S_conll"),
        ("run_minidisc_mrpc.sh", "sparsebert_cls 1", {"--target_sparsity": "90"}, "sparsebert_cls_1_auto,90S_mrpc"),
        ("run_minidisc_conll.sh", "x --target_sparsity 95", {}, "sparsebert_ner_x_auto,95S_conll"),
        ("run_finetuning_conll.sh", "x", {"--num_train_epochs": "3"}, "ftbert_ner_x_conll"),
        ("run_sparsification_mrpc.sh", "--teacher_model_path t/best", {"--teacher_model_path": "t/best"}, None),
        ("run_minidisc_mrpc.sh", "--model_suffix=x --lam 0.5", {"--lam": "0.5"}, "sparsebert_cls_x_auto,90S_mrpc"),
    ],
)
def test_words_are_those_of_the_release(
    release: Path, script: str, words: str, expected: dict[str, str], folder: str | None
) -> None:
    """Type, scale and suffix in the release's places; further flags win; the folder is named after them."""
    found = printed(release, f"bert_scripts/{script}", *words.split())
    assert {name: value(found, name) for name in expected} == expected
    assert folder is None or value(found, "--output-path") == f"outputs/{folder}"
    parse_task_arguments([word.replace("models/small", "4L") for word in found])


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("run_distillation_sst2.sh", "kdbrt 90S", "'kdbrt' is no model type"),
        ("run_finetuning_conll.sh", "ftbret_ner", "'ftbret_ner' is no model type"),
        ("run_distillation_sst2.sh", "sparsebert 90", "'90' is no scale"),
        ("run_maxidisc_sst2.sh", "sparsebert_cls 80,9OS", "'80,9OS' is no scale"),
        ("run_minidisc_sst2.sh", "95S", "--target_sparsity 95"),
        ("run_sparsification_sst2.sh", "x y", "'x' and 'y'"),
    ],
)
def test_words_that_are_misspelled_are_no_names_of_folders(script: str, words: str, said: str) -> None:
    """Refused, where they would otherwise train the default into a folder of that name."""
    command = ["bash", str(ROOT / "bert_scripts" / script), *words.split(), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 or done.returncode == 1
    assert said in done.stderr and "task_distill.py" not in done.stdout


def test_a_type_without_its_ending_has_the_folder_of_the_whole_name(release: Path) -> None:
    """What one stage writes is what the next one reads."""
    found = printed(release, "bert_scripts/run_sparsification_mrpc.sh", "sparsebert")
    assert value(found, "--output-path") == "outputs/sparsebert_cls_none_mrpc"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("bert_scripts/run_minidisc_mrpc.sh", ("16", "3e-5", "10", "acc_and_f1")),
        ("bert_scripts/run_minidisc_qqp.sh", ("32", "2e-5", "3000", "acc_and_f1")),
        ("bert_scripts/run_minidisc_conll.sh", ("32", "2e-5", "100", None)),
        ("t5_scripts/run_minidisc_mrpc.sh", ("32", "2e-4", "10", "acc_and_f1")),
        ("t5_scripts/run_minidisc_qqp.sh", ("32", "1e-4", "3000", "acc_and_f1")),
    ],
)
def test_settings_are_those_of_the_release(script: str, expected: tuple[str, str, str, str | None]) -> None:
    """Rows, rate, interval and metric of its scripts, and what all of them share."""
    found = printed(ROOT, script)
    names = ("--batch-size", "--learning_rate", "--log_interval", "--selection_metric")
    assert tuple(value(found, name) if name in found else None for name in names) == expected
    shared = {"--weight_decay": "1e-2", "--num_patience_epochs": "5", "--max_grad_norm": "5.0", "--seed": "776"}
    assert {name: value(found, name) for name in shared} == shared


def test_predictions_follow_where_there_are_rows_to_predict(release: Path) -> None:
    """--do_infer on whole sentences with a test set, as in the release."""
    assert "--do_infer" in printed(release, "bert_scripts/run_minidisc_mrpc.sh")
    assert "--do_infer" not in printed(release, "bert_scripts/run_minidisc_conll.sh")
    (release / "datasets" / "mrpc" / "test.tsv").unlink()
    assert "--do_infer" not in printed(release, "bert_scripts/run_minidisc_mrpc.sh")


def test_missing_stages_and_wrong_names_are_told(release: Path) -> None:
    """Exit code 2 and what makes it; a run of another teacher is not taken, and both are named."""
    done = launch(release, "../bert_scripts/run_minidisc_mrpc.sh")
    assert done.returncode == 2 and "bash bert_scripts/run_sparsification_mrpc.sh" in done.stderr
    assert launch(release, "minidisc/original.sh").returncode == 2
    assert launch(release, "../bert_scripts/run_minidisc_mrpc.sh", "a", "b", "c", "d").returncode == 2
    teacher = ("--teacher_model_path", "runs/m1/best")
    assert launch(release, "../bert_scripts/run_sparsification_mrpc.sh", *teacher).returncode == 0
    done = launch(release, "../bert_scripts/run_sparsification_mrpc.sh", teacher[0], "runs/m2/best")
    assert done.returncode == 2 and "runs/m1/best" in done.stderr and "runs/m2/best" in done.stderr


def test_they_run_from_inside_their_folder(release: Path) -> None:
    """As the release's run_minidisc_mrpc.sh had to be."""
    command = ["bash", "run_finetuning_mrpc.sh", "--dry-run"]
    done = subprocess.run(command, cwd=release / "bert_scripts", capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--mode finetune" in done.stdout, done.stderr
