"""The page that compares engines: which run, what is read from a run, and the table made of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import engines
from benchmarks.arguments import parse_engines
from benchmarks.engines import TRAININGS, Curve, available, command_of, curve_of, difference, draw, page_lines
from utils import installation
from utils.errors import UserError

CURVES = [
    Curve(engine, training, [2.0, 1.0, 0.5 + shift], 10.0)
    for training in TRAININGS
    for engine, shift in (("ddp", 0.0), ("bmtrain", 0.001))
]


@pytest.fixture(autouse=True)
def no_bmtrain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on most machines."""
    monkeypatch.setattr(installation, "has_cuda", lambda: False)
    monkeypatch.setitem(sys.modules, "bmtrain", None)


def test_engines_that_cannot_run_say_why() -> None:
    """One process is DDP's; two are FSDP's too; BMTrain is missing."""
    assert available(2)[0] == ["ddp", "fsdp"]
    names, reasons = available(1)
    assert names == ["ddp"] and [reason.split(":")[0] for reason in reasons] == ["fsdp", "bmtrain"]


def test_an_engine_that_was_asked_for_must_run() -> None:
    """Before anything is made."""
    with pytest.raises(UserError, match=r"^--engines bmtrain: --engine bmtrain needs an NVIDIA GPU"):
        engines.measure(parse_engines(["--engines", "ddp", "bmtrain"]))
    with pytest.raises(UserError, match=r"^--steps must be at least 2 and --batch_size a multiple of --processes"):
        engines.measure(parse_engines(["--processes", "3"]))


def test_commands_have_the_same_rows_per_step() -> None:
    """Whatever the number of processes."""
    one = command_of("ddp", "all weights", parse_engines([]), Path("out"))
    two = command_of("fsdp", "all weights", parse_engines(["--processes", "2"]), Path("out"))
    assert one[0] == "train_t5.py" and one[one.index("--train_batch_size") + 1] == "32"
    assert "torch.distributed.run" in two and two[two.index("--train_batch_size") + 1] == "16"


def test_a_run_is_read(tmp_path: Path) -> None:
    """Losses by step; the time of a step without those that warm up."""
    rows = [
        {"split": "train", "step": n + 1, "loss": 3.0 - n, "tokens_per_second": 500 if n < 5 else 1000}
        for n in range(8)
    ]
    lines = [json.dumps(row) for row in [*rows, {"split": "valid", "step": 8, "accuracy": 0.5}]]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    (tmp_path / "result.json").write_text(json.dumps({"tokens": 800}))
    curve = curve_of("ddp", "all weights", tmp_path)
    assert list(curve.losses) == [3.0 - n for n in range(8)] and curve.step_ms == pytest.approx(100.0)


def test_the_table_tells_the_largest_difference(tmp_path: Path) -> None:
    """Of each engine from the first one, and what was not run."""
    assert difference(CURVES[1], CURVES[0]) == pytest.approx(0.002)
    lines = page_lines(CURVES, ["fsdp: no"], parse_engines([]))
    assert lines[2] == "| all weights | ddp | 2.0000 | 1.0000 | 0.5000 |  | 10.0 |"
    assert lines[3] == "| all weights | bmtrain | 2.0000 | 1.0000 | 0.5010 | 2.0e-03 | 10.0 |"
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") and lines[-1] == "\nNot run: fsdp: no"
    draw(CURVES, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
