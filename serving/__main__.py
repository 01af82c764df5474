"""Serves a saved model over HTTP; the compression ratio follows the load: docs/serving.md.

python -m serving --help
python -m serving --model checkpoints/sst2/best --plugins checkpoints/sst2-mux/best --port 8000
python -m serving --model checkpoints/t5/best --plugins sst2=checkpoints/sst2-mux/best mrpc=checkpoints/mrpc-mux/best
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from serving.arguments import BATCH_TOKENS, ServingArguments, parse_arguments

if __name__ == "__main__":
    from utils.startup import begin

    begin(parse_arguments)  # before the libraries load

import torch

from serving.access import AllowedHosts, read_token
from serving.app import AppSettings, create_app
from serving.connections import ConnectionLimits, room_for_connections
from serving.controller import ControllerSettings, RatioController, worthwhile
from serving.engine import Engine, EngineSettings
from serving.guard import GuardSettings, write_access_log
from serving.loading import load_predictor
from serving.metrics import Metrics
from serving.predictor import Predictor
from serving.server import ServerSettings, bind, run
from utils.errors import UserError, run_as_script
from utils.hints import next_lines
from utils.tool_steps import request_to

#: The model's thread needs a moment to end, even when nothing is left to do.
_THREAD_END_S = 1.0


def build_engine(arguments: ServingArguments, predictor: Predictor, metrics: Metrics) -> Engine:
    """The engine with the controller that the flags ask for; measures the model's speed at every ratio.

    Raises:
        UserError: the model has no such ratio.
    """
    fixed = arguments.fixed_ratio
    if fixed is not None and fixed not in predictor.ratios:
        raise UserError(f"--ratio {fixed}: the model has the ratios {', '.join(map(str, predictor.ratios))}.")
    seconds = predictor.seconds_per_token()
    print("speed: " + ", ".join(f"k={k} {1 / s:,.0f} tokens/s" for k, s in seconds.items()), flush=True)
    chosen = worthwhile(seconds) if fixed is None else {fixed: seconds[fixed]}
    if fixed is None and (slow := [f"k={ratio}" for ratio in seconds if ratio not in chosen]):
        print(f"left out, as no faster here than a smaller ratio: {', '.join(slow)} (--ratio serves one all the same)")
    settings = EngineSettings(
        queue_rows=arguments.queue_rows,
        max_batch=arguments.max_batch,
        max_wait_s=arguments.max_wait_ms / 1e3,
        threads=arguments.threads,
        max_batch_tokens=arguments.max_batch_tokens or BATCH_TOKENS[predictor.device.type],
        request_timeout_s=arguments.request_timeout_s,
    )
    return Engine(predictor, RatioController(ControllerSettings(arguments.target_ms), chosen), settings, metrics)


def main(given: Sequence[str] | None = None) -> None:
    """Load, measure, listen, answer, and finish what waits when told to end."""
    arguments = parse_arguments(given)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    app_settings, server_settings = _app_settings(arguments), _server_settings(arguments)
    bound = bind(arguments.host, arguments.port)  # a taken port is told before the model is loaded
    print(f"loading {arguments.model}", flush=True)
    predictor, metrics = load_predictor(arguments), Metrics()
    predictor.check()
    _announce(arguments, predictor)
    engine = build_engine(arguments, predictor, metrics)
    app = create_app(engine, metrics, app_settings)
    engine.start()
    host, port = bound.getsockname()[:2]
    print(f"listening on {host} port {port}; SIGTERM or Ctrl-C ends, /v1/model tells what is served", flush=True)
    print(next_lines([request_to(host, port, *_first(predictor), arguments.token_file)]), flush=True)
    left_s = 0.0
    try:
        left_s = run(app, bound, server_settings, engine)
    finally:
        done = engine.stop(max(left_s, _THREAD_END_S))
    if engine.is_broken:
        raise UserError("the model's thread ended by the error above: nothing could be answered any more.")
    if not done:
        raise UserError(f"--drain_seconds {arguments.drain_seconds:g} was not enough to finish what waited.")
    print("ended: every request that was taken is answered", flush=True)


def _first(predictor: Predictor) -> tuple[str, tuple[str, ...]]:
    """A task that is served, and its columns."""
    name, served = next(iter(predictor.tasks.items()))
    return name, served.task.columns


def _app_settings(arguments: ServingArguments) -> AppSettings:
    token = None
    if arguments.token_file is not None:
        token, open_to_all = read_token(arguments.token_file)
        if open_to_all:
            print(
                f"warning: --token_file {arguments.token_file} can be read by everyone here: chmod 600 it.",
                file=sys.stderr,
            )
    if arguments.access_log:
        write_access_log(sys.stderr)
    return AppSettings(
        max_rows=arguments.max_rows,
        max_chars=arguments.max_chars,
        latency_target_ms=None if arguments.fixed_ratio is not None else arguments.target_ms,
        tokenizer_threads=arguments.tokenizer_threads,
        guard=GuardSettings(
            max_body_bytes=arguments.max_body_kb << 10,
            body_s=arguments.body_timeout_s,
            hosts=AllowedHosts.of(arguments.allowed_hosts, arguments.host),
            token=token,
            access_log=arguments.access_log,
        ),
    )


def _server_settings(arguments: ServingArguments) -> ServerSettings:
    most, backlog = room_for_connections(arguments.max_connections)
    limits = ConnectionLimits(
        most, backlog, arguments.header_timeout_s, arguments.body_timeout_s, arguments.idle_timeout_s
    )
    return ServerSettings(limits, arguments.drain_seconds, arguments.shutdown_delay_s)


def _announce(arguments: ServingArguments, predictor: Predictor) -> None:
    edits = " + ".join(edit["kind"] for edit in predictor.edits()) or "none"
    for name, served in predictor.tasks.items():
        print(f"{name}: columns {', '.join(served.task.columns)}; ratios {', '.join(map(str, predictor.ratios))}")
    print(f"edits: {edits}; {predictor.choice.precision} on {predictor.device}")
    print("\n".join(predictor.choice.lines), flush=True)
    if arguments.latency_target_ms is not None and len(predictor.ratios) == 1:
        print("warning: --latency_target_ms has no effect: the model has ratio 1 only.", file=sys.stderr)


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv, waits=True)
