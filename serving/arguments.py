"""The flags of `python -m serving`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataset import get_task
from serving.access import is_host_pattern
from utils.arguments import flag, parse, too_small
from utils.engine.precision import AskedForward
from utils.errors import UserError

AUTO = "auto"
DEFAULT_TARGET_MS = 100.0
#: Device -> default of `--max-batch-tokens`.
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
_AT_LEAST = {
    "max_length": 4,
    "threads": 1,
    "max_batch": 1,
    "max_wait_ms": 0,
    "max_rows": 1,
    "max_chars": 1,
    "max_body_kb": 1,
    "queue_rows": 1,
    "drain_seconds": 0,
    "shutdown_delay_s": 0,
    "port": 0,
    "max_batch_tokens": 1,
    "tokenizer_threads": 1,
    "max_connections": 1,
}
_ABOVE_0 = ("request_timeout_s", "header_timeout_s", "body_timeout_s", "idle_timeout_s")


@dataclass
class ServingArguments:
    """What is served, and how."""

    _argument_group_name = "server"

    model: Path | None = flag(None, "Directory of a fine-tuned T5, or of a classifier (BERT or EncT5); or of its run.")
    plugins: list[str] = flag(
        [],
        "Compression plugins for it: DIR, or TASK=DIR for each of several tasks on one backbone.",
        action="extend",
    )
    task: str | None = flag(None, "The task; default: what the directories say that they were trained for.")
    host: str = flag("127.0.0.1", "Address to listen at. The default is reached from this machine only.")
    port: int = flag(8000, "Port to listen at; 0 takes a free one and says which.")
    ratio: str = flag(AUTO, "Ratio to serve with: auto lets the load decide, a number (1, 2, 4 …) fixes it.")
    latency_target_ms: float | None = flag(
        None, f"With --ratio auto: 95 of 100 answers should take no longer (default {DEFAULT_TARGET_MS:g})."
    )
    max_length: int | None = flag(
        None, "Most tokens of a row; longer texts are cut as in training. Default: what the model was trained with."
    )
    max_batch: int = flag(32, "Most rows of a batch.")
    max_batch_tokens: int | None = flag(
        None,
        "Most padded tokens of a batch, so that no batch takes long, whatever the length of its rows; a single row may "
        f"have more. Default: {BATCH_TOKENS['cpu']}, on a GPU {BATCH_TOKENS['cuda']}.",
    )
    max_wait_ms: float = flag(2.0, "A batch that is not full waits so long for more rows.")
    queue_rows: int = flag(512, "Most rows that wait; requests beyond are refused with status 429.")
    max_rows: int = flag(64, "Most rows of a request.")
    max_chars: int = flag(20000, "Most characters of a text.")
    max_body_kb: int = flag(1024, "Largest request in units of 1024 bytes.")
    request_timeout_s: float = flag(
        60.0, "A request that is not answered within this time gets status 504, and its rows are not computed."
    )
    header_timeout_s: float = flag(10.0, "Time for the header of a request to come.")
    body_timeout_s: float = flag(30.0, "Time for the body of a request to come, and for a client to read its answer.")
    idle_timeout_s: float = flag(
        75.0, "A connection without a request is closed after this time; a load balancer's should be shorter."
    )
    max_connections: int | None = flag(
        None,
        "Most connections at once; more are refused with status 503. Default: 1000, or as many as the limit of open "
        "files (ulimit -n) has room for.",
    )
    allowed_hosts: list[str] = flag(
        [],
        "Names that the Host header of a request may have: *.example.org for all below example.org, * for any. "
        "Default: this machine's own (localhost, 127.0.0.1, ::1) and --host; with 0.0.0.0 or :: also every address in "
        "numbers.",
    )
    token_file: Path | None = flag(
        None, "File with a token that every request has to send (Authorization: Bearer TOKEN), but for /healthz."
    )
    access_log: bool = flag(False, "Write one line for each request to standard error.")
    drain_seconds: float = flag(30.0, "Time to finish what waits when the server is told to end.")
    shutdown_delay_s: float = flag(
        0.0,
        "When told to end, fail health checks for so long before connections are refused, so that a load balancer "
        "stops sending requests first. A second signal ends this time.",
    )
    threads: int | None = flag(None, "CPU threads of the model; default: torch's choice.")
    tokenizer_threads: int = flag(2, "Threads that tokenise; long requests leave one of several to short ones.")
    device: Literal["cpu", "cuda"] | None = flag(None, "Default: a GPU where there is one.")
    precision: AskedForward = flag(
        "auto",
        "bf16 runs the model under autocast. auto: where this machine is fast at it, fp32 elsewhere.",
    )
    debug: bool = flag(False, "Show the traceback of an error.")

    @property
    def target_ms(self) -> float:
        """The latency target in use."""
        return DEFAULT_TARGET_MS if self.latency_target_ms is None else self.latency_target_ms

    @property
    def fixed_ratio(self) -> int | None:
        """The ratio of `--ratio`; None: the load decides."""
        return None if self.ratio == AUTO else int(self.ratio)


def parse_arguments(arguments: Sequence[str] | None = None) -> ServingArguments:
    """Parse and check; all problems are told at once.

    Raises:
        UserError: with every problem found.
        DataError: `--task` is unknown.
    """
    description = "Serve predictions over HTTP, with a compression ratio that follows the load."
    (given,) = parse((ServingArguments,), description, arguments, prog="python -m serving", both_spellings=True)
    assert isinstance(given, ServingArguments)
    problems = too_small([given], _AT_LEAST)
    if given.model is None:
        problems.append("--model is required")
    if given.ratio != AUTO and not (given.ratio.isascii() and given.ratio.isdigit() and int(given.ratio) > 0):
        problems.append(f"--ratio is auto or a whole number of at least 1, found {given.ratio!r}")
    elif given.ratio != AUTO and given.latency_target_ms is not None:
        problems.append(f"--latency-target-ms has no effect with --ratio {given.ratio}, only with auto")
    if not given.target_ms > 0:
        problems.append(f"--latency-target-ms must be above 0, found {given.latency_target_ms:g}")
    problems += [
        f"--{name.replace('_', '-')} must be above 0 and finite, found {value:g}"
        for name in _ABOVE_0
        if not 0 < (value := getattr(given, name)) < math.inf
    ]
    problems += [
        f"--{name.replace('_', '-')} must be finite, found {value:g}"
        for name in ("drain_seconds", "shutdown_delay_s")
        if math.isinf(value := getattr(given, name))
    ]
    if not given.host.strip():
        problems.append("--host is empty: name an address, 127.0.0.1 for this machine alone, 0.0.0.0 for all networks")
    problems += [
        f"--allowed-hosts: {name!r} is no name of a host, expected one without a port, *.example.org or *"
        for name in given.allowed_hosts
        if not is_host_pattern(name)
    ]
    if given.port > 65535:
        problems.append(f"--port must be at most 65535, found {given.port}")
    if given.queue_rows < given.max_rows:
        problems.append(
            f"--queue-rows {given.queue_rows} is less than --max-rows {given.max_rows}: "
            "a request of that size would never be taken"
        )
    if problems:
        raise UserError("; ".join(problems) + ".")
    if given.task is not None:
        given.task = get_task(given.task).name
    return given
