"""Process numbers given by `mpirun`, under the names that torch and Accelerate read."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, MutableMapping

from utils.errors import UserError

#: Launcher -> its variables for rank, number of processes, rank on this machine, processes on this machine.
_LAUNCHERS: Mapping[str, tuple[str, str, str, str]] = {
    "Open MPI": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "MPICH, Intel MPI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}
#: Variables that are the same for all processes of one mpirun and differ between two of them.
_JOB_NAMES = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID")
_FIRST_PORT, _PORTS = 20000, 20000


def adopt_mpi_ranks(environment: MutableMapping[str, str] | None = None) -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT from what mpirun has set; call it first of all.

    Does nothing under torchrun, and without mpirun. The processes of one machine find each other by themselves; for
    several machines, MASTER_ADDR has to be given (`mpirun -x MASTER_ADDR=…`).

    Args:
        environment: `os.environ` by default.

    Raises:
        UserError: several machines without MASTER_ADDR.
    """
    values = os.environ if environment is None else environment
    if "RANK" in values and "WORLD_SIZE" in values:
        return
    found = next((names for names in _LAUNCHERS.values() if names[0] in values and names[1] in values), None)
    if found is None or int(values[found[1]]) == 1:
        return
    rank, size, local_rank, local_size = (values.get(name) for name in found)
    assert rank is not None and size is not None
    if local_size is not None and int(local_size) < int(size) and "MASTER_ADDR" not in values:
        raise UserError(
            f"mpirun started {size} processes, {local_size} of them on this machine: name the machine of rank 0 with "
            "-x MASTER_ADDR=HOST."
        )
    values.update(RANK=rank, WORLD_SIZE=size, LOCAL_RANK=local_rank or rank)
    values.setdefault("LOCAL_WORLD_SIZE", local_size or size)
    values.setdefault("MASTER_ADDR", "127.0.0.1")
    job = next((values[name] for name in _JOB_NAMES if name in values), "")
    values.setdefault("MASTER_PORT", str(_FIRST_PORT + zlib.crc32(job.encode()) % _PORTS))
