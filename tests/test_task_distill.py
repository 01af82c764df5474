"""The real script on tasks, end to end: fine-tuning, both stages of distillation, evaluation, prediction."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

from dataset import TASKS, DataError
from dataset.submission import FILES
from model import DecompositionConfig, ModelError, apply_edit, find_edit
from tests.helpers_ranks import free_port
from tests.test_decomposition_originals import write_original
from tests.tiny import assert_same_run, die_before_step, killed_run, result_of, rows_of, tensors_under
from tests.tiny_bert import TinyBert, bert_config, run_general, run_task, save_bert, tiny_word_pieces
from utils.errors import UserError
from utils.tucker.defaults import TASK_DEFAULTS
from utils.tucker.task_arguments import parse_task_arguments

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parent.parent


class Stages:
    """The stages of the method, each made once: teacher, general student, task student."""

    def __init__(self, root: Path) -> None:
        self.tiny = TinyBert(root / "data")
        self.teacher, self.general, self.student = root / "teacher", root / "general", root / "student"
        run_task(self.tiny.task(self.teacher, "--mode", "finetune", "--teacher_model", self.tiny.model, *_EPOCHS(8)))
        ranks = ("--rank_layer", 5, "--rank_condim", 12, "--rank_dim", 10, "--max_steps", 4)
        run_general(self.tiny.general(self.general, "--init_from_teacher", "--use_swap", *ranks))
        models = ("--teacher_model", self.teacher, "--student_model", self.general)
        run_task(self.tiny.task(self.student, "--stage", "both", *models, "--do_eval", "--do_predict", *_EPOCHS(3)))


def _EPOCHS(count: int) -> tuple[str, int]:
    return ("--num_train_epochs", count)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """The run directories of all stages."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = Stages(tmp_path_factory.mktemp("stages"))
    torch.set_num_threads(threads)
    return made


# --- the way through -------------------------------------------------------------------------------------------------


def test_fine_tuning_learns_and_saves_a_classifier(stages: Stages) -> None:
    """The accuracy rises to that of the best epoch; best/ loads as a classifier with the task's class names."""
    values = [row["accuracy"] for row in rows_of(stages.teacher) if row["split"] == "valid"]
    assert len(values) == 8 and result_of(stages.teacher)["best_value"] == max(values) > 0.6
    found = AutoModelForSequenceClassification.from_pretrained(stages.teacher / "best")
    assert isinstance(found, BertForSequenceClassification)
    assert found.config.id2label == {0: "negative", 1: "positive"}
    AutoTokenizer.from_pretrained(stages.teacher / "best")


def test_both_stages_train_the_decomposed_student(stages: Stages) -> None:
    """The intermediate loss falls, the second stage starts from the first, and the factors stay factors."""
    losses = [row["loss"] for row in rows_of(stages.student / "intermediate") if row["split"] == "valid"]
    assert losses[-1] < losses[0] and result_of(stages.student / "intermediate")["mode"] == "intermediate"
    found = AutoModelForSequenceClassification.from_pretrained(stages.student / "prediction" / "best")
    assert find_edit(found, DecompositionConfig) == DecompositionConfig(rank_layer=5, rank_condim=12, rank_dim=10)
    arguments = json.loads((stages.student / "prediction" / "arguments.json").read_text())["arguments"]
    assert arguments["student_model"] == str(stages.student / "intermediate" / "best")
    assert arguments["lr"] == 1e-3 and result_of(stages.student / "prediction")["metric"] == "accuracy"


def test_evaluation_and_predictions_come_with_the_training(stages: Stages) -> None:
    """--do_eval and --do_predict use the best model; the number of rows is the test set's."""
    found = json.loads((stages.student / "evaluation.json").read_text())
    assert found["metrics"]["accuracy"] == result_of(stages.student / "prediction")["best_value"]
    assert found["num_params"] > found["encoder_params"] > 0 and found["macs"] > 0 and found["latency_ms"] > 0
    lines = (stages.student / "predictions" / "SST-2.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 1 + 5
    assert {line.split("\t")[1] for line in lines[1:]} <= {"0", "1"}


def test_evaluation_alone_gives_the_same(stages: Stages, tmp_path: Path) -> None:
    """--do_eval without a mode trains nothing, reads the run's best model, and predicts as Transformers does."""
    run_task(stages.tiny.task(tmp_path, "--do_eval", "--no-costs", "--student_model", stages.student))
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["metrics"] == json.loads((stages.student / "evaluation.json").read_text())["metrics"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arguments.json", "evaluation.json"]
    best = stages.student / "prediction" / "best"
    model = AutoModelForSequenceClassification.from_pretrained(best).eval()
    tokenizer = AutoTokenizer.from_pretrained(best)
    rows = (stages.tiny.glue / "SST-2" / "dev.tsv").read_text().splitlines()[1:]
    with torch.no_grad():
        encoded = tokenizer([row.split("\t")[0] for row in rows], padding=True, return_tensors="pt")
        predicted = model(**encoded).logits.argmax(-1).tolist()
    labels = [int(row.split("\t")[1]) for row in rows]
    right = sum(p == label for p, label in zip(predicted, labels, strict=True))
    assert found["metrics"]["accuracy"] == pytest.approx(right / len(rows))


def test_stages_one_by_one_equal_both_at_once(stages: Stages, tmp_path: Path) -> None:
    """Without --stage the intermediate one, then --pred_distill: the same weights as --stage both."""
    models = ("--teacher_model", stages.teacher)
    run_task(stages.tiny.task(tmp_path / "one", *models, "--student_model", stages.general, *_EPOCHS(3)))
    run_task(
        stages.tiny.task(tmp_path / "two", "--pred_distill", *models, "--student_model", tmp_path / "one", *_EPOCHS(3))
    )
    expected = tensors_under(stages.student / "prediction" / "best")
    found = tensors_under(tmp_path / "two" / "best")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.slow
def test_killed_in_the_second_stage_and_resumed_is_bit_identical(stages: Stages, tmp_path: Path) -> None:
    """--resume skips the finished stage and goes on in the other one."""
    models = ("--teacher_model", stages.teacher, "--student_model", stages.general)
    command = ("--stage", "both", *models, *_EPOCHS(3), "--save_step", 2)
    run_task(stages.tiny.task(tmp_path / "one", *command))
    (tmp_path / "two").mkdir()
    run_task(stages.tiny.task(tmp_path / "two" / "intermediate", *command[2:]))
    killed_run(stages.tiny.task(tmp_path / "two", *command, "--resume"), die_before_step, 5, run_task)
    run_task(stages.tiny.task(tmp_path / "two", *command, "--resume"))
    assert_same_run(tmp_path / "two" / "prediction", tmp_path / "one" / "prediction")


@pytest.mark.slow
def test_two_processes_of_the_old_launcher_distil_and_predict(stages: Stages, tmp_path: Path) -> None:
    """`python -m torch.distributed.launch`, which passes --local-rank, on this machine: half the rows each."""
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.launch",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port()),
    ]
    models = ("--teacher_model", stages.teacher, "--student_model", stages.general)
    command = stages.tiny.task(tmp_path, "--stage", "both", *models, "--do_eval", "--do_predict", *_EPOCHS(1))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "task_distill.py", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert result_of(tmp_path / "intermediate")["steps"] == result_of(tmp_path / "prediction")["steps"] == 2
    assert len((tmp_path / "predictions" / "SST-2.tsv").read_text().splitlines()) == 6
    two = json.loads((tmp_path / "evaluation.json").read_text())["metrics"]
    run_task(stages.tiny.task(tmp_path / "one", "--do_eval", "--no-costs", "--student_model", tmp_path))
    one = json.loads((tmp_path / "one" / "evaluation.json").read_text())["metrics"]
    assert two["accuracy"] == one["accuracy"] and two["loss"] == pytest.approx(one["loss"], abs=4e-5)


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_mnli_has_two_development_sets_and_three_test_sets(stages: Stages, tmp_path: Path) -> None:
    """Matched and mismatched metrics side by side; AX is predicted where it is there, and else left out."""
    finetune = ("--mode", "finetune", "--student_model", stages.tiny.model, "--do_eval", "--do_predict", *_EPOCHS(1))
    run_task(stages.tiny.task(tmp_path / "run", *finetune, "--no-costs", task="MNLI"))
    metrics = json.loads((tmp_path / "run" / "evaluation.json").read_text())["metrics"]
    assert {"accuracy", "accuracy_mm", "loss", "loss_mm"} == metrics.keys()
    folder = tmp_path / "run" / "predictions"
    assert sorted(path.name for path in folder.iterdir()) == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    diagnostic = stages.tiny.glue / "diagnostic"
    diagnostic.mkdir(exist_ok=True)
    (diagnostic / "diagnostic.tsv").write_text("index\tsentence1\tsentence2\n0\ta film\tit is good\n")
    predict = ("--mode", "predict", "--student_model", tmp_path / "run", "--predictions_dir", tmp_path / "all")
    run_task(stages.tiny.task(tmp_path / "out", *predict, task="mnli"))
    lines = (tmp_path / "all" / "AX.tsv").read_text().splitlines()
    assert len(lines) == 2 and lines[1].split("\t")[1] in ("entailment", "neutral", "contradiction")


def test_regression_distils_to_the_labels(stages: Stages, tmp_path: Path) -> None:
    """STS-B: one output, correlations as metrics, scores within 0 and 5 as predictions."""
    run_task(
        stages.tiny.task(
            tmp_path / "t", "--mode", "finetune", "--teacher_model", stages.tiny.model, *_EPOCHS(1), task="sts-b"
        )
    )
    more = ("--pred_distill", "--do_predict", "--teacher_model", tmp_path / "t", "--student_model", stages.general)
    run_task(stages.tiny.task(tmp_path / "s", *more, *_EPOCHS(1), task="stsb"))
    assert result_of(tmp_path / "s")["metric"] == "pearson_spearman"
    scores = [
        float(line.split("\t")[1])
        for line in (tmp_path / "s" / "predictions" / "STS-B.tsv").read_text().splitlines()[1:]
    ]
    assert len(scores) == 5 and all(0 <= score <= 5 for score in scores)


def test_the_last_task_completes_the_submission(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all other files there, prediction writes the checked zip; before, it says what is missing."""
    from dataset import submission

    sizes = {name: entry.rows if name != "sst2" else 5 for name, entry in FILES.items()}
    entries = {name: submission.PredictionFile(e.file, min(sizes[name], 5), e.words) for name, e in FILES.items()}
    monkeypatch.setattr(submission, "FILES", entries)
    folder = tmp_path / "all"
    command = stages.tiny.task(
        tmp_path / "out", "--do_predict", "--student_model", stages.student, "--predictions_dir", folder
    )
    run_task(command)
    assert "no submission yet" in capsys.readouterr().out
    for name in entries:
        if name != "sst2":
            submission.write_predictions(name, [0] * 5, folder)
    run_task(command)
    assert "all 11 files, checked" in capsys.readouterr().out
    with zipfile.ZipFile(folder / "submission.zip") as archive:
        assert sorted(archive.namelist()) == sorted(entry.file for entry in entries.values())


def test_augmented_rows_are_trained_on(stages: Stages, tmp_path: Path) -> None:
    """--aug_train reads train_aug.tsv; without the file it says what is missing."""
    command = ("--mode", "finetune", "--teacher_model", stages.tiny.model, "--aug_train", *_EPOCHS(1))
    with pytest.raises(DataError, match=r"train_aug\.tsv"):
        run_task(stages.tiny.task(tmp_path / "none", *command))
    rows = (stages.tiny.glue / "SST-2" / "train.tsv").read_text()
    glue = tmp_path / "glue" / "SST-2"
    glue.mkdir(parents=True)
    (glue / "train_aug.tsv").write_text(rows + "\n".join(rows.splitlines()[1:]) + "\n")
    (glue / "dev.tsv").write_text((stages.tiny.glue / "SST-2" / "dev.tsv").read_text())
    run_task([*stages.tiny.task(tmp_path / "run", *command), "--data_dir", str(tmp_path / "glue")])
    assert result_of(tmp_path / "run")["steps"] == 6  # 48 rows, 8 at a time


def test_teachers_with_classes_in_another_order_are_understood(stages: Stages, tmp_path: Path) -> None:
    """Names decide: a teacher that calls class 0 what is class 1 here gives the same metrics."""
    best = stages.teacher / "best"
    turned = AutoModelForSequenceClassification.from_pretrained(best)
    with torch.no_grad():
        for parameter in turned.classifier.parameters():
            parameter.copy_(parameter.flip(0).clone())
    turned.config.id2label = {0: "positive", 1: "negative"}
    turned.save_pretrained(tmp_path / "turned")
    tiny_word_pieces().save_pretrained(tmp_path / "turned")
    for name, model in (("straight", best), ("turned", tmp_path / "turned")):
        run_task(stages.tiny.task(tmp_path / name, "--do_eval", "--no-costs", "--student_model", model))
    found = [
        json.loads((tmp_path / name / "evaluation.json").read_text())["metrics"] for name in ("straight", "turned")
    ]
    assert found[0] == found[1]


def test_decomposed_but_not_distilled_is_one_command(stages: Stages, tmp_path: Path) -> None:
    """A control: the fine-tuned teacher, decomposed when it is evaluated; at full rank nothing changes."""
    evaluate = ("--do_eval", "--no-costs", "--student_model", stages.teacher, "--use_swap", "--protocol", "II")
    for rank in (32, 1):
        run_task(stages.tiny.task(tmp_path / str(rank), *evaluate, "--rank_dim", rank))
    full, least = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("32", "1"))
    assert full["edits"] == "decomposition"
    assert full["metrics"]["accuracy"] == pytest.approx(result_of(stages.teacher)["best_value"])
    assert least["metrics"]["loss"] != pytest.approx(full["metrics"]["loss"])


def test_original_checkpoints_are_students_and_models(stages: Stages, tmp_path: Path) -> None:
    """A directory in the original's format, with a classifier of another size or the right one."""
    edit = DecompositionConfig(rank_layer=5, rank_condim=12, rank_dim=10)
    for classes in (3, 2):
        torch.manual_seed(0)
        model = BertForSequenceClassification(bert_config(2, num_labels=classes)).eval()
        apply_edit(model, edit)
        folder = write_original(tmp_path / f"classes{classes}", model, edit)
        tiny_word_pieces().save_pretrained(folder)
    run_task(stages.tiny.task(tmp_path / "e", "--do_eval", "--student_model", tmp_path / "classes2", "--no-costs"))
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["edits"] == "decomposition"
    with pytest.raises(UserError, match="no classifier for sst2"):
        run_task(stages.tiny.task(tmp_path / "f", "--do_eval", "--student_model", tmp_path / "classes3"))
    models = ("--teacher_model", stages.teacher, "--student_model", tmp_path / "classes3")
    run_task(stages.tiny.task(tmp_path / "s", "--stage", "both", *models, "--max_steps", 1))
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s" / "prediction" / "best")
    assert find_edit(found, DecompositionConfig) == edit and found.config.num_labels == 2


# --- defaults and mistakes -------------------------------------------------------------------------------------------


def test_every_task_has_defaults() -> None:
    """GLUE's nine and those of tagged words, whatever the table of tasks holds besides."""
    nine = {task.name for task in TASKS.values() if task.hub_name} - {"mnlimm", "ax"}
    tagged = {task.name for task in TASKS.values() if task.kind == "token_classification"}
    assert TASK_DEFAULTS.keys() == nine | tagged and len(nine) == 9 and tagged


def test_defaults_follow_task_and_stage_and_flags_win() -> None:
    """The original overwrote the number of epochs; here a flag is a flag."""
    fixed = "--data_dir d --output_dir o --teacher_model t --student_model s --task_name"
    plan, (first, second) = parse_task_arguments([*fixed.split(), "CoLA", "--stage", "both"])
    assert plan.stages == ("intermediate", "prediction")
    assert (first.optimisation.epochs, first.bert.max_seq_length, first.optimisation.schedule) == (50, 64, "constant")
    assert (second.optimisation.epochs, second.optimisation.schedule) == (3, "linear")
    assert second.task.student_model == "o/intermediate/best" and str(second.run.output_path) == "o/prediction"
    _, (given,) = parse_task_arguments([*fixed.split(), "CoLA", "--num_train_epochs", "4", "--max_seq_length", "32"])
    assert (given.optimisation.epochs, given.bert.max_seq_length) == (4, 32)
    _, (wnli,) = parse_task_arguments([*fixed.split(), "WNLI", "--eval_stlsep", "50", "--optimizer", "bertadam"])
    assert (wnli.optimisation.epochs, wnli.evaluation.valid_step, wnli.optimisation.clip_grad) == (20, 50, 0.0)


def test_help_shows_the_defaults_of_all_tasks_or_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    """The table always, and with --task_name that task's numbers as the flags' defaults."""
    with pytest.raises(SystemExit):
        parse_task_arguments(["--task_name", "cola", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "cola: 64 5 50 3" in shown and "Passes over the training data. (default: 50)" in shown
    assert "--num_train_epochs" in shown and "--valid_step" in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--task_name", "mprc"), "unknown dataset 'mprc': did you mean mrpc"),
        (("--task_name", "squad"), "--task_name: squad is no GLUE task"),
        (("--task_name", "mnli-mm"), "use mnli"),
        (("--mode", "evaluate"), "--student_model is required"),
        (("--mode", "finetune"), "--mode finetune trains one model"),
        (("--student_model", "s"), "--teacher_model is required: the fine-tuned model"),
        (("--stage", "both", "--pred_distill"), "contradict"),
        (("--mode", "finetune", "--pred_distill", "--student_model", "s"), "belong to --mode distill"),
        (("--stage", "intermediate", "--do_eval", "--student_model", "s", "--teacher_model", "t"), "need a classifier"),
        (("--temperature", "0", "--student_model", "s", "--teacher_model", "t"), "--temperature must be above 0"),
        (("--do_eval", "--aug_train", "--student_model", "s"), "--aug_train is for training"),
        (("--do_eval", "--student_model", "{model}", "--rank_dim", "4"), "--rank_dim needs --use_swap"),
        (("--student_modle", "s"), "did you mean --student_model"),
        (("--do_eval", "--student_model", "/nowhere"), "/nowhere"),
        (("--max_seq_length", "3", "--do_eval", "--student_model", "s"), "--max_seq_length must be at least 4"),
    ],
)
def test_mistakes_are_one_sentence(stages: Stages, tmp_path: Path, more: tuple[Any, ...], message: str) -> None:
    """Named before anything is written."""
    with pytest.raises((UserError, DataError), match=message) as caught:
        run_task(stages.tiny.task(tmp_path / "run", *(word.format(model=stages.tiny.model) for word in more)))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_teacher_that_was_not_fine_tuned_is_refused(stages: Stages, tmp_path: Path) -> None:
    """A pre-trained BERT has no classifier, one of another task has another number of outputs."""
    models = ("--teacher_model", stages.tiny.model, "--student_model", stages.general)
    with pytest.raises(UserError, match=r"no classifier for sst2 \(outputs: 2\)"):
        run_task(stages.tiny.task(tmp_path / "run", *models))
    torch.manual_seed(0)
    BertForSequenceClassification(bert_config(num_labels=3)).save_pretrained(tmp_path / "three")
    tiny_word_pieces().save_pretrained(tmp_path / "three")
    with pytest.raises(UserError, match=r"no classifier for sst2 \(outputs: 2\)"):
        run_task(stages.tiny.task(tmp_path / "run", "--do_eval", "--student_model", tmp_path / "three"))


def test_a_student_whose_depth_does_not_divide_the_teachers_is_refused(stages: Stages, tmp_path: Path) -> None:
    """Three layers and four."""
    models = ("--teacher_model", stages.teacher, "--student_model", save_bert(tmp_path / "student", 3))
    with pytest.raises(ModelError, match="student's 3 layers do not divide the teacher's 4"):
        run_task(stages.tiny.task(tmp_path / "run", *models))


def test_a_checkpoint_that_lacks_tensors_is_refused(stages: Stages, tmp_path: Path) -> None:
    """config.json says four layers, the file has two."""
    student = save_bert(tmp_path / "student", 2)
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    models = ("--teacher_model", stages.teacher, "--student_model", student)
    with pytest.raises(UserError, match=r"lacks 32 tensors of the model in its config\.json"):
        run_task(stages.tiny.task(tmp_path / "run", *models))
