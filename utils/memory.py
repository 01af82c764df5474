"""What is said when memory runs out: here, or in a process that the system has ended for it. Needs no library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_RAN_OUT = re.compile(
    r"out of memory|can(?:'|no)t allocate memory|not enough memory|unable to allocate|alloc_failed|bad_alloc", re.I
)
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\)(?: is killed by signal: (?P<signal>\w+))?")
#: Of a library's message, which may describe its whole state.
_LONGEST = 160


def memory_ran_out(error: BaseException | None) -> str | None:
    """The beginning of a sentence, with a library's own words; None for any other error. Causes are looked at too."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, (RuntimeError, OSError)) and _is_said_by(error)):
            said = (str(error).strip().splitlines() or [""])[0].rstrip(".")[:_LONGEST]
            return f"Memory ran out ({said})" if said else "Memory ran out"
        error = error.__cause__
    return None


def _is_said_by(error: BaseException) -> bool:
    return _RAN_OUT.search(str(error)) is not None


def how_to_need_less(arguments: Mapping[str, Any], trains: bool) -> tuple[str, list[str]]:
    """The flags with which a run goes on, or begins anew with as many rows per step, in less memory.

    Args:
        arguments: of the run.
        trains: whether memory ran out in a step, or else in an evaluation.

    Returns:
        The end of a sentence, and further flags that make the same command go on in less memory, if there are any.
    """
    rows = arguments.get("batch_size" if trains else "eval_batch_size") or 1
    if not trains and rows > 1:
        return f"--resume auto --eval_batch_size {rows // 2} goes on with less", []
    ways, flags = [], []
    if trains and not arguments.get("gradient_checkpointing"):
        flags.append("--gradient_checkpointing")
        ways.append("--resume auto --gradient_checkpointing goes on with less")
    if trains and rows > 1:
        smaller = f"--train_batch_size {rows // 2} --gradient_accumulation_steps"
        ways.append(f"--overwrite {smaller} {2 * (arguments.get('grad_accumulation') or 1)} begins anew with less")
    return ", or ".join(ways) or "shorter rows, a smaller model or more processes need less", flags


def worker_that_ended(error: BaseException) -> str | None:
    """A sentence for the end of a process that prepares batches, which torch tells at any moment; None for others."""
    if not isinstance(error, RuntimeError) or (found := _WORKER.search(str(error))) is None:
        return None
    how = f"was ended by the signal {found['signal']}" if found["signal"] else "has ended"
    return (
        f"A process that prepares batches (process {found['pids'].strip()}) {how}, as the system does where memory "
        "runs out: a smaller --num_workers needs less; --resume auto goes on at the last checkpoint."
    )
