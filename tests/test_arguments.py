"""Flags that are not understood, out of range or in conflict, and how the process ends: one sentence, exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataset.errors import DataError
from model.errors import ModelError
from tests.tiny import Tiny, run
from utils.errors import USER_ERROR_CODE, UserError, mark_own, run_as_script
from utils.variator.arguments import parse_arguments

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("one_thread")


# --- flags ---------------------------------------------------------------------------------------------------


def test_all_problems_are_told_at_once() -> None:
    """Missing and conflicting flags come in one message."""
    with pytest.raises(UserError) as error:
        parse_arguments(["--dataset", "sst2", "--mux-num", "-4", "--batch-size", "0", "--plugin-path", "x"])
    for part in ("--data_dir", "--model_config", "--output_dir", "--mux_num", "--train_batch_size", "--distil no"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--task_name sst3", r"--task_name.*sst3.*sst2"),
        ("--num_train_epochs many", r"--num_train_epochs.*many"),
        ("--distil maybe", r"--distil.*task-hidden.*maybe"),
        ("--batchsize 3", r"--batchsize.*did you mean --train_batch_size"),
        ("stray", r"stray"),
        ("--mux_num", "--mux_num"),
    ],
)
def test_a_flag_that_is_not_understood(arguments: str, named: str) -> None:
    """Unknown datasets, values and flags are one sentence that says what would do."""
    with pytest.raises(UserError, match=named) as error:
        parse_arguments(arguments.split())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--lr -1", "--learning_rate"),
        ("--epochs 0", "--num_train_epochs"),
        ("--grad-accumulation 0", "--gradient_accumulation_steps"),
        ("--keep-checkpoints 0", "--keep_checkpoints"),
        ("--clip-grad -1", "--clip_grad"),
        ("--warmup-step -1", "--warmup_step"),
        ("--max-input-length 0", "--max_seq_length"),
        ("--mux-num 4 4 --distil hidden", "--mux_num"),
        ("--distil hidden --residual-scale 0", "--residual_scale"),
        ("--num-workers -1", "--num_workers"),
        ("--patience -1", "--patience"),
        ("--inspect-step 0", "--inspect_step"),
    ],
)
def test_numbers_out_of_range(arguments: str, named: str) -> None:
    """A number that cannot work is refused by its flag before anything is loaded."""
    base = "--dataset sst2 --data-path d --model-config m --output-path o"
    with pytest.raises(UserError, match=named):
        parse_arguments([*base.split(), *arguments.split()])


def test_hyphens_and_underscores() -> None:
    """Both spellings of every flag mean the same."""
    words = (
        "--data-path d --model-config m --output-path o --max-input-length 7 --delta-tuning --warmup-step 3 --no-costs"
    )
    hyphens = parse_arguments(["--dataset", "sst2", *words.split()])
    under = [w.replace("-", "_").replace("__", "--", 1) if w.startswith("--") else w for w in words.split()]
    assert parse_arguments(["--dataset", "sst2", *under]) == hyphens
    assert hyphens[0].max_input_length == 7 and hyphens[1].delta_tuning and hyphens[2].warmup_step == 3
    assert not hyphens[0].costs


@pytest.mark.parametrize("name", ["model", "student-config", "ctx_length", "target-length", "local_rank"])
def test_flags_of_the_original_without_effect(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Accepted in both spellings with a warning on standard error, without changing anything."""
    base = ["--dataset", "sst2", "--data-path", "d", "--model-config", "m", "--output-path", "o"]
    plain = parse_arguments(base)
    assert capsys.readouterr().err == ""
    for flag in (f"--{name.replace('_', '-')}", f"--{name.replace('-', '_')}"):
        assert parse_arguments([*base, flag, "3"]) == plain
        assert f"--{name.replace('-', '_')} has no effect" in capsys.readouterr().err


@pytest.mark.parametrize("flags", ["--decoder-start 2", "--logit-scale original"])
def test_settings_of_tasks_are_refused_on_a_corpus(flags: str) -> None:
    """Span corruption starts with 0 and knows no temperature; a setting without effect is an error."""
    base = "--dataset wiki --data-path d --model-config m --output-path o"
    with pytest.raises(UserError, match=rf"{flags.split()[0].replace('-', '_').replace('__', '--', 1)}.* for tasks"):
        parse_arguments([*base.split(), *flags.split()])


def test_fp16_is_refused_for_t5(tiny: Tiny, tmp_path: Path) -> None:
    """T5 overflows in fp16, and the refusal says so."""
    with pytest.raises(UserError, match=r"--precision fp16 is refused: T5's residual stream overflows"):
        run(tiny.sst2(tmp_path / "run", "--precision", "fp16"))
    assert not (tmp_path / "run").exists()


def test_diverging_loss_is_an_error(tiny: Tiny, tmp_path: Path) -> None:
    """A loss that becomes nan or inf stops the run with the step and what to do."""
    with pytest.raises(UserError, match=r"The (loss|gradient norm) became (nan|inf) at step \d+: resume with"):
        run([*tiny.sst2(tmp_path / "run", "--epochs", 9, "--clip-grad", 0), "--lr", "1e30"])


# --- the process: exit codes, streams, traceback ----------------------------------------------------------------


def script(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """`python train_t5.py …` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "train_t5.py", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_a_mistake_is_one_line_and_exit_code_2(tiny: Tiny, tmp_path: Path) -> None:
    """The real script: one line on standard error, nothing on standard output, exit code 2."""
    done = script([*tiny.sst2(tmp_path / "run"), "--data-path", str(tmp_path / "nowhere")])
    assert done.returncode == USER_ERROR_CODE == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: --data_dir"), done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """The same mistake with --debug: the traceback."""
    done = script(["--dataset", "sst3", "--debug"])
    assert done.returncode != 0
    assert "Traceback (most recent call last)" in done.stderr and "sst3" in done.stderr


@pytest.mark.parametrize("error", [UserError, DataError, ModelError])
def test_every_error_of_the_toolkit_ends_with_exit_code_2(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on standard error and exit code 2; re-raised with debug; other errors are not swallowed."""

    def fail() -> None:
        raise error("the sentence.")

    with pytest.raises(SystemExit) as stop:
        run_as_script(fail, debug=False)
    assert stop.value.code == 2 and capsys.readouterr().err == "error: the sentence.\n"
    with pytest.raises(error):
        run_as_script(fail, debug=True)
    with pytest.raises(ZeroDivisionError):
        run_as_script(lambda: 1 / 0, debug=False)


@pytest.mark.parametrize(
    ("environment", "own", "waits"),
    [({}, False, False), ({"RANK": "0"}, False, False), ({"RANK": "1"}, False, True), ({"RANK": "1"}, True, False),
     ({"OMPI_COMM_WORLD_RANK": "3"}, False, True)],
)  # fmt: skip
def test_an_error_of_all_processes_is_told_by_the_main_one(
    environment: dict[str, str], own: bool, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others give the launcher time to end them first, unless the error is their own."""
    for name in ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    waited: list[float] = []
    monkeypatch.setattr("utils.errors.time.sleep", waited.append)

    def fail() -> None:
        error = UserError("no")
        raise mark_own(error) if own else error

    with pytest.raises(SystemExit):
        run_as_script(fail, debug=False)
    assert bool(waited) == waits


@pytest.mark.slow
def test_torchrun_shows_a_mistake_once() -> None:
    """Two processes with the same wrong flag."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "task_distill.py", "--taks", "x"]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and done.stderr.count("error: Not understood: --taks") == 1
