"""Who starts the processes: what each launcher says becomes the same variables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers_engines import assert_equal_runs
from tests.helpers_ranks import free_port, run_ranks, slurm_variables
from tests.tiny import Tiny, run, write_sst2
from utils.engine.launch import adopt_ranks, first_host
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("one_thread")

STEP = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "4,2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("one", "one"),
        ("one,two", "one"),
        ("gpu[07-08,11]", "gpu07"),
        ("gpu[3,5-9]-ib,login", "gpu3-ib"),
        ("rack[1-2]node[04-05],x", "rack1node04"),
        ("a-b-[001-128]", "a-b-001"),
    ],
)
def test_first_host_of_a_list(nodes: str, host: str) -> None:
    """As `scontrol show hostnames` gives them."""
    assert first_host(nodes) == host


def test_ranks_of_srun_are_read() -> None:
    """Rank, size, place on the machine and the first node; another step has another port."""
    values = dict(STEP)
    adopt_ranks(values)
    expected = {"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "gpu07"}
    assert {name: values[name] for name in expected} == expected
    other = {**STEP, "SLURM_STEP_ID": "1"}
    adopt_ranks(other)
    assert 1024 < int(values["MASTER_PORT"]) < 65536 and values["MASTER_PORT"] != other["MASTER_PORT"]


def test_given_address_and_port_overrule_srun() -> None:
    """MASTER_ADDR and MASTER_PORT stay as they are."""
    values = {**STEP, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"}
    adopt_ranks(values)
    assert (values["MASTER_ADDR"], values["MASTER_PORT"]) == ("10.0.0.1", "4000")


def test_srun_with_pmi_takes_the_place_from_slurm() -> None:
    """PMI's variables beside Slurm's do not say which process of the machine this is."""
    values = {**STEP, "PMI_RANK": "5", "PMI_SIZE": "6"}
    adopt_ranks(values)
    assert (values["RANK"], values["LOCAL_RANK"], values["MASTER_ADDR"]) == ("5", "1", "gpu07")


@pytest.mark.parametrize(
    "values",
    [
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "gpu[1-2]"},
        {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {},
    ],
    ids=["batch script", "one task", "no launcher"],
)
def test_one_process_waits_for_nobody(values: dict[str, str]) -> None:
    """A batch script of a job of eight tasks is one process."""
    before = dict(values)
    adopt_ranks(values)
    assert values == before


def test_torchrun_inside_srun_wins() -> None:
    """One torchrun per node, each started by srun."""
    values = {**STEP, "RANK": "1", "WORLD_SIZE": "2"}
    before = dict(values)
    adopt_ranks(values)
    assert values == before


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_RANK", "WORLD_SIZE"])
def test_a_variable_that_is_no_number_is_named(name: str) -> None:
    names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE") if name.startswith("OMPI") else ("RANK", "WORLD_SIZE")
    with pytest.raises(UserError, match=f"The variable {name} of the launcher must be a whole number, found 'two'"):
        adopt_ranks({**dict.fromkeys(names, "2"), name: "two"})


def test_the_configuration_of_accelerate_changes_no_engine() -> None:
    """Its FSDP, its accumulation and its compiler would come on top of the toolkit's own."""
    values = {"RANK": "0", "WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_DEEPSPEED": "true"}
    values |= {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_USE_PARALLELISM_CONFIG": "true"}
    adopt_ranks(values)
    assert values == {"RANK": "0", "WORLD_SIZE": "2"}


def arguments(tiny: Tiny, root: Path, processes: int) -> list[str]:
    """Two steps of four rows in total."""
    if not (root / "glue").exists():
        write_sst2(root / "glue", train=8, valid=5)
    more = ("--data-path", root / "glue", "--batch-size", 4 // processes)
    return tiny.sst2(root / str(processes), *more)


@pytest.mark.slow
def test_srun_starts_two_processes(tiny: Tiny, tmp_path: Path) -> None:
    """Slurm's variables: one run of two processes."""
    ended = run_ranks(arguments(tiny, tmp_path, 2), tmp_path / "output", launcher=slurm_variables)
    assert ended.codes == [0, 0], ended.errors
    assert "2 process(es)" in ended.outputs[0] and "made:" not in ended.outputs[1]
    run(arguments(tiny, tmp_path, 1))
    assert_equal_runs(tmp_path / "2", tmp_path / "1")


def launch(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command in the repository, with its output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **variables}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_accelerate_launch_starts_two_processes(tiny: Tiny, tmp_path: Path) -> None:
    """The command line of docs/distributed.md, on CPUs."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    more = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    port = ["--main_process_port", str(free_port())]
    done = launch(*command, *more, *port, "train_t5.py", *arguments(tiny, tmp_path, 2))
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stdout and done.stdout.count("made:") == 1


# --- scripts/launch.sh -----------------------------------------------------------------------------------------------


def dry_run(*words: str, **variables: str) -> str:
    """The command that it would run."""
    done = launch(
        "bash", "scripts/launch.sh", "--dry-run", *words, **{"NUM_GPUS": "4", "PYTHON": "python", **variables}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_one_node_needs_no_address() -> None:
    """All GPUs of this machine."""
    expected = "+ python -m torch.distributed.run --standalone --nproc_per_node 4 train_t5.py --engine fsdp"
    assert dry_run("train_t5.py", "--engine", "fsdp") == expected


def test_two_nodes_pass_everything_through() -> None:
    """NNODES NODE_RANK MASTER_ADDR MASTER_PORT."""
    line = dry_run("general_distill.py", NNODES="2", NODE_RANK="1", MASTER_ADDR="gpu07", MASTER_PORT="4000")
    expected = "--nnodes 2 --node_rank 1 --master_addr gpu07 --master_port 4000 --nproc_per_node 4 general_distill.py"
    assert line == f"+ python -m torch.distributed.run {expected}"


def test_gpus_can_be_chosen() -> None:
    """GPUS names them; their number is the number of processes."""
    line = dry_run("task_distill.py", GPUS="0,2", NUM_GPUS="")
    assert "CUDA_VISIBLE_DEVICES=0,2" in line and "--nproc_per_node 2" in line


def test_a_machine_without_gpus_starts_one_process() -> None:
    """Or as many as PROCESSES says."""
    assert dry_run("train_t5.py", NUM_GPUS="0") == "+ python train_t5.py"
    assert "--nproc_per_node 2" in dry_run("train_t5.py", NUM_GPUS="0", PROCESSES="2")


@pytest.mark.parametrize(
    ("words", "variables", "told"),
    [
        ((), {}, "usage: bash scripts/launch.sh"),
        (("none.py",), {}, "error: none.py: unknown; known: train_t5.py general_distill.py task_distill.py"),
        (("train_t5.py",), {"NNODES": "2"}, "error: NNODES is 2: give NODE_RANK, MASTER_ADDR"),
    ],
)
def test_mistakes_are_told(words: tuple[str, ...], variables: dict[str, str], told: str) -> None:
    """In one sentence, exit code 2."""
    done = launch("bash", "scripts/launch.sh", "--dry-run", *words, **variables)
    assert done.returncode == 2 and told in done.stderr


_TWO = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "a"}


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"PROCESSES": "two"}, "PROCESSES is two: expected a whole number from 1 to 999999"),
        ({"PROCESSES": "0"}, "PROCESSES is 0: expected a whole number from 1 to 999999"),
        ({"NUM_GPUS": "1.5"}, "NUM_GPUS is 1.5: expected a whole number from 0 to 999999"),
        ({**_TWO, "NNODES": "a[0]"}, "NNODES is a[0]: expected a whole number from 1 to 999999"),
        ({**_TWO, "NODE_RANK": "first"}, "NODE_RANK is first: expected a whole number from 0 to 1 (NNODES is 2)"),
        ({**_TWO, "NODE_RANK": "2"}, "NODE_RANK is 2: expected a whole number from 0 to 1 (NNODES is 2)"),
        ({**_TWO, "NODE_RANK": "-1"}, "NODE_RANK is -1: expected a whole number from 0 to 1 (NNODES is 2)"),
        ({**_TWO, "MASTER_PORT": "http"}, "MASTER_PORT is http: expected a whole number from 1 to 65535"),
        ({**_TWO, "MASTER_PORT": "08"}, "MASTER_PORT is 08: expected a whole number from 1 to 65535"),
    ],
)
@pytest.mark.parametrize("words", ["scripts/launch.sh train_t5.py", "scripts/wiki.sh base"])
def test_a_variable_that_cannot_be_meant_is_named(variables: dict[str, str], told: str, words: str) -> None:
    """With its value, in one sentence and nothing else, exit code 2, before anything is started."""
    done = launch("bash", *words.split(), **{"PYTHON": "false", **variables})
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {told}\n")


@pytest.mark.parametrize("flag", ["--dry-run", "--dry_run"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_dry_run_is_one_wherever_the_flag_stands(flag: str, place: int) -> None:
    """The same plan, and nothing of it is run; the flag is none of the script's."""
    words = ["train_t5.py", "--engine", "fsdp"]
    words.insert(place, flag)
    done = launch("bash", "scripts/launch.sh", *words, NUM_GPUS="0", PYTHON="false")
    assert (done.returncode, done.stdout) == (0, "+ false train_t5.py --engine fsdp\n")


def test_the_way_of_starting_is_written_once() -> None:
    """launch.sh and the launchers of stages have one rule for the number of GPUs and one line for torchrun."""
    for written in ("num_gpus()", "torch.distributed.run", "device_count"):
        files = [path for path in (ROOT / "scripts").rglob("*.sh") if written in path.read_text(encoding="utf-8")]
        assert [path.name for path in files] == ["processes.sh"], written


@pytest.mark.slow
def test_a_stage_on_two_machines(tiny: Tiny, tmp_path: Path) -> None:
    """The same launcher on each: one run of two processes, with the result of one; the second time both skip it."""

    def start(processes: int, **variables: str) -> subprocess.Popen[str]:
        words = ["scripts/glue/glue.sh", "base", "sst2", *arguments(tiny, tmp_path, processes), "--precision", "fp32"]
        fixed = {"OMP_NUM_THREADS": "1", "NUM_GPUS": "0", "TOOLKIT_PYTHON": sys.executable}
        environment = {**os.environ, **fixed, **variables}
        return subprocess.Popen(["bash", *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    places = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for said in ("2 process(es)", "skipped"):
        started = [start(2, NODE_RANK=rank, **places) for rank in "10"]
        second, first = (process.communicate(timeout=300)[0] for process in started)
        assert [process.returncode for process in started] == [0, 0], first + second
        assert said in first and ("made:" in first) == (said != "skipped") and "made:" not in second
    alone = start(1)
    assert "1 process(es)" in alone.communicate(timeout=300)[0] and alone.returncode == 0
    assert_equal_runs(tmp_path / "2", tmp_path / "1")


@pytest.mark.parametrize(
    "words", ["tiny sst2 --dry-run --lr 1", "--dry-run tiny sst2 --lr 1", "tiny --dry-run sst2 --lr 1"]
)
def test_words_of_a_launcher_may_stand_behind_its_own_switches(words: str) -> None:
    """The same words and flags wherever --dry-run stands, so that a dry run and a real one are called alike."""
    code = 'source scripts/common.sh; parse_command_line usage 2 "$@"; echo "${WORDS[*]} / $DRY_RUN / ${EXTRA[*]}"'
    done = subprocess.run(["bash", "-c", code, "x", *words.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "tiny sst2 / 1 / --lr 1\n", done.stderr
