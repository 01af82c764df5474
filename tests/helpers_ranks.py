"""Runs of the real script in several processes that share their gradients, without the seconds that a launcher takes.

Each process is forked from a server that has imported the script, and gets the variables that a launcher would set.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import multiprocessing.connection
import os
import shlex
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.tiny import run
from tests.tiny_bert import run_general, run_task

#: (rank, number of processes, port) -> the environment variables of a launcher.
Launcher = Callable[[int, int, int], dict[str, str]]
#: Called in each process with its rank before the run begins.
Prepare = Callable[[int], None]
#: An entry script, called with its command line.
Script = Callable[[Sequence[str]], None]

#: The entry scripts by name.
SCRIPTS: dict[str, Script] = {"train_t5": run, "general_distill": run_general, "task_distill": run_task}

#: A hanging process shows after this long; far more than a run takes on a busy machine.
_LIMIT_S = 600
#: When one has ended, the others notice within this time.
_OTHERS_S = 30


class Ended(NamedTuple):
    """How the processes ended, by rank."""

    codes: list[int]
    outputs: list[str]
    errors: list[str]


def torchrun_variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    """As `torchrun --nproc-per-node` sets them."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    return {name: str(value) for name, value in own.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def open_mpi_variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    """As Open MPI's `mpirun -np` sets them, and the port that two tests at once must not share."""
    names = {"RANK": rank, "SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_SIZE": world_size}
    return {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in names.items()} | {"MASTER_PORT": str(port)}


def slurm_variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    """As `srun --ntasks` sets them on one node, and the port as above."""
    names = {"PROCID": rank, "LOCALID": rank, "NODEID": 0, "STEP_NUM_TASKS": world_size, "JOB_ID": 7, "STEP_ID": 0}
    values = {f"SLURM_{name}": str(value) for name, value in names.items()}
    return (
        values
        | {"SLURM_STEP_TASKS_PER_NODE": str(world_size), "SLURM_STEP_NODELIST": "localhost"}
        | {"MASTER_PORT": str(port)}
    )


def run_ranks(
    arguments: Sequence[str],
    folder: Path,
    prepare: Prepare | None = None,
    world_size: int = 2,
    launcher: Launcher = torchrun_variables,
    script: Script = run,
    may_hang: bool = False,
) -> Ended:
    """Run the script in `world_size` processes and wait for them; none may hang.

    Args:
        arguments: its command line.
        folder: where the processes' output is kept.
        prepare, script: functions of a module, since they are pickled.
        may_hang: when one process has ended, those that do not within a few seconds are killed, as a launcher does.
    """
    context = multiprocessing.get_context("forkserver")
    preload = ["train_t5", "general_distill", "task_distill", "tests.tiny", "tests.helpers_ranks"]
    context.set_forkserver_preload(preload)
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    processes: list[Any] = []
    for rank in range(world_size):
        variables = launcher(rank, world_size, port)
        job = (list(arguments), str(folder / f"rank{rank}"), rank, variables, prepare, os.getcwd(), script)
        processes.append(context.Process(target=_child, args=job, daemon=True))
        processes[-1].start()
    if may_hang:
        multiprocessing.connection.wait([process.sentinel for process in processes], _LIMIT_S)
        _join(processes, _OTHERS_S)
        if any(not process.is_alive() for process in processes):
            for process in processes:
                process.kill()
    _join(processes, _LIMIT_S)
    hanging = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
        process.join()
    texts = [[(folder / f"rank{r}.{kind}").read_text() for r in range(world_size)] for kind in ("out", "err")]
    assert not hanging, f"processes {hanging} hang; {texts}"
    return Ended([process.exitcode for process in processes], *texts)


def run_several(commands: Sequence[str]) -> None:
    """A script like the others: its words are `NAME flags …`, each a run of one of `SCRIPTS`, one after the other."""
    for command in commands:
        name, *arguments = shlex.split(command)
        SCRIPTS[name](arguments)


def divide_and_measure(arguments: Sequence[str]) -> None:
    """A script that divides a frozen T5 and prints numbers: parameters held here, of the whole model, left in the
    original, and whether tied ones are one still.
    """
    from torch.distributed.tensor import DTensor
    from transformers import T5Config, T5ForConditionalGeneration

    from utils.engine import Runtime
    from utils.engine.engines import ShardedEngine

    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 4, "num_heads": 4, "d_ff": 31, "num_layers": 2}
    model: Any = T5ForConditionalGeneration(T5Config(**sizes)).requires_grad_(False)
    whole = sum(parameter.numel() for parameter in model.parameters())
    engine = ShardedEngine(Runtime(engine="fsdp").accelerator, model)
    divided: Any = engine.module
    own = sum(p.to_local().numel() for p in divided.parameters() if isinstance(p, DTensor))
    left = sum(parameter.numel() for parameter in model.parameters())
    print(own, whole, left, int(divided.shared.weight is divided.lm_head.weight))


def _join(processes: Sequence[Any], limit_s: float) -> None:
    """Wait for all processes together."""
    until = time.monotonic() + limit_s
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _child(
    arguments: list[str],
    output: str,
    rank: int,
    variables: dict[str, str],
    prepare: Prepare | None,
    directory: str,
    script: Script,
) -> None:
    from utils import errors

    errors._OTHERS_WAIT_S = 0.0  # here is no launcher that ends the others
    for descriptor, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(directory)
    os.environ.update({**variables, "OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    if prepare is not None:
        prepare(rank)
    errors.run_as_script(lambda: script(arguments), debug=False)


# --- what goes wrong on the way: used as `prepare` ---------------------------------------------------------------


def _signal_after(step: int, number: signal.Signals) -> None:
    from utils.engine import Trainer

    original = Trainer._step

    def signalled(self: Any, group: Any) -> None:
        original(self, group)
        if self.progress.step == step:
            os.kill(os.getpid(), number)

    Trainer._step = signalled  # type: ignore[method-assign]


def sigterm_to_the_second(rank: int) -> None:
    """SIGTERM reaches process 1 alone, after step 4."""
    if rank == 1:
        _signal_after(4, signal.SIGTERM)


def sigterm_to_the_first(rank: int) -> None:
    """SIGTERM reaches process 0 alone, after step 4."""
    if rank == 0:
        _signal_after(4, signal.SIGTERM)


def sigterm_at_different_steps(rank: int) -> None:
    """SIGTERM reaches both, process 0 three steps later than process 1: never, if they agree."""
    _signal_after(4 if rank else 7, signal.SIGTERM)


def sigterm_while_evaluating(rank: int) -> None:
    """SIGTERM reaches process 1 while the first validation runs, process 0 in the step behind it."""
    from utils.variator.evaluation import Evaluator

    if rank == 0:
        _signal_after(7, signal.SIGTERM)
        return
    original = Evaluator.at_ratios

    def signalled(self: Any, ratios: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, ratios)

    Evaluator.at_ratios = signalled  # type: ignore[method-assign]


def count_bytes(rank: int) -> None:
    """Writes `bytes-RANK.json` into the working directory: what each kind of message of the third step holds.

    From torch's profiler; all tensors are of 32 bits but those of the loop's own few numbers, which count as such too.
    """
    from utils.engine import Trainer

    original = Trainer._step

    def counted(self: Any, group: Any) -> None:
        if self.progress.step != 2:
            original(self, group)
            return
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
            original(self, group)
        sent: dict[str, int] = {}
        for event in profile.events():
            if event.name.startswith("gloo:"):
                shapes = [shape for shape in event.input_shapes if shape]
                sent[event.name] = sent.get(event.name, 0) + 4 * sum(math.prod(shape) for shape in shapes)
        Path(f"bytes-{rank}.json").write_text(json.dumps(sent))

    Trainer._step = counted  # type: ignore[method-assign]


def full_disk_on_the_first(rank: int) -> None:
    """The second checkpoint does not fit onto the disk."""
    from utils.engine import checkpoint

    original, saves = checkpoint.save_file, 0

    def full(tensors: Any, path: Path) -> None:
        nonlocal saves
        saves += path.name == "optimizer.safetensors"
        if saves == 2:
            raise OSError(28, "No space left on device")
        original(tensors, path)

    if rank == 0:
        checkpoint.save_file = full  # type: ignore[assignment]


def spoil_the_second(value: float, rank: int) -> None:
    """Process 1 alone sees a loss of infinity or nan in the third step; its gradients stay finite."""
    from utils.engine import Trainer

    original = Trainer._backward

    def spoiled(self: Any, group: Any) -> Any:
        totals, tokens = original(self, group)
        if rank == 1 and self.progress.step == 2:
            totals["loss"] = totals["loss"] * value
        return totals, tokens

    Trainer._backward = spoiled  # type: ignore[method-assign]


def only_offloaded(rank: int) -> None:
    """Nothing may be divided without the policy that puts the shares into the machine's memory."""
    from torch.distributed.fsdp import CPUOffloadPolicy

    from utils.engine import engines

    original = engines.fully_shard

    def checked(module: Any, *arguments: Any, **options: Any) -> Any:
        assert isinstance(options["offload_policy"], CPUOffloadPolicy)
        return original(module, *arguments, **options)

    engines.fully_shard = checked
