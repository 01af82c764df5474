"""The toolkit's server beside mosec and LitServe: the same model, the same rows, the same machine, in turns.

    python -m benchmarks.serve_peers --model DIR --data_dir data/glue --json outputs/peers.json

mosec and LitServe are installed by pip into folders of their own (`--peers_dir`). One that does not install is left
out, and the table says so. All servers get the same limits: batch, wait, queue, threads, precision.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serve_load import Body, bodies_of, schedule
from benchmarks.serve_report import percentile
from utils.arguments import MODEL, PLACE, ToolParser
from utils.errors import UserError, run_as_script
from utils.measured import environment, machine
from utils.writing import write_json

#: Name in the table -> requirement of pip, module that serves.
PEERS: Mapping[str, tuple[str, str]] = {
    "mosec": ("mosec==0.9.8", "benchmarks.peers.mosec_server"),
    "LitServe": ("litserve==0.2.19", "benchmarks.peers.litserve_server"),
}
OURS = "this toolkit"
#: What every server is told, in the spelling of `python -m serving`.
LIMITS = {"max_seq_length": 64, "max_batch": 32, "max_wait_ms": 2, "queue_rows": 512, "request_timeout_s": 60}
_START_S, _WARM_S, _GIVE_UP_S = 120.0, 2.0, 2.0
_HEADER = {"content-type": "application/json"}


@dataclass(frozen=True)
class Address:
    """A server that answers."""

    url: str
    port: int
    process: int

    def memory_mib(self) -> float:
        """Resident memory of the process, as Linux tells it."""
        lines = Path(f"/proc/{self.process}/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def install(folder: Path) -> dict[str, Path]:
    """Name -> Python of every peer that pip could install, each in an environment on top of this one's packages.

    An environment that is complete is taken as it is.
    """
    found = {}
    for name, (requirement, _) in PEERS.items():
        target = folder / requirement.replace("==", "-")
        python = target / "bin" / "python"
        if not (target / "complete").is_file():
            print(f"installing {requirement} into {target}", flush=True)
            venv.create(target, with_pip=True, clear=True)
            (packages,) = target.glob("lib/python3*/site-packages")
            (packages / "toolkit.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
            if (
                subprocess.run([str(python), "-m", "pip", "install", "--quiet", requirement], check=False).returncode
                != 0
            ):
                print(f"warning: {requirement} could not be installed; {name} is left out", flush=True)
                continue
            (target / "complete").touch()
        found[name] = python
    return found


def commands(given: argparse.Namespace, peers: Mapping[str, Path]) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Name of a server -> its command without the port, and its environment."""
    flags = [word for name, value in LIMITS.items() for word in (f"--{name}", str(value))]
    flags += ["--model", given.model, "--threads", str(given.threads), "--precision", given.precision]
    base = {**os.environ, "OMP_NUM_THREADS": str(given.threads), "TOKENIZERS_PARALLELISM": "false"}
    ours = ["serving", *flags, "--task_name", given.task, "--ratio", "1"]
    found = {OURS: ([sys.executable, "-m", *ours], base)}
    for name, python in peers.items():
        found[name] = ([str(python), "-m", PEERS[name][1], *flags], {**base, "PYTHONPATH": str(Path.cwd())})
    return found


@contextmanager
def server(command: Sequence[str], environment: Mapping[str, str], body: Body) -> Iterator[Address]:
    """A server that has answered `body`, in a process group of its own, ended with all its processes.

    Raises:
        UserError: it does not answer in time; with the end of what it said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, whole = f"http://127.0.0.1:{port}", [*command, "--port", str(port)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(whole, env=dict(environment), stdout=log, stderr=log, start_new_session=True)
        try:
            end = time.monotonic() + _START_S
            while not _answers(url, body):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise UserError(f"The server does not answer: {' '.join(whole)}\n{log.read()[-2000:]}")
                time.sleep(0.2)
            yield Address(url, port, process.pid)
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(15)


def _answers(url: str, body: Body) -> bool:
    try:
        response = httpx.post(f"{url}/v1/predict", content=body.content, headers=_HEADER, timeout=30, trust_env=False)
    except httpx.HTTPError:
        return False
    return response.status_code == 200


async def closed_loop(
    url: str, bodies: Sequence[Body], clients: int, seconds: float, most: int | None = None
) -> tuple[float, list[float]]:
    """Requests per second and latencies (ms) of clients that each ask again as soon as they are answered.

    Every client has a connection of its own.

    Raises:
        UserError: an answer that is none.
    """
    latencies: list[float] = []
    begin = time.perf_counter()

    async def ask(number: int) -> None:
        at = number
        async with _client(url) as one:
            while time.perf_counter() < begin + seconds and (most is None or len(latencies) < most):
                sent = time.perf_counter()
                response = await one.post("/v1/predict", content=bodies[at % len(bodies)].content, headers=_HEADER)
                if response.status_code != 200:
                    raise UserError(f"{url} answered with status {response.status_code}: {response.text[:200]}")
                latencies.append((time.perf_counter() - sent) * 1e3)
                at += clients

    await asyncio.gather(*(ask(number) for number in range(clients)))
    return len(latencies) / (time.perf_counter() - begin), latencies


async def overload(url: str, bodies: Sequence[Body], per_second: float, seconds: float) -> dict[str, float]:
    """Requests that come whether or not others are answered, of clients that give up after two seconds.

    Returns:
        `asked`, `in_time` (answered within two seconds), `refused` (429 or 503 at once), and `after_ms`: how long one
        request takes a second after the last of them.
    """
    begin = time.perf_counter()
    plan = schedule([1.0], seconds, per_second, seed=1)

    async def ask(number: int, due: float) -> int:
        await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        async with _client(url) as one:
            try:
                request = one.post("/v1/predict", content=bodies[number % len(bodies)].content, headers=_HEADER)
                return (await asyncio.wait_for(request, _GIVE_UP_S)).status_code
            except (TimeoutError, httpx.HTTPError):
                return 0

    statuses = await asyncio.gather(*(ask(number, due) for number, (due, _) in enumerate(plan)))
    await asyncio.sleep(1)
    async with _client(url) as one:
        sent = time.perf_counter()
        await one.post("/v1/predict", content=bodies[0].content, headers=_HEADER)
    return {
        "asked": len(statuses),
        "in_time": statuses.count(200),
        "refused": statuses.count(429) + statuses.count(503),
        "after_ms": (time.perf_counter() - sent) * 1e3,
    }


async def beside(
    disturb: Callable[[], Awaitable[None]], address: Address, bodies: Sequence[Body], seconds: float
) -> Any:
    """What eight ordinary clients get while `disturb` runs."""
    task = asyncio.ensure_future(disturb())
    try:
        return await closed_loop(address.url, bodies, 8, seconds)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def slow_clients(port: int, number: int = 200) -> None:
    """Connections that send one byte of a header each second."""

    async def one() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for letter in b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 1000:
                writer.write(bytes([letter]))
                await writer.drain()
                await asyncio.sleep(1)
        finally:
            writer.close()

    await asyncio.gather(*(one() for _ in range(number)), return_exceptions=True)


async def abandoning_clients(port: int, body: Body, per_second: float = 20.0) -> None:
    """Requests whose client closes the connection 10 ms after it has sent them."""
    head = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    while True:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{head}{len(body.content)}\r\n\r\n".encode() + body.content)
        await asyncio.sleep(0.01)
        writer.close()
        await asyncio.sleep(1 / per_second)


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=120, trust_env=False, verify=_context())


@cache
def _context() -> ssl.SSLContext:
    """One for all clients, which would otherwise each read the machine's certificates."""
    return ssl.create_default_context()


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All rounds of all servers; `rates` and `latencies` by server and number of clients."""
    peers = install(given.peers_dir)
    bodies = bodies_of(given.data, given.task, 1, given.seed)
    servers = commands(given, peers)
    found: dict[str, Any] = {name: {"rates": {}, "latencies": {}, "overload": {}, "beside": {}} for name in servers}
    for turn in range(given.rounds):
        for name, (command, environ) in servers.items():
            with server(command, environ, bodies[0]) as address:
                asyncio.run(closed_loop(address.url, bodies, 8, _WARM_S))
                for clients in given.clients:
                    rate, latencies = asyncio.run(closed_loop(address.url, bodies, clients, given.seconds))
                    found[name]["rates"].setdefault(str(clients), []).append(rate)
                    found[name]["latencies"].setdefault(str(clients), []).extend(latencies)
                    print(f"round {turn + 1}, {name}, {clients} clients: {rate:.1f} requests/s", flush=True)
                if turn == 0:
                    _misuse(given, address, bodies, found[name])
    command, environ = servers[OURS]
    with server(command, environ, bodies[0]) as address:
        found[OURS]["memory_mib"] = _growth(address, bodies, given.requests)
    missing = [name for name in PEERS if name not in peers]
    flags = {name: value for name, value in vars(given).items() if not isinstance(value, Path)}
    return {"machine": machine(), "servers": found, "missing": missing, "flags": flags, "environment": environment()}


def _misuse(given: argparse.Namespace, address: Address, bodies: Sequence[Body], found: dict[str, Any]) -> None:
    capacity = max(statistics.median(rates) for rates in found["rates"].values())
    for factor in given.overload:
        found["overload"][f"{factor:g}"] = asyncio.run(
            overload(address.url, bodies, factor * capacity, given.overload_seconds)
        )
    disturbances: dict[str, Callable[[], Awaitable[None]]] = {
        "nothing": lambda: asyncio.sleep(0),
        "200 slow connections": lambda: slow_clients(address.port),
        "20 abandoned requests/s": lambda: abandoning_clients(address.port, bodies[0]),
    }
    for name, disturb in disturbances.items():
        rate, latencies = asyncio.run(beside(disturb, address, bodies, given.seconds))
        found["beside"][name] = {"rate": rate, "p95_ms": percentile(latencies, 0.95)}


def _growth(address: Address, bodies: Sequence[Body], requests: int) -> dict[str, float]:
    """Requests answered -> memory, at the first sixth and at the end."""
    found, done = {}, 0
    for most in (requests // 6, requests):
        _, latencies = asyncio.run(closed_loop(address.url, bodies, 64, float("inf"), most - done))
        done += len(latencies)
        found[str(done)] = address.memory_mib()
    return found


def tables(measured: Mapping[str, Any]) -> list[str]:
    """Markdown of everything."""
    flags, servers = measured["flags"], measured["servers"]
    limits = ", ".join(f"{name} {value}" for name, value in LIMITS.items())
    lines = [
        "| clients | server | requests/s | least to most | p50 ms | p95 ms | p99 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for clients in map(str, flags["clients"]):
        for name, one in servers.items():
            rates, latencies = one["rates"][clients], one["latencies"][clients]
            times = " | ".join(f"{percentile(latencies, share):.0f}" for share in (0.5, 0.95, 0.99))
            spread = f"{min(rates):.1f} to {max(rates):.1f}"
            lines.append(f"| {clients} | {name} | {statistics.median(rates):.1f} | {spread} | {times} |")
    lines += [
        "",
        f"One row of {flags['task']} in each request; {flags['rounds']} rounds of {flags['seconds']:g} s, the servers "
        f"in turns, medians of the rounds. {flags['threads']} thread(s) of the model, {flags['precision']}, "
        f"torch {measured['environment']['versions']['torch']}, shared with the clients: "
        f"{measured['machine']}. Limits of all servers: {limits}."
        + "".join(f" {name} could not be installed." for name in measured["missing"]),
        "",
        "Clients that give up after two seconds, at a multiple of what the server can do:",
        "",
        "| load | server | asked | answered in time | refused at once | one request afterwards, ms |",
        "|---|---|---|---|---|---|",
    ]
    for factor in (f"{factor:g}" for factor in flags["overload"]):
        for name, one in servers.items():
            row = one["overload"][factor]
            shown = f"{row['asked']} | {row['in_time']} | {row['refused']} | {row['after_ms']:.0f}"
            lines.append(f"| {factor} times | {name} | {shown} |")
    lines += ["", "Eight ordinary clients beside others:", ""]
    lines += ["| beside them | server | requests/s | p95 ms |", "|---|---|---|---|"]
    for kind in servers[OURS]["beside"]:
        for name, one in servers.items():
            lines.append(
                f"| {kind} | {name} | {one['beside'][kind]['rate']:.1f} | {one['beside'][kind]['p95_ms']:.0f} |"
            )
    grown = [f"{memory:.0f} MiB after {int(count):,} requests" for count, memory in servers[OURS]["memory_mib"].items()]
    return [*lines, "", f"Memory of the toolkit's server with 64 clients: {', '.join(grown)}."]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = ToolParser(
        prog="python -m benchmarks.serve_peers",
        description="The toolkit's server beside mosec and LitServe, with the same model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument(
        "--model", required=True, reads=MODEL, help="directory of a fine-tuned BERT that plain Transformers can open"
    )
    made.add_argument("--data_dir", dest="data", required=True, reads=PLACE, help="folder of the GLUE data")
    made.add_argument("--task_name", dest="task", default="sst2", help="whose validation rows are sent")
    made.add_argument("--peers_dir", type=Path, default=Path("outputs/peers"), help="where the others are installed")
    made.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64, 256], help="clients at once")
    made.add_argument("--rounds", type=int, least=1, default=3, help="turns of each server")
    made.add_argument("--seconds", type=float, default=6.0, help="for each number of clients")
    made.add_argument("--overload", type=float, nargs="+", default=[1.8, 6.0], help="multiples of a server's capacity")
    made.add_argument("--overload_seconds", type=float, default=10.0, help="of each overload")
    made.add_argument("--requests", type=int, least=6, default=24000, help="of the check for growing memory")
    made.add_argument("--threads", type=int, least=1, default=1, help="of the model, in all servers")
    made.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the model, in all servers")
    made.add_argument("--seed", type=int, least=0, default=1, help="order of the rows")
    made.add_argument("--json", type=Path, help="write all that was measured to this file")
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write where asked."""
    given = parse(arguments)
    measured = measure(given)
    print("\n".join(tables(measured)))
    if given.json is not None:
        write_json(given.json, measured)
        print(f"made: {given.json}")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
