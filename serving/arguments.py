"""The flags of `python -m serving`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.access import is_host_pattern
from utils.arguments import MODEL, PLACE, Reading, flag, out_of_range, parse
from utils.arguments.values import task_among
from utils.engine.names import AskedForward
from utils.errors import UserError

AUTO = "auto"
DEFAULT_TARGET_MS = 100.0
#: Device -> default of `--max_batch_tokens`.
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}


@dataclass
class ServingArguments:
    """What is served, and how."""

    _argument_group_name = "server"

    model: Path | None = flag(
        None, "Directory of a fine-tuned T5, or of a classifier (BERT or EncT5); or of its run.", reads=MODEL
    )
    plugins: list[str] = flag(
        [],
        "Compression plugins for it: DIR, or TASK=DIR for each of several tasks on one backbone.",
        action="extend",
        reads=Reading(named=True),
    )
    task: str | None = flag(
        None,
        "The task; default: what the directories say that they were trained for.",
        name="task_name",
        convert=task_among(()),
    )
    host: str = flag("127.0.0.1", "Address to listen at. The default is reached from this machine only.")
    port: int = flag(8000, "Port to listen at; 0 takes a free one and says which.", least=0, most=65535)
    ratio: str = flag(AUTO, "Ratio to serve with: auto lets the load decide, a number (1, 2, 4 …) fixes it.")
    latency_target_ms: float | None = flag(
        None, f"With --ratio auto: 95 of 100 answers should take no longer (default {DEFAULT_TARGET_MS:g}).", above=0
    )
    max_length: int | None = flag(
        None,
        "Most tokens of a row; longer texts are cut as in training. Default: what the model was trained with.",
        name="max_seq_length",
        least=4,
    )
    max_batch: int = flag(32, "Most rows of a batch.", least=1)
    max_batch_tokens: int | None = flag(
        None,
        "Most padded tokens of a batch, so that no batch takes long, whatever the length of its rows; a single row may "
        f"have more. Default: {BATCH_TOKENS['cpu']}, on a GPU {BATCH_TOKENS['cuda']}.",
        least=1,
    )
    max_wait_ms: float = flag(2.0, "A batch that is not full waits so long for more rows.", least=0)
    queue_rows: int = flag(512, "Most rows that wait; requests beyond are refused with status 429.", least=1)
    max_rows: int = flag(64, "Most rows of a request.", least=1)
    max_chars: int = flag(20000, "Most characters of a text.", least=1)
    max_body_kb: int = flag(1024, "Largest request in units of 1024 bytes.", least=1)
    request_timeout_s: float = flag(
        60.0, "A request that is not answered within this time gets status 504, and its rows are not computed.", above=0
    )
    header_timeout_s: float = flag(10.0, "Time for the header of a request to come.", above=0)
    body_timeout_s: float = flag(
        30.0, "Time for the body of a request to come, and for a client to read its answer.", above=0
    )
    idle_timeout_s: float = flag(
        75.0, "A connection without a request is closed after this time; a load balancer's should be shorter.", above=0
    )
    max_connections: int | None = flag(
        None,
        "Most connections at once; more are refused with status 503. Default: 1000, or as many as the limit of open "
        "files (ulimit -n) has room for.",
        least=1,
    )
    allowed_hosts: list[str] = flag(
        [],
        "Names that the Host header of a request may have: *.example.org for all below example.org, * for any. "
        "Default: this machine's own (localhost, 127.0.0.1, ::1) and --host; with 0.0.0.0 or :: also every address in "
        "numbers.",
    )
    token_file: Path | None = flag(
        None,
        "File with a token that every request has to send (Authorization: Bearer TOKEN), but for /healthz.",
        reads=PLACE,
    )
    access_log: bool = flag(False, "Write one line for each request to standard error.")
    drain_seconds: float = flag(30.0, "Time to finish what waits when the server is told to end.", least=0)
    shutdown_delay_s: float = flag(
        0.0,
        "When told to end, fail health checks for so long before connections are refused, so that a load balancer "
        "stops sending requests first. A second signal ends this time.",
        least=0,
    )
    threads: int | None = flag(None, "CPU threads of the model; default: torch's choice.", least=1)
    tokenizer_threads: int = flag(
        2, "Threads that tokenise; long requests leave one of several to short ones.", least=1
    )
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
    """
    description = "Serve predictions over HTTP, with a compression ratio that follows the load."
    (given,) = parse((ServingArguments,), description, arguments, prog="python -m serving")
    assert isinstance(given, ServingArguments)
    problems = out_of_range([given])
    if given.model is None:
        problems.append("--model is required")
    if given.ratio != AUTO and not (given.ratio.isascii() and given.ratio.isdigit() and int(given.ratio) > 0):
        problems.append(f"--ratio is auto or a whole number of at least 1, found {given.ratio!r}")
    elif given.ratio != AUTO and given.latency_target_ms is not None:
        problems.append(f"--latency_target_ms has no effect with --ratio {given.ratio}, only with auto")
    problems += [
        f"--allowed_hosts: {name!r} is no name of a host, expected one without a port, *.example.org or *"
        for name in given.allowed_hosts
        if not is_host_pattern(name)
    ]
    if given.queue_rows < given.max_rows:
        problems.append(
            f"--queue_rows {given.queue_rows} is less than --max_rows {given.max_rows}: "
            "a request of that size would never be taken"
        )
    if problems:
        raise UserError("; ".join(problems) + ".")
    return given
