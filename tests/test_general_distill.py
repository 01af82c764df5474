"""The real script of general distillation, end to end, on BERTs of a few thousand parameters."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from model import DecompositionConfig, ModelError, find_edit
from model.decomposition.embeddings import EmbeddingConfig
from tests.tiny import assert_same_run, die_before_step, killed_run, result_of, rows_of, tensors_under
from tests.tiny_bert import TinyBert, edit_config, run_general, save_bert, tiny_word_pieces, write_epochs
from utils.engine import Trainer
from utils.engine.launch import adopt_ranks
from utils.errors import Interrupted, UserError

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parent.parent
RANKS = ("--rank_layer", 5, "--rank_condim", 10, "--rank_dim", 9)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBert:
    """A teacher of four layers and two epochs of text."""
    return TinyBert(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture(scope="module")
def swapped(tiny: TinyBert) -> Path:
    """The run of a student that was decomposed first: ranks in its config.json, `ops` san, one dash."""
    keys = {"rank_layer": 4, "rank_condim": 8, "rank_dim": 6, "ops": "san", "load_compressed_model": True}
    student = edit_config(save_bert(tiny.root / "bert-td", 2, seed=3), **keys)
    output = tiny.root / "swapped"
    run_general([*tiny.general(output), "-use_swap", "--student_model", str(student)])
    return output


def test_a_swapped_student_learns_and_loads_anywhere(swapped: Path) -> None:
    """The loss falls; best/ is a model that AutoModel loads, with the ranks of config.json and a tokenizer."""
    losses = [row["loss"] for row in rows_of(swapped) if row["split"] == "valid"]
    assert len(losses) == 1  # at the end of ten steps, the default interval is longer
    assert math.isfinite(losses[0]) and result_of(swapped)["best_value"] == -losses[0]
    found = AutoModel.from_pretrained(swapped / "best")
    edit = find_edit(found, DecompositionConfig)
    assert edit == DecompositionConfig(ops="san", rank_layer=4, rank_condim=8, rank_dim=6)
    assert not hasattr(found.config, "rank_layer") and found.config.num_hidden_layers == 2
    assert AutoTokenizer.from_pretrained(swapped / "best").tokenize("A film") == ["a", "film"]
    assert (swapped / "best" / "arguments.json").is_file() and result_of(swapped)["steps"] == 10


@pytest.mark.parametrize("optimizer", ["adamw", "bertadam"])
def test_the_student_learns_the_teachers_inside(optimizer: str, tiny: TinyBert, tmp_path: Path) -> None:
    """Fifteen steps on all layers lower the loss by more than a fifth, with either optimizer."""
    more = ("--init_from_teacher", "--use_swap", *RANKS, "--distill_layers", "all", "--loss_reduction", "mean")
    run = tiny.general(tmp_path / "run", *more, "--optimizer", optimizer, "--num_train_epochs", "3.0")
    run_general([*run, "--learning_rate", "1e-2"])
    losses = [row["loss"] for row in rows_of(tmp_path / "run") if row["split"] == "train"]
    assert len(losses) == 15 and losses[-1] < 0.8 * losses[0]


def test_flags_win_over_the_students_config(tiny: TinyBert, tmp_path: Path) -> None:
    """Protocol II with its one rank, though config.json has the ranks of a bank."""
    student = edit_config(save_bert(tmp_path / "student", 2), rank_layer=4, rank_condim=8, rank_dim=6)
    flags = ("--use_swap", "--protocol", "II", "--rank_dim", 7, "--max_steps", 1)
    run_general(tiny.general(tmp_path / "run", "--student_model", student, *flags))
    edit = find_edit(AutoModel.from_pretrained(tmp_path / "run" / "best"), DecompositionConfig)
    assert edit == DecompositionConfig(protocol="II", ops="san_ffn", rank_dim=7)


def test_embeddings_are_factorised_where_asked_for(tiny: TinyBert, tmp_path: Path) -> None:
    """By flag, beside the ranks or alone; the original's "other" in config.json means none."""
    student = edit_config(save_bert(tmp_path / "student", 2), embedding_type="other")
    flags = ("--student_model", student, "--use_swap", "--max_steps", 2)
    run_general(tiny.general(tmp_path / "both", *flags, *RANKS, "--embedding_type", "ketxs", "--embedding_rank", 3))
    run_general(tiny.general(tmp_path / "alone", *flags, "--embedding_type", "tt", "--embedding_rank", 4))
    run_general(tiny.general(tmp_path / "none", *flags, *RANKS))
    both, alone, none = (AutoModel.from_pretrained(tmp_path / name / "best") for name in ("both", "alone", "none"))
    assert find_edit(both, EmbeddingConfig) == EmbeddingConfig("ketxs", rank=3)
    assert find_edit(both, DecompositionConfig) is not None and find_edit(alone, DecompositionConfig) is None
    assert (
        find_edit(alone, EmbeddingConfig) == EmbeddingConfig("tt", rank=4) and find_edit(none, EmbeddingConfig) is None
    )


def test_a_directory_with_a_config_alone_begins_at_random(
    tiny: TinyBert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No weights, no tokenizer: random ones, and the teacher's."""
    student = tmp_path / "student"
    student.mkdir()
    config = json.loads((tiny.model / "config.json").read_text())
    (student / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    run_general(tiny.general(tmp_path / "run", "--student_model", student, "--max_steps", 2))
    assert "random weights" in capsys.readouterr().out
    assert AutoModel.from_pretrained(tmp_path / "run" / "best").config.num_hidden_layers == 1
    assert len(AutoTokenizer.from_pretrained(tmp_path / "run" / "best")) == len(tiny_word_pieces())


def test_loss_is_that_of_the_original_by_default(tiny: TinyBert, tmp_path: Path) -> None:
    """--loss_reduction batch_sum is the mean times the rows of the batch: four."""
    first: dict[str, float] = {}
    for reduction in ("batch_sum", "mean"):
        student = save_bert(
            tmp_path / f"student-{reduction}", 2, 5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        output = tmp_path / reduction
        more = () if reduction == "batch_sum" else ("--loss_reduction", reduction)
        run_general(tiny.general(output, "--student_model", student, "--max_steps", 1, *more))
        first[reduction] = next(row["loss"] for row in rows_of(output) if row["split"] == "train")
    assert first["batch_sum"] == pytest.approx(4 * first["mean"], rel=1e-5)


def test_stopped_and_resumed_is_bit_identical(tiny: TinyBert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in step 7 of 10: saved, and --continue_train ends as the run that was not stopped."""
    more = ("--init_from_teacher", "--use_swap", *RANKS, "--keep_checkpoints", 1)
    run_general(tiny.general(tmp_path / "one", *more))
    original = Trainer._step

    def signalled(self: Trainer, group: Any) -> None:
        original(self, group)
        if self.progress.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", signalled)
        with pytest.raises(Interrupted, match="saved step 7"):
            run_general(tiny.general(tmp_path / "two", *more))
    run_general(tiny.general(tmp_path / "two", *more, "--continue_train"))
    assert_same_run(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_killed_and_resumed_is_bit_identical(tiny: TinyBert, tmp_path: Path) -> None:
    """SIGKILL before step 7 of 10; --continue_train goes on and ends as the run that was not killed."""
    more = ("--init_from_teacher", "--use_swap", *RANKS, "--save_step", 2)
    run_general(tiny.general(tmp_path / "one", *more))
    killed_run(tiny.general(tmp_path / "two", *more), die_before_step, 6, run_general)
    run_general(tiny.general(tmp_path / "two", *more, "--continue_train"))
    assert_same_run(tmp_path / "two", tmp_path / "one")


def test_reduce_memory_reads_the_same(tiny: TinyBert, tmp_path: Path) -> None:
    """Mapped from files or held in memory: the same weights."""
    for name, more in (("held", ()), ("mapped", ("--reduce_memory",))):
        run_general(tiny.general(tmp_path / name, "--init_from_teacher", "--max_steps", 3, *more))
    held, mapped = (tensors_under(tmp_path / name / "best") for name in ("held", "mapped"))
    assert all(torch.equal(held[name], mapped[name]) for name in held)


def test_bf16_and_accumulation_run(tiny: TinyBert, tmp_path: Path) -> None:
    """Batches of four in micro-batches of two; the steps of an epoch stay five."""
    more = ("--init_from_teacher", "--precision", "bf16", "--gradient_accumulation_steps", 2, "--num_train_epochs", 1)
    run_general(tiny.general(tmp_path / "run", *more))
    assert result_of(tmp_path / "run")["steps"] == 5


def test_other_text_can_be_evaluated_on(tiny: TinyBert, tmp_path: Path) -> None:
    """--valid_data changes what is evaluated, not what is trained."""
    other = write_epochs(tmp_path / "text", 1, rows=8, longest=12)
    for name, more in (("own", ()), ("other", ("--valid_data", other))):
        run_general(tiny.general(tmp_path / name, "--init_from_teacher", "--use_swap", *RANKS, "--max_steps", 2, *more))
    own, others = (result_of(tmp_path / name)["best_value"] for name in ("own", "other"))
    assert own != others
    one, two = (tensors_under(tmp_path / name / "best") for name in ("own", "other"))
    assert all(torch.equal(one[name], two[name]) for name in one)


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "give either --student_model or --init_from_teacher"),
        (("--init_from_teacher", "--use_swap"), "needs rank_layer, rank_condim, rank_dim: give --rank_layer "),
        (("--init_from_teacher", *RANKS), "--rank_layer needs --use_swap"),
        (("--init_from_teacher", "--use_swap", "--embedding_type", "kets"), "embedding_type .*did you mean 'ket"),
        (("--init_from_teacher", "--use_swap", *RANKS, "--embedding_rank", 2), "need --embedding_type"),
        (("--init_from_teacher", "--use_swap", *RANKS, "--ops", "sam"), "ops .*did you mean 'san'"),
        (("--init_from_teacher", "--use_swap", *RANKS[:2], "--rank_condim", 33, "--rank_dim", 8), "33 .*32"),
        (("--init_from_teacher", "--use_swap", "--rank_layer", 999, *RANKS[2:]), "rank_layer 999"),
        (("--init_from_teacher", "--max_seq_length", 64), "--max_seq_length 64: the model has 48 positions"),
        (("--init_from_teacher", "--gradient_accumulation_steps", 3), "must be a multiple of"),
        (("--init_from_teacher", "--num_train_epochs", "0"), "--num_train_epochs must be at least 1"),
        (("--init_from_teacher", "--warmup_proportion", "1.5"), "--warmup_proportion must be at least 0 and below 1"),
        (("--init_from_teacher", "--fp16", "--precision", "bf16"), "contradict"),
        (("--student_model", "/nowhere"), "No model could be loaded from /nowhere|/nowhere"),
    ],
)
def test_mistakes_are_one_sentence(tiny: TinyBert, tmp_path: Path, more: tuple[Any, ...], message: str) -> None:
    """Named before anything is written."""
    with pytest.raises((UserError, ModelError), match=message) as caught:
        run_general(tiny.general(tmp_path / "run", *more))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_student_whose_depth_does_not_divide_the_teachers_is_refused(tiny: TinyBert, tmp_path: Path) -> None:
    """Three layers and four."""
    student = save_bert(tmp_path / "student", 3)
    with pytest.raises(ModelError, match="student's 3 layers do not divide the teacher's 4"):
        run_general(tiny.general(tmp_path / "run", "--student_model", student))


def test_fewer_epochs_of_data_than_asked_for_loop_with_a_warning(tiny: TinyBert, tmp_path: Path) -> None:
    """Three epochs of two files."""
    run_general(tiny.general(tmp_path / "run", "--init_from_teacher", "--num_train_epochs", 3))
    assert result_of(tmp_path / "run")["steps"] == 15
    log = (tmp_path / "run" / "log.log").read_text(encoding="utf-8")
    assert log.count("has 2 epoch(s) of data and 3 are asked for: they are used again.") == 1 and "warning: " in log


def test_flags_without_effect_warn(tiny: TinyBert, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are accepted, each with the reason; so is the rank that torch.distributed.launch passes."""
    flags = ("--do_eval", "--loss_scale", "0", "--local_rank=0", "--max_steps", 1)
    student = save_bert(tmp_path / "student", 2)
    run_general(tiny.general(tmp_path / "run", "--student_model", student, *flags))
    said = capsys.readouterr()
    assert "--do_eval has no effect: " in said.err and "--loss_scale has no effect: " in said.err
    assert find_edit(AutoModel.from_pretrained(tmp_path / "run" / "best"), DecompositionConfig) is None


# --- launchers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
            {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"},
        ),
        (
            {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MASTER_ADDR": "first"},
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "first"},
        ),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}),
    ],
)
def test_ranks_of_mpirun_are_read(given: dict[str, str], expected: dict[str, str]) -> None:
    """Open MPI's and PMI's variables under the names that torch reads, with one port for a whole job."""
    values = dict(given)
    adopt_ranks(values)
    assert {key: values[key] for key in expected} == expected
    other = {**given, "PMIX_NAMESPACE": "job-7"}
    adopt_ranks(other)
    assert 1024 < int(values["MASTER_PORT"]) < 65536 and values["MASTER_PORT"] != other["MASTER_PORT"]


def test_one_process_and_torchrun_are_left_alone() -> None:
    """Nothing is set for a single process, and torchrun's own ranks win."""
    alone = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}
    adopt_ranks(alone)
    assert "RANK" not in alone
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "PMI_RANK": "0", "PMI_SIZE": "9"}
    adopt_ranks(torchrun)
    assert torchrun["RANK"] == "1" and torchrun["WORLD_SIZE"] == "2"


def test_several_machines_need_an_address() -> None:
    """Four processes, two of them here: the machine of rank 0 has to be named."""
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    values = {f"OMPI_COMM_WORLD_{name}": value for name, value in zip(names, "0402", strict=True)}
    with pytest.raises(UserError, match="-x MASTER_ADDR=HOST"):
        adopt_ranks(values)


@pytest.mark.slow
def test_two_processes_started_as_mpirun_does_train_one_student(tiny: TinyBert, tmp_path: Path) -> None:
    """Ranks from Open MPI's variables, gloo on this machine: one run directory, the steps of half the data each."""
    output = tmp_path / "run"
    command = tiny.general(output, "--init_from_teacher", "--use_swap", *RANKS, "--num_train_epochs", 1, "--no_cuda")
    processes = []
    for rank in range(2):
        ranks = {"RANK": rank, "SIZE": 2, "LOCAL_RANK": rank, "LOCAL_SIZE": 2}
        mpi = {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in ranks.items()}
        environment = {**os.environ, **mpi, "PMIX_NAMESPACE": str(tmp_path), "OMP_NUM_THREADS": "1"}
        script = [sys.executable, str(ROOT / "general_distill.py"), *command]
        processes.append(subprocess.Popen(script, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
    assert [process.returncode for process in processes] == [0, 0], errors
    assert result_of(output)["steps"] == 3  # 20 rows, 8 at a time
    AutoModel.from_pretrained(output / "best")
