"""Process numbers given by `mpirun` and `srun`, under the names that torch and Accelerate read.

`torchrun` and `accelerate launch` set these names themselves.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

from utils.errors import UserError

#: mpirun -> its variables for rank, number of processes, rank on this machine, processes on this machine.
_MPI: Mapping[str, tuple[str, str, str, str]] = {
    "Open MPI": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "MPICH, Intel MPI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}
#: Variables that are the same for all processes of one job and differ between two of them.
_JOB_NAMES = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID")
#: What `accelerate config` may have switched on and `--engine` and `--gradient_accumulation_steps` say here.
_OVERRULED = (
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
)
_OVERRULED_GROUP = "ACCELERATE_DYNAMO_"
_FIRST_PORT, _PORTS = 20000, 20000


class _Place(NamedTuple):
    """Where a process stands among all; `None` where the launcher does not say."""

    rank: int
    size: int
    local_rank: int | None
    local_size: int | None
    address: str | None
    job: str


def adopt_ranks(environment: MutableMapping[str, str] | None = None) -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT from what the launcher set; call it first of all.

    torchrun and accelerate launch have set them already; what accelerate's configuration says beside is left out.
    Under srun the machine of rank 0 is the first of the step's nodes. mpirun does not say: for several machines,
    MASTER_ADDR has to be given (`mpirun -x MASTER_ADDR=…`). The port comes from the job's name; MASTER_PORT overrules
    it. Nothing is set for one process.

    Args:
        environment: `os.environ` by default.

    Raises:
        UserError: several machines without MASTER_ADDR, or a variable that is no number.
    """
    values = os.environ if environment is None else environment
    for name in [name for name in values if name in _OVERRULED or name.startswith(_OVERRULED_GROUP)]:
        values.pop(name)
    if "RANK" in values and "WORLD_SIZE" in values:
        for name in ("RANK", "WORLD_SIZE"):
            _number(values, name)
        return
    place = _of_mpirun(values) or _of_srun(values)
    if place is None or place.size == 1:
        return
    if place.address is None and place.local_size is not None and place.local_size < place.size:
        raise UserError(
            f"mpirun started {place.size} processes, {place.local_size} of them on this machine: name the machine of "
            "rank 0 with -x MASTER_ADDR=HOST."
        )
    local_rank = place.rank if place.local_rank is None else place.local_rank
    values.update(RANK=str(place.rank), WORLD_SIZE=str(place.size), LOCAL_RANK=str(local_rank))
    values.setdefault("LOCAL_WORLD_SIZE", str(place.local_size or place.size))
    values.setdefault("MASTER_ADDR", place.address or "127.0.0.1")
    values.setdefault("MASTER_PORT", str(_FIRST_PORT + zlib.crc32(place.job.encode()) % _PORTS))


def _of_mpirun(values: Mapping[str, str]) -> _Place | None:
    names = next((names for names in _MPI.values() if names[0] in values and names[1] in values), None)
    if names is None:
        return None
    rank, size = _number(values, names[0]), _number(values, names[1])
    local_rank, local_size = (_number(values, name) if name in values else None for name in names[2:])
    # srun with PMI sets its variables beside its own, which alone say where on the machine a process is.
    step = _of_srun(values) if local_rank is None else None
    if step is not None and step.size == size:
        return step
    job = next((values[name] for name in _JOB_NAMES if name in values), "")
    return _Place(rank, size, local_rank, local_size, values.get("MASTER_ADDR"), job)


def _of_srun(values: Mapping[str, str]) -> _Place | None:
    """Of a job step alone: in a batch script itself, which is one process, SLURM_STEP_NUM_TASKS is not set."""
    if "SLURM_PROCID" not in values or "SLURM_STEP_NUM_TASKS" not in values:
        return None
    nodes = values.get("SLURM_STEP_NODELIST") or values.get("SLURM_JOB_NODELIST") or values.get("SLURM_NODELIST")
    local_rank = _number(values, "SLURM_LOCALID") if "SLURM_LOCALID" in values else None
    job = f"{values.get('SLURM_JOB_ID', '')}.{values.get('SLURM_STEP_ID', '')}"
    size = _number(values, "SLURM_STEP_NUM_TASKS")
    address = values.get("MASTER_ADDR") or (first_host(nodes) if nodes else None)
    return _Place(_number(values, "SLURM_PROCID"), size, local_rank, _tasks_here(values), address, job)


def _number(values: Mapping[str, str], name: str) -> int:
    if not values[name].isdecimal():
        raise UserError(f"The variable {name} of the launcher must be a whole number, found {values[name]!r}.")
    return int(values[name])


def first_host(nodes: str) -> str:
    """The first host of Slurm's list: `a[3-5,9],b` is a3, a5 … and begins with `a3`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    assert first is not None
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first.group())


def _tasks_here(values: Mapping[str, str]) -> int | None:
    """From `4(x2),3`: four tasks on the first two nodes, three on the next."""
    counts: list[int] = []
    for part in values.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        if found := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part):
            counts += [int(found[1])] * int(found[2] or 1)
    node = _number(values, "SLURM_NODEID") if "SLURM_NODEID" in values else 0
    return counts[node] if node < len(counts) else None
