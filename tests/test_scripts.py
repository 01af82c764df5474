"""The launchers, run with a stand-in for Python that records its arguments and writes what a stage would."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.measured import processor
from utils.quickstart_report import group_rows, main, read_evaluation, read_times, write_report

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = (
    *("common.sh", "processes.sh", "settings.sh", "wiki.sh", "quickstart.sh", "glue/glue.sh", "glue/glue-mux.sh"),
    *("bert/common.sh", "bert/task_distill.sh", "minidisc/common.sh", "minidisc/finetuning.sh"),
    *(f"minidisc/{name}.sh" for name in ("sparsification", "distillation", "maxidisc", "minidisc")),
)
DATASETS = ("mnli", "qqp", "qnli", "sst2", "rte", "mrpc", "squad")

# Records the call; makes the folders a stage makes. FAIL_ON: a word at which it stops half-way.
STAND_IN = """#!/usr/bin/env bash
echo "$*" >>calls.txt
out="" previous="" size=""
for word in "$@"; do
    [[ "$previous" == --output-path || "$previous" == --output_dir ]] && out="$word"
    [[ "$previous" == --size ]] && size="$word"
    previous="$word"
done
if [[ "$*" == *utils.embedded* ]]; then
    mkdir -p "data/$size/corpus" "data/$size/glue" "data/$size/squad" "checkpoints/backbone/$size/init"
    [[ -f "data/$size/manifest.json" ]] || echo '{}' >"data/$size/manifest.json"
    made="checkpoints/backbone/$size/init/manifest.json"
    [[ -f "$made" ]] || echo '{}' >"$made"
elif [[ -n "$out" ]]; then
    mkdir -p "$out/best" "$out/checkpoints/step-00000001"
    [[ -n "${FAIL_ON:-}" && "$out" == *"$FAIL_ON"* ]] && exit 1
    echo '{}' >"$out/best/config.json"
    echo '{}' >"$out/result.json"
    [[ "$*" != *--do_eval* ]] || echo '{}' >"$out/evaluation.json"
fi
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that holds the launchers alone, and the stand-in."""
    for name in SCRIPTS:
        target = tmp_path / "scripts" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "scripts" / name, target)
    stand_in = tmp_path / "stand-in"
    stand_in.write_text(STAND_IN, encoding="utf-8")
    stand_in.chmod(0o755)
    (tmp_path / "scripts" / "env.sh").write_text(f"export PYTHON={stand_in}\n", encoding="utf-8")
    return tmp_path


def launch(repository: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a launcher from another folder, without GPUs unless told otherwise."""
    keep = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return subprocess.run(
        ["bash", str(repository / "scripts" / words[0]), *words[1:]],
        env={**keep, "NUM_GPUS": "0", **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def calls(repository: Path) -> list[str]:
    file = repository / "calls.txt"
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def flag(call: str, name: str) -> str:
    """The last value of a flag in a command line."""
    words = call.split()
    return words[len(words) - words[::-1].index(name)]


@pytest.mark.parametrize("size", ["tiny", "mini", "base", "large"])
@pytest.mark.parametrize("dataset", DATASETS)
def test_stages_find_each_others_output(repository: Path, size: str, dataset: str) -> None:
    """Pre-train, fine-tune and adapt without renaming anything: each reads what the one before wrote."""
    for folder in ("data/wikicorpus_128", f"data/glue/{dataset}", "data/SQuAD"):
        (repository / folder).mkdir(parents=True)
    for words in (["wiki.sh", size], ["glue/glue.sh", size, dataset], ["glue/glue-mux.sh", size, dataset]):
        done = launch(repository, *words)
        assert done.returncode == 0, done.stderr
    *_, plugin, finetune, adapt = (call for call in calls(repository) if "train_t5.py" in call)
    assert flag(adapt, "--plugin-path") == flag(plugin, "--output-path") + "/best"
    assert flag(adapt, "--checkpoint") == flag(finetune, "--output-path") + "/best"
    assert size in flag(adapt, "--output-path") and dataset in flag(adapt, "--output-path")
    assert (repository / flag(adapt, "--data-path")).is_dir()


@pytest.mark.parametrize(
    ("dataset", "length", "batch", "valid_step"),
    [
        ("mnli", "256", "32", "2000"),
        ("qqp", "256", "32", "1000"),
        ("rte", "256", "16", "-1"),
        ("sst2", "96", "32", "1000"),
        ("mrpc", "96", "32", "1000"),
        ("qnli", "356", "16", "1000"),
        ("squad", "512", "16", "100"),
    ],
)
def test_fine_tuning_uses_the_originals_settings(
    repository: Path, dataset: str, length: str, batch: str, valid_step: str
) -> None:
    """The table of the original's glue.sh."""
    call = launch(repository, "glue/glue.sh", "base", dataset, "--dry-run").stdout.splitlines()[-1]
    found = [flag(call, f"--{name}") for name in ("max-input-length", "batch-size", "valid-step", "lr", "random-seed")]
    assert found == [length, batch, valid_step, "1e-5", "10018"]


def test_flags_of_the_user_come_last(repository: Path) -> None:
    """--lr of the command line wins over the default, an unknown flag reaches train_t5.py."""
    call = launch(repository, "wiki.sh", "base", "--lr", "5e-4", "--foo", "a b", "--dry-run").stdout.splitlines()[-1]
    assert flag(call, "--lr") == "5e-4" and call.endswith("--foo a\\ b")


def test_total_batch_is_shared_by_the_gpus(repository: Path) -> None:
    """Two GPUs: torchrun with two processes, half of the original's total batch each."""
    call = launch(repository, "wiki.sh", "base", "--dry-run", NUM_GPUS="2").stdout.splitlines()[-1]
    assert "-m torch.distributed.run --standalone --nproc_per_node 2 train_t5.py" in call
    assert flag(call, "--batch-size") == "32"


def test_without_a_gpu_python_is_started_directly(repository: Path) -> None:
    """No torchrun on a CPU."""
    call = launch(repository, "wiki.sh", "base", "--dry-run").stdout.splitlines()[-1]
    assert "torch.distributed" not in call and flag(call, "--batch-size") == "64"


@pytest.mark.parametrize(
    "words",
    [["wiki.sh", "tiny"], ["glue/glue.sh", "tiny", "rte"], ["glue/glue-mux.sh", "large", "squad"], ["quickstart.sh"]],
)
def test_dry_run_changes_nothing(repository: Path, words: list[str]) -> None:
    """The commands are printed, none is run, no file appears."""
    before = sorted(repository.rglob("*"))
    done = launch(repository, *words, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "train_t5.py" in done.stdout
    assert sorted(repository.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "missing", "command"),
    [
        (["wiki.sh", "base"], "data/wikicorpus_128", "stand-in -m utils.download corpus"),
        (["glue/glue.sh", "large", "qqp"], "data/glue/qqp", "stand-in utils/save_data.py --only qqp"),
        (["glue/glue.sh", "base", "squad"], "data/SQuAD", "stand-in utils/save_data.py --only squad"),
        (["glue/glue-mux.sh", "tiny", "sst2"], "checkpoints/glue/tiny/sst2", "bash scripts/glue/glue.sh tiny sst2"),
    ],
)
def test_missing_stage_is_named_with_the_command_that_makes_it(
    repository: Path, words: list[str], missing: str, command: str
) -> None:
    """Exit code 2, what is missing, how to make it."""
    done = launch(repository, *words)
    assert done.returncode == 2
    assert missing in done.stderr and command in done.stderr


def test_missing_plugins_offer_training_and_download(repository: Path) -> None:
    """base and large have two ways to get plugins; the published file is used when it is there."""
    (repository / "data/glue/sst2").mkdir(parents=True)
    assert launch(repository, "glue/glue.sh", "base", "sst2").returncode == 0
    done = launch(repository, "glue/glue-mux.sh", "base", "sst2")
    assert done.returncode == 2
    assert "bash scripts/wiki.sh base" in done.stderr and "utils.download plugin --size base" in done.stderr
    published = repository / "checkpoints/plugins/plugin-t5_base-mux_4.pkl"
    published.parent.mkdir()
    published.touch()
    assert launch(repository, "glue/glue-mux.sh", "base", "sst2").returncode == 0
    assert flag(calls(repository)[-1], "--plugin-path") == "checkpoints/plugins/plugin-t5_base-mux_4.pkl"


@pytest.mark.parametrize(
    "words", [["wiki.sh", "huge"], ["glue/glue.sh", "tiny", "sst3"], ["wiki.sh"], ["glue/glue-mux.sh", "tiny"]]
)
def test_wrong_words_are_refused(repository: Path, words: list[str]) -> None:
    """An unknown size or dataset, or too few words: exit code 2 and what is known."""
    done = launch(repository, *words)
    assert done.returncode == 2 and ("known" in done.stderr or "usage" in done.stderr)
    assert not calls(repository)


def test_second_quickstart_reuses_every_stage(repository: Path) -> None:
    """Only the cache of the data is asked, and the report written again."""
    first = launch(repository, "quickstart.sh")
    assert first.returncode == 0, first.stderr
    count = len(calls(repository))
    second = launch(repository, "quickstart.sh")
    assert second.returncode == 0, second.stderr
    again = calls(repository)[count:]
    assert again and not any("train_t5.py" in call or "task_distill.py" in call for call in again)
    assert second.stdout.count("skipped") == 16


def test_quickstart_evaluates_untrained_plugins_as_control(repository: Path) -> None:
    """Three evaluations at ratios 2 and 4 of the same fine-tuned model; one of them without trained plugins."""
    launch(repository, "quickstart.sh")
    found = [call for call in calls(repository) if "--mode valid" in call]
    assert [flag(call, "--plugin-path") for call in found] == [
        "checkpoints/glue-mux/tiny/sst2/best", "checkpoints/wiki/tiny/best", "none"
    ]  # fmt: skip
    assert all("--mux-num 2 4 --model" in call for call in found)
    assert {flag(call, "--checkpoint") for call in found} == {"checkpoints/glue/tiny/sst2/best"}


def test_quickstart_has_the_decomposed_rows(repository: Path) -> None:
    """One teacher; the student and the control are the same decomposition of it; the report gets all three."""
    assert launch(repository, "quickstart.sh").returncode == 0
    found = [call for call in calls(repository) if "task_distill.py" in call]
    teacher, intermediate, prediction, control = found[:4]
    folder = flag(teacher, "--output-path")
    for call in (intermediate, control):
        assert flag(call, "--student_model") == folder and "--use_swap" in call
        assert [flag(call, f"--rank_{name}") for name in ("layer", "condim", "dim")] == ["12", "32", "32"]
    assert flag(prediction, "--student_model") == flag(intermediate, "--output-path") and "--use_swap" not in prediction
    report = calls(repository)[-1].split(" --group ")[2]
    runs = (folder, flag(prediction, "--output-path"), flag(control, "--output_dir"))
    assert report == "Tucker teacher={} distilled={} decomposed={}".format(*runs)


def test_the_quickstarts_schedules_are_compared_at_equal_steps(repository: Path) -> None:
    """Each distillation has the same steps, rate, batch and evaluations; MiniDisc has the assistants of MaxiDisc."""
    assert launch(repository, "quickstart.sh").returncode == 0
    found = [
        [call for call in calls(repository) if f"--mode {mode} " in call]
        for mode in ("distill", "maxidisc", "minidisc")
    ]
    assert [len(of) for of in found] == [1, 1, 1]
    for name in ("--max_steps", "--lr", "--batch-size", "--eval_step", "--random-seed", "--teacher_model"):
        assert len({flag(call, name) for (call,) in found}) == 1, name
        assert all(call.split().count(name) == 1 for (call,) in found), name
    _, (maxi,), (mini,) = found
    tried = [path.split(",")[0] for path in flag(maxi, "--layer_or_sparsity_path").split(";")]
    assert [*tried, flag(mini, "--target_sparsity")] == flag(mini, "--grid").split(",")
    assert flag(mini, "--trunc_sparsity") == tried[0]
    report = calls(repository)[-1]
    assert all(f"={flag(call, '--output-path')}" in report for (call,) in found)


def test_dry_run_of_the_quickstart_is_one_plan(repository: Path) -> None:
    """Nothing that an earlier command makes is called missing, and the backbones are made once."""
    lines = launch(repository, "quickstart.sh", "--dry-run").stdout.splitlines()
    assert not [line for line in lines if "missing" in line]
    for command in ("utils.embedded --size", "utils.embedded.bert", "--output-path checkpoints/backbone/tiny/pretrain"):
        assert len([line for line in lines if command in line]) == 1, command


def test_evaluation_that_was_cut_off_is_done(repository: Path) -> None:
    """A teacher that is trained but not evaluated goes on; a task that BERT does not have adds no rows."""
    assert launch(repository, "quickstart.sh").returncode == 0
    (repository / "checkpoints/bert/tiny/sst2/teacher/evaluation.json").unlink()
    count = len(calls(repository))
    assert launch(repository, "quickstart.sh").returncode == 0
    again = calls(repository)[count:]
    assert ["--resume" in call for call in again if "--mode finetune" in call] == [True]
    assert launch(repository, "quickstart.sh", QUICKSTART_DATASET="squad").returncode == 0
    assert calls(repository)[-1].count("--group") == 1


def test_interrupted_stage_goes_on(repository: Path) -> None:
    """A stage that stopped half-way is resumed; the ones before it are skipped."""
    assert launch(repository, "quickstart.sh", FAIL_ON="glue/tiny").returncode != 0
    count = len(calls(repository))
    assert launch(repository, "quickstart.sh").returncode == 0
    again = [call for call in calls(repository)[count:] if "--mode train" in call]  # not those of the BERT
    assert ["--resume" in call for call in again] == [True, False]


def test_stage_is_run_again_when_its_input_changed(repository: Path) -> None:
    """New data make the tiny backbone, and what depends on it, anew."""
    launch(repository, "wiki.sh", "tiny")
    manifest = repository / "data/tiny/manifest.json"
    later = (repository / "checkpoints/wiki/tiny/result.json").stat().st_mtime + 10
    os.utime(manifest, (later, later))
    count = len(calls(repository))
    launch(repository, "wiki.sh", "tiny")
    assert ["--overwrite" in call for call in calls(repository)[count:]][1] is True


def test_finished_run_with_other_settings_is_not_replaced_silently(repository: Path) -> None:
    """base: other flags than those of the finished run need --overwrite."""
    (repository / "data/wikicorpus_128").mkdir(parents=True)
    assert launch(repository, "wiki.sh", "base").returncode == 0
    done = launch(repository, "wiki.sh", "base", "--lr", "1e-2")
    assert done.returncode == 2 and "--overwrite" in done.stderr
    assert launch(repository, "wiki.sh", "base", "--lr", "1e-2", "--overwrite").returncode == 0
    assert "--overwrite" in calls(repository)[-1]


def test_backbones_of_the_users_are_kept_apart(repository: Path) -> None:
    """Two models that are both called best, as MODEL_DIR: neither is adapted with what the other left."""
    for folder in ("data/wikicorpus_128", "data/glue/rte"):
        (repository / folder).mkdir(parents=True)
    one, two = {"MODEL_DIR": "runs/m1/best"}, {"MODEL_DIR": "runs/m2/best"}
    for words in (["wiki.sh", "base"], ["glue/glue.sh", "base", "rte"], ["glue/glue-mux.sh", "base", "rte"]):
        assert launch(repository, *words, **one).returncode == 0
    done = launch(repository, "glue/glue-mux.sh", "base", "rte", **two)
    assert done.returncode == 2 and "bash scripts/glue/glue.sh base rte" in done.stderr
    assert launch(repository, "glue/glue.sh", "base", "rte", **two).returncode == 0
    assert launch(repository, "glue/glue.sh", "base", "rte").returncode == 0
    assert len({flag(call, "--output-path") for call in calls(repository)}) == 5


# ---- several machines ------------------------------------------------------------------------------------

NODES = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "gpu07", "MASTER_PORT": "4000"}


@pytest.mark.parametrize("words", [["wiki.sh", "base"], ["glue/glue.sh", "base", "mnli"]])
def test_a_stage_is_started_on_several_machines(repository: Path, words: list[str]) -> None:
    """NNODES NODE_RANK MASTER_ADDR MASTER_PORT reach torchrun; eight processes share the total batch."""
    total = flag(launch(repository, *words, "--dry-run").stdout.splitlines()[-1], "--batch-size")
    call = launch(repository, *words, "--dry-run", **{**NODES, "NUM_GPUS": "4"}).stdout.splitlines()[-1]
    places = "--nnodes 2 --node_rank 1 --master_addr gpu07 --master_port 4000 --nproc_per_node 4"
    assert call.startswith(f"+ python -m torch.distributed.run {places} train_t5.py ")
    assert int(flag(call, "--batch-size")) * 8 == int(total)


def test_a_stage_takes_the_named_gpus(repository: Path) -> None:
    """GPUS and PROCESSES as scripts/launch.sh does; the printed line can be typed."""
    call = launch(repository, "wiki.sh", "base", "--dry-run", GPUS="0,2", NUM_GPUS="").stdout.splitlines()[-1]
    assert call.startswith("+ CUDA_VISIBLE_DEVICES=0,2 python -m torch.distributed.run --standalone --nproc_per_node 2")
    call = launch(repository, "wiki.sh", "base", "--dry-run", PROCESSES="3").stdout.splitlines()[-1]
    assert "--nproc_per_node 3 " in call and flag(call, "--batch-size") == "22"


def test_several_machines_make_no_data(repository: Path) -> None:
    """What one machine makes for all has to be there; with it, the stage alone is started, and recorded by one."""
    done = launch(repository, "wiki.sh", "tiny", **NODES)
    assert done.returncode == 2 and "make it with: stand-in -m utils.embedded --size tiny" in done.stderr
    assert not calls(repository)
    assert launch(repository, "wiki.sh", "tiny").returncode == 0
    count = len(calls(repository))
    for rank in "10":
        done = launch(repository, "wiki.sh", "tiny", "--overwrite", **{**NODES, "NODE_RANK": rank})
        assert done.returncode == 0, done.stderr
    plugin = f"--overwrite --output-path {repository / 'elsewhere'}".split()
    assert launch(repository, "wiki.sh", "tiny", *plugin, **NODES).returncode == 0
    again = calls(repository)[count:]
    assert again and all("torch.distributed.run --nnodes 2" in call for call in again)
    assert not (repository / "elsewhere/command.txt").exists()


def test_the_quickstart_is_for_one_machine(repository: Path) -> None:
    """Its evaluations are not divided."""
    done = launch(repository, "quickstart.sh", "--dry-run", **NODES)
    assert done.returncode == 2 and done.stderr == "error: NNODES is 2: quickstart.sh runs on one machine\n"


# ---- a stopped launcher ----------------------------------------------------------------------------------

# Saves when it is asked to stop, as the trainer does: a moment later, and with 128 + the signal's number.
_SAVING = """#!/usr/bin/env python3
import pathlib, signal, sys, time
def save(number, frame):
    time.sleep(0.3)
    pathlib.Path("saved.txt").open("a").write(f"{number} ")
    sys.exit(ENDS)
for heard in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    if signal.getsignal(heard) is not signal.SIG_IGN:
        signal.signal(heard, save)
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, save)
pathlib.Path("calls.txt").open("a").write(" ".join(sys.argv[1:]) + "\\n")
while True:  # a signal just before a long sleep would be handled after it
    time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ("words", "number", "group", "ends"),
    [
        (["wiki.sh", "base"], signal.SIGTERM, False, "128 + number"),
        (["wiki.sh", "base"], signal.SIGHUP, False, "128 + number"),
        (["wiki.sh", "base"], signal.SIGUSR1, False, "128 + number"),
        (["wiki.sh", "base"], signal.SIGINT, True, "128 + number"),
        (["quickstart.sh"], signal.SIGTERM, False, "128 + number"),
        (["quickstart.sh"], signal.SIGTERM, False, "0"),
    ],
    ids=[
        "SIGTERM to the shell alone",
        "SIGHUP",
        "SIGUSR1",
        "Ctrl-C",
        "a launcher that starts launchers",
        "a command that ends well",
    ],
)
def test_a_stopped_launcher_lets_its_command_save(
    repository: Path, words: list[str], number: signal.Signals, group: bool, ends: str
) -> None:
    """The command hears of it once, the launcher waits for it and ends with its code, and nothing else is begun."""
    (repository / "data/wikicorpus_128").mkdir(parents=True)
    (repository / "stand-in").write_text(_SAVING.replace("ENDS", ends))
    keep = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    command = ["bash", str(repository / "scripts" / words[0]), *words[1:]]
    started = subprocess.Popen(command, env={**keep, "NUM_GPUS": "0"}, start_new_session=True)
    try:
        while not calls(repository) and started.poll() is None:
            time.sleep(0.01)
        if group:
            os.killpg(started.pid, number)
        else:
            started.send_signal(number)
        assert started.wait(timeout=30) == 128 + number
        assert (repository / "saved.txt").read_text() == f"{int(number)} "
        assert len(calls(repository)) == 1
    finally:
        with suppress(ProcessLookupError):  # nobody is left, if all is well
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


# ---- the report ------------------------------------------------------------------------------------------


def _result(folder: Path, accuracies: dict[int, float]) -> Path:
    """A folder as `train_t5.py --mode valid` leaves it."""
    rows = [
        {"name": "dense" if k == 1 else f"k={k}", "ratio": k, "accuracy": value, "macs": 8e6 / k, "latency_ms": 2.0,
         "num_params": 1000 + k, "delta_bytes": 0 if k == 1 else 4096}
        for k, value in accuracies.items()
    ]  # fmt: skip
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"metric": "accuracy", "rows": rows}), encoding="utf-8")
    return folder


def _evaluation(folder: Path, accuracy: float, encoder: int = 700, edits: str = "dense", **more: float) -> Path:
    """A folder as `task_distill.py --do_eval` leaves it."""
    costs = {"num_params": 1000, "encoder_params": encoder, "macs": 4e6 * encoder / 700, "latency_ms": 1.0}
    folder.mkdir()
    values = {"edits": edits, "metrics": {"accuracy": accuracy, "loss": 0.1}, **costs, **more}
    (folder / "evaluation.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "result.json").write_text(json.dumps({"mode": "prediction"}), encoding="utf-8")
    return folder


def test_report_has_dense_adapted_and_control_rows(tmp_path: Path) -> None:
    """One dense row, the plugins of each run by ratio, retention relative to the dense model, and a plot."""
    runs = {
        "adapted": _result(tmp_path / "a", {1: 0.8, 4: 0.72, 2: 0.8}),
        "untrained": _result(tmp_path / "b", {1: 0.8, 2: 0.5, 4: 0.4}),
    }
    rows = group_rows("Variator", {name: read_evaluation(folder, "accuracy") for name, folder in runs.items()})
    assert [(row.name, row.setting) for row in rows] == [
        ("dense", ""), ("adapted", "k=2"), ("adapted", "k=4"), ("untrained", "k=2"), ("untrained", "k=4")
    ]  # fmt: skip
    assert rows[2].kept == pytest.approx(0.9) and rows[2].saved == pytest.approx(0.75)
    table = write_report("sst2", {"Variator": runs}, tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "90.0%" in table and "90.0%" in report and "accuracy-macs.png" in report
    assert (tmp_path / "out" / "accuracy-macs.png").read_bytes().startswith(b"\x89PNG")


def test_report_compares_each_method_with_its_own_dense_model(tmp_path: Path) -> None:
    """Classifiers of task_distill.py: the share of the encoder's parameters, kept and saved beside their teacher."""
    groups = {
        "Variator": {"adapted": _result(tmp_path / "a", {1: 0.8, 4: 0.72})},
        "Tucker": {
            "teacher": _evaluation(tmp_path / "t", 0.5),
            "distilled": _evaluation(tmp_path / "d", 0.45, 100, "decomposition"),
        },
    }
    write_report("sst2", groups, tmp_path / "out")
    lines = (tmp_path / "out" / "report.md").read_text(encoding="utf-8").splitlines()
    assert "| Tucker | dense | – | 0.500 | 100.0% | 4.00 | 0.0% | 1.00 | 1,000 | – | – |" in lines
    assert "| Tucker | distilled | encoder 1/7.0 | 0.450 | 90.0% | 0.57 | 85.7% | 1.00 | 1,000 | – | – |" in lines


def test_report_names_a_missing_evaluation(tmp_path: Path) -> None:
    """Which file, and what makes it; a result of training is told from one of validation; a dense model is needed."""
    with pytest.raises(UserError, match=r"result\.json is missing"):
        read_evaluation(tmp_path, "accuracy")
    (tmp_path / "result.json").write_text('{"mode": "train"}', encoding="utf-8")
    with pytest.raises(UserError, match="--mode valid"):
        read_evaluation(tmp_path, "accuracy")
    student = _evaluation(tmp_path / "d", 0.45, 100, "decomposition")
    with pytest.raises(UserError, match="--group Tucker: none of distilled is a dense model"):
        write_report("sst2", {"Tucker": {"distilled": student}}, tmp_path / "out")
    for words in (["Tucker"], ["Tucker", "nothing"]):
        with pytest.raises(SystemExit) as stopped:
            main(["--dataset", "sst2", "--group", *words])
        assert stopped.value.code == 2


def test_times_of_the_stages_are_told_with_the_processor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each stage and the total, on the console and in the report; another file is one sentence."""
    times = tmp_path / "times.txt"
    times.write_text("1500000000 fine-tuning on sst2\n250000000 the evaluation\n2000000000 total\n")
    runs = _result(tmp_path / "a", {1: 0.8, 2: 0.7})
    command = ["--dataset", "sst2", "--output", str(tmp_path / "out"), "--group", "Variator", f"adapted={runs}"]
    main([*command, "--times", str(times)])
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for text in (capsys.readouterr().out, report):
        assert "   1.5 s  fine-tuning on sst2" in text and f" cores of {processor()} (" in text
        assert "   2.0 s  in total, on " in text
    assert read_times(times)[-1].count("(") >= 1
    times.write_text("soon: the evaluation\n")
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--times", str(times)])
    assert stopped.value.code == 2 and "error: --times: " in capsys.readouterr().err


def test_a_stages_seconds_are_kept_for_the_report(repository: Path) -> None:
    """What ran has a line; what is there already has none; a dry run keeps nothing."""
    file = repository / "outputs/quickstart/times.txt"
    launch(repository, "quickstart.sh", "--dry-run")
    assert not file.exists()
    for names in (("backbone pre-training", "evaluation of the adapted plugins", "total"), ("total",)):
        assert launch(repository, "quickstart.sh").returncode == 0
        rows = [line.split(" ", 1) for line in file.read_text(encoding="utf-8").splitlines()]
        assert all(nanoseconds.isdigit() for nanoseconds, _ in rows)
        assert set(names) <= {name for _, name in rows} and rows[-2][1] == "total"
    assert calls(repository)[-1].endswith("--times outputs/quickstart/times.txt")
    assert "fine-tuning on sst2" not in {name for _, name in rows}
