"""The server under a load in steps: at a fixed ratio of 1, and with the ratio that follows the load.

python -m benchmarks.serve_load --model DIR --data_dir data/glue --page docs/results/serving.md

Both servers run on this machine, one after the other, and get the same requests at the same moments, whether or not
earlier ones are answered (open loop). The steps are shares of what the fixed server can do, which is measured first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from benchmarks.arguments import parse_serve_load
from benchmarks.serve_report import table, write_plot
from dataset.glue import read_glue
from dataset.tasks import get_task
from utils.errors import UserError, run_as_script
from utils.measured import environment
from utils.outputs import check_file, json_with
from utils.pages import write_measured
from utils.writing import to_json, write_json

#: Requests under way while the fixed server's capacity is measured, and for how long.
_CLIENTS, _CAPACITY_S = 24, 8.0
_ALONE = 15


@dataclass(frozen=True)
class Body:
    """A request: its JSON, and the right labels of its rows."""

    content: bytes
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """What became of a request: latency from the moment it was due, and the rows that were right, if answered."""

    step: int
    due_s: float
    latency_ms: float
    status: int
    rows: int
    right: int
    ratio: int


def bodies_of(data: str, task_name: str, rows_per_request: int, seed: int) -> list[Body]:
    """All validation rows of the task, in a random order, cut into requests.

    Raises:
        DataError: they are not there.
    """
    task = get_task(task_name)
    examples = [example for example in read_glue(task, data, "valid") if example.label is not None]
    random.Random(seed).shuffle(examples)
    bodies = []
    for begin in range(0, len(examples) - rows_per_request + 1, rows_per_request):
        part = examples[begin : begin + rows_per_request]
        rows = [dict(zip(task.columns, example.texts, strict=True)) for example in part]
        content = to_json({"task": task.name, "rows": rows}).encode()
        bodies.append(Body(content, tuple(task.labels[int(example.label or 0)] for example in part)))
    return bodies


def schedule(steps: Sequence[float], seconds: float, per_second: float, seed: int) -> list[tuple[float, int]]:
    """(seconds from the beginning, step) of every request: Poisson arrivals at each step's share of `per_second`."""
    rng, found = random.Random(seed), []
    for step, share in enumerate(steps):
        now = step * seconds + rng.expovariate(share * per_second)
        while now < (step + 1) * seconds:
            found.append((now, step))
            now += rng.expovariate(share * per_second)
    return found


@contextmanager
def server(given: argparse.Namespace, *more: str) -> Iterator[str]:
    """The address of a server in a process of its own, ended by SIGTERM.

    Raises:
        UserError: it does not start, or does not end with exit code 0.
    """
    command = [sys.executable, "-m", "serving", "--model", given.model, "--task_name", given.task, "--port", "0", *more]
    command += ["--threads", str(given.threads), "--queue_rows", str(given.queue_rows)]
    command += ["--plugins", *given.plugins] if given.plugins else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("listening on ")), None)
            if line is None:
                raise UserError(f"The server did not start: {' '.join(command)}")
            port = int(line.split(" port ")[1].split(";")[0])
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
            if process.wait(60) != 0:
                raise UserError(f"The server ended with exit code {process.returncode}.")
        finally:
            process.kill()


def client(address: str) -> httpx.AsyncClient:
    """A client without a limit of connections, as an open loop needs it, and without the environment's proxies."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    return httpx.AsyncClient(base_url=address, limits=limits, timeout=120, trust_env=False)


async def _post(one: httpx.AsyncClient, body: Body) -> httpx.Response:
    return await one.post("/v1/predict", content=body.content, headers={"content-type": "application/json"})


async def capacity(address: str, bodies: Sequence[Body], seconds: float = _CAPACITY_S) -> tuple[float, float]:
    """Requests per second with many under way, and the median latency of one alone, in milliseconds."""
    async with client(address) as one:
        alone = []
        for body in bodies[:_ALONE]:
            begin = time.perf_counter()
            (await _post(one, body)).raise_for_status()
            alone.append((time.perf_counter() - begin) * 1e3)
        begin, done = time.perf_counter(), 0

        async def ask(first: int) -> None:
            nonlocal done
            at = first
            while time.perf_counter() < begin + seconds:
                (await _post(one, bodies[at % len(bodies)])).raise_for_status()
                done, at = done + 1, at + _CLIENTS

        await asyncio.gather(*(ask(first) for first in range(_CLIENTS)))
        return done / (time.perf_counter() - begin), statistics.median(alone)


async def load(address: str, bodies: Sequence[Body], plan: Sequence[tuple[float, int]]) -> list[Sample]:
    """Send every request when it is due."""
    async with client(address) as one:
        begin = time.perf_counter()

        async def ask(number: int, due: float, step: int) -> Sample:
            body = bodies[number % len(bodies)]
            response = await _post(one, body)
            latency_ms = (time.perf_counter() - begin - due) * 1e3
            rows = response.json()["predictions"] if response.status_code == 200 else []
            right = sum(row["label"] == label for row, label in zip(rows, body.labels, strict=False))
            return Sample(
                step,
                due,
                latency_ms,
                response.status_code,
                len(rows),
                right,
                max((r["ratio"] for r in rows), default=0),
            )

        tasks = []
        for number, (due, step) in enumerate(plan):
            await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
            tasks.append(asyncio.ensure_future(ask(number, due, step)))
        return list(await asyncio.gather(*tasks))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run both servers, and give all that was measured."""
    bodies = bodies_of(given.data, given.task, given.rows_per_request, given.seed)
    with server(given, "--ratio", "1") as address:
        per_second, alone_ms = asyncio.run(capacity(address, bodies))
        target_ms = given.latency_target_ms or given.target_factor * alone_ms
        print(
            f"fixed server: {per_second:.1f} requests/s of {given.rows_per_request} rows, {alone_ms:.1f} ms alone; "
            f"latency target {target_ms:.0f} ms",
            flush=True,
        )
        plan = schedule(given.steps, given.step_seconds, per_second, given.seed)
        samples = {"fixed": asyncio.run(load(address, bodies, plan))}
    with server(given, "--latency_target_ms", f"{target_ms:.3f}") as address:
        samples["dynamic"] = asyncio.run(load(address, bodies, plan))
    return {
        "steps": given.steps,
        "step_seconds": given.step_seconds,
        "capacity_per_s": per_second,
        "alone_ms": alone_ms,
        "target_ms": target_ms,
        "rows_per_request": given.rows_per_request,
        "threads": given.threads,
        "torch": environment()["versions"]["torch"],
        "samples": {name: [asdict(sample) for sample in found] for name, found in samples.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write where asked."""
    given = parse_serve_load(arguments)
    if given.json is not None:
        check_file("--json", given.json, json_with("capacity_per_s"))
    measured = measure(given)
    lines = table(measured)
    print("\n".join(lines))
    if given.json is not None:
        write_json(given.json, measured)
        print(f"made: {given.json}")
    if given.page is not None:
        plot = given.page.with_suffix(".png")
        write_plot(measured, plot)
        write_measured(given.page, [*lines, "", f"![latency, ratio and load over time]({plot.name})"])
        print(f"made: {given.page}, {plot}")


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
