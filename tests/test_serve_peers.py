"""The comparison with other servers: equal limits, every request counted, and peers that are missing are told."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification

from benchmarks import serve_peers
from benchmarks.peers.classifier import Classifier
from benchmarks.serve_load import Body
from benchmarks.serve_peers import LIMITS, OURS, PEERS, closed_loop, commands, install, overload, parse, server, tables
from tests.tiny_bert import save_bert
from utils.errors import UserError

#: A server with Python's own library: it answers 200 to each second request, and 429 to the others with --refuse.
SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen = 0
    def log_message(self, *words): pass
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        Handler.seen += 1
        self.send_response(429 if "--refuse" in sys.argv and Handler.seen % 2 == 0 else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
if "--broken" in sys.argv:
    sys.exit("no model here")
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
BODY = Body(b'{"rows": [{"sentence": "good"}]}', ("positive",))


def own(*flags: str) -> list[str]:
    return [sys.executable, "-c", SERVER, *flags]


def test_a_closed_loop_counts_what_was_answered_and_stops_at_the_most() -> None:
    """As many latencies as requests; a refusal is no answer."""
    with server(own(), {}, BODY) as address:
        rate, latencies = asyncio.run(closed_loop(address.url, [BODY], 3, 60.0, most=9))
        assert 9 <= len(latencies) <= 11 and rate > 0  # those under way are finished
        assert address.memory_mib() > 1
    with server(own("--refuse"), {}, BODY) as address, pytest.raises(UserError, match="status 429"):
        asyncio.run(closed_loop(address.url, [BODY], 1, 60.0, most=9))


def test_overload_tells_answered_from_refused() -> None:
    """Nothing is counted twice, nothing is lost."""
    with server(own("--refuse"), {}, BODY) as address:
        found = asyncio.run(overload(address.url, [BODY], 40.0, 0.5))
    assert found["asked"] == found["in_time"] + found["refused"] > 4 and found["refused"] > 1


def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(UserError, match="no model here"), server(own("--broken"), {}, BODY):
        pass


def test_all_servers_are_told_the_same_limits() -> None:
    given = parse(["--model", "m", "--data_dir", "d", "--threads", "2", "--precision", "bf16"])
    found = commands(given, {name: Path(name) / "python" for name in PEERS})
    assert set(found) == {OURS, *PEERS}
    for command, environment in found.values():
        for name, value in {**LIMITS, "threads": 2, "precision": "bf16", "model": "m"}.items():
            assert command[command.index(f"--{name}") + 1] == str(value)
        assert environment["OMP_NUM_THREADS"] == "2"


def test_a_peer_that_does_not_install_is_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are measured; what is complete is not installed again."""
    kept = tmp_path / "mosec-0.9.8"
    kept.mkdir()
    (kept / "complete").touch()
    monkeypatch.setattr(
        serve_peers.venv, "create", lambda target, **_: (target / "lib/python3/site-packages").mkdir(0o777, True)
    )
    monkeypatch.setattr(serve_peers.subprocess, "run", lambda *_, **__: type("Failed", (), {"returncode": 1}))
    assert list(install(tmp_path)) == ["mosec"]
    assert "LitServe could not be installed" in "\n".join(tables(measured(missing=["LitServe"])))


def measured(missing: list[str]) -> dict[str, Any]:
    one = {
        "rates": {"1": [2.0, 4.0, 3.0]},
        "latencies": {"1": [10.0, 20.0]},
        "overload": {"6": {"asked": 9, "in_time": 5, "refused": 3, "after_ms": 7.0}},
        "beside": {"nothing": {"rate": 8.0, "p95_ms": 9.0}},
        "memory_mib": {"100": 500.0, "600": 501.0},
    }
    flags = {"clients": [1], "overload": [6.0], "task": "sst2", "rounds": 3, "seconds": 1.0, "threads": 1}
    common = {"machine": "here", "environment": {"versions": {"torch": "2"}}, "missing": missing}
    return {"servers": {OURS: one}, "flags": {**flags, "precision": "fp32"}, **common}


def test_the_tables_hold_medians_and_spread() -> None:
    lines = tables(measured(missing=[]))
    assert f"| 1 | {OURS} | 3.0 | 2.0 to 4.0 | 10 | 20 | 20 |" in lines
    assert f"| 6 times | {OURS} | 9 | 5 | 3 | 7 |" in lines
    assert lines[-1].endswith("500 MiB after 100 requests, 501 MiB after 600 requests.")


def test_the_peers_classifier_answers_row_by_row(tmp_path: Path) -> None:
    """A batch of several requests gives each its own rows, with names and probabilities."""
    folder = save_bert(tmp_path / "model")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    AutoModelForSequenceClassification.from_config(config, trust_remote_code=False).save_pretrained(folder)
    one, two = Classifier(str(folder), 1, "fp32", 16).predict(
        [{"rows": [{"sentence": "a"}]}, {"rows": [{"sentence": "b c"}, {"sentence": "a"}]}]
    )
    assert [len(one["predictions"]), len(two["predictions"])] == [1, 2]
    for row in (*one["predictions"], *two["predictions"]):
        assert sum(row["scores"].values()) == pytest.approx(1) and row["label"] == max(
            row["scores"], key=row["scores"].get
        )
