"""Checkpoints that are damaged: told, never deleted, and passed over by `--resume auto`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_engine import Bench, metrics_of, names, weights
from tests.tiny import Tiny, assert_same_tensors, run, tensors_under
from utils.arguments import RunArguments, parse
from utils.checksums import CHECKSUMS_FILE
from utils.engine import TrainerConfig
from utils.engine.checkpoint import checkpoint_path, list_checkpoints
from utils.engine.resume import problem_of
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrainerConfig(epochs=1, lr=0.1, save_step=2, keep_checkpoints=3)
LONGER = TrainerConfig(epochs=2, lr=0.1, save_step=2, keep_checkpoints=3)
FILES = ("trainer.json", "arguments.json", "model.safetensors", "optimizer.safetensors", "random.safetensors")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A run of 8 steps with checkpoints at 4, 6 and 8."""
    made = Bench(tmp_path / "run")
    made.trainer(CONFIG).fit()
    assert [path.name[-1] for path in list_checkpoints(made.path)] == ["4", "6", "8"]
    return made


def cut(path: Path) -> None:
    """Half of a file is gone."""
    os.truncate(path, path.stat().st_size // 2)


def other_version(path: Path) -> None:
    """The checkpoint says that another version of the toolkit has written it."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": 99}))


def without_position(path: Path) -> None:
    """The checkpoint is valid JSON without the position."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "progress"}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [((), False), (("--resume",), True), (("--resume", "auto"), "auto"), (("--resume=auto",), "auto")],
)
def test_the_flag(text: tuple[str, ...], expected: object) -> None:
    """Left out, alone, with its value; another value is refused."""
    assert parse([RunArguments], "", [*text, "--random-seed", "3"])[0].resume == expected
    with pytest.raises(UserError, match="--resume"):
        parse([RunArguments], "", ["--resume", "newest"])


@pytest.mark.parametrize("name", FILES)
def test_a_file_truncated_at_any_byte_is_found(bench: Bench, name: str) -> None:
    """Every length but the whole one. Without checksums only the newline at the end of a JSON file may be missing."""
    checkpoint = list_checkpoints(bench.path)[-1]
    path = checkpoint / name
    whole = path.read_bytes()
    assert problem_of(checkpoint) is None
    path.write_bytes(whole[:-1])
    assert problem_of(checkpoint) is not None
    (checkpoint / CHECKSUMS_FILE).unlink()
    needed = len(whole.rstrip(b"\n")) if path.suffix == ".json" else len(whole)
    lengths = range(needed) if needed < 2000 else [*range(0, needed, 97), *range(needed - 20, needed)]
    for length in lengths:
        path.write_bytes(whole[:length])
        problem = problem_of(checkpoint)
        assert problem is not None and name in problem, length
    path.unlink()
    assert (problem_of(checkpoint) is None) == (name == "arguments.json")  # which is not read again


@pytest.mark.parametrize(
    ("damage", "name", "told"),
    [
        (cut, "model.safetensors", r"model\.safetensors \(\d+ bytes\) is not a whole safetensors file"),
        (cut, "optimizer.safetensors", r"optimizer\.safetensors \(\d+ bytes\) is not a whole"),
        (cut, "random.safetensors", r"random\.safetensors \(\d+ bytes\) is not a whole"),
        (cut, "trainer.json", r"trainer\.json, line 1: not valid JSON"),
        (other_version, "trainer.json", r"trainer\.json has format version 99, this toolkit reads 2"),
        (without_position, "trainer.json", r"trainer\.json has no entry 'progress'"),
        (Path.unlink, "model.safetensors", r"no weight file .*model\.safetensors"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_newest_whole_checkpoint_is_offered_and_used(
    damage: Callable[[Path], Any], name: str, told: str, bench: Bench, tmp_path: Path
) -> None:
    """--resume names file and older checkpoint and changes nothing; auto goes on there and ends as an unhurt run."""
    newest, middle = checkpoint_path(bench.path, 8), checkpoint_path(bench.path, 6)
    damage(newest / name)
    cut(middle / "model.safetensors")
    there = {path: path.read_bytes() for path in (bench.path / "checkpoints").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=rf"{told}.*; .*step-00000004 is whole: --resume auto goes on there\.$"):
        bench.trainer(LONGER, resume=True)
    assert {path: path.read_bytes() for path in there} == there

    trainer = bench.trainer(LONGER, resume="auto")
    assert trainer.progress.step == 4
    for path, content in there.items():  # moved, not deleted
        step = path.parent.name
        moved = path.parent.with_name(step + ("" if step.endswith("4") else ".unusable")) / path.name
        assert moved.read_bytes() == content
    trainer.fit()
    fresh = Bench(tmp_path / "fresh")
    unhurt = fresh.trainer(LONGER)
    unhurt.fit()
    assert weights(trainer).equal(weights(unhurt))
    assert [row["step"] for row in metrics_of(bench.path, "valid")] == [8, 16]
    log = (bench.path / "log.log").read_text()
    assert "it is kept as" in log and "step-00000008.unusable" in log
    assert {"step-00000006.unusable", "step-00000008.unusable"} <= names(bench.path / "checkpoints")


def test_keeping_few_checkpoints_does_not_count_the_damaged(bench: Bench) -> None:
    """keep_checkpoints 1 keeps the newest whole one; one damaged twice gets a further name."""
    for _ in range(2):
        cut(list_checkpoints(bench.path)[-1] / "trainer.json")
        config = TrainerConfig(epochs=1, lr=0.1, save_step=2, keep_checkpoints=2)
        bench.trainer(config, resume="auto").fit()
    assert names(bench.path / "checkpoints") == {
        "step-00000006", "step-00000008", "step-00000008.unusable", "step-00000008.unusable.2"
    }  # fmt: skip


@pytest.mark.parametrize("resume", [True, "auto"])
def test_no_whole_checkpoint_at_all(bench: Bench, resume: Any) -> None:
    """Refused rather than begun anew over what is left of a run; everything stays."""
    for path in list_checkpoints(bench.path):
        cut(path / "trainer.json")
    before = names(bench.path / "checkpoints")
    with pytest.raises(UserError, match=r"step-00000008/trainer\.json, .*no older checkpoint .* is whole: --overwrite"):
        bench.trainer(LONGER, resume=resume)
    assert names(bench.path / "checkpoints") == before


def test_auto_begins_where_there_is_nothing(tiny: Tiny, tmp_path: Path) -> None:
    """The same command begins a run, goes on in it from a damaged checkpoint, and leaves a complete one alone."""
    arguments = tiny.sst2(tmp_path / "run", "--resume", "auto", "--save-step", 2)
    run(arguments)
    expected = tensors_under(tmp_path / "run" / "best")
    shutil.rmtree(tmp_path / "run" / "best")
    cut(list_checkpoints(tmp_path / "run")[-1] / "model.safetensors")
    run(arguments)
    assert_same_tensors(tensors_under(tmp_path / "run" / "best"), expected)
    run(arguments)
    assert_same_tensors(tensors_under(tmp_path / "run" / "best"), expected)
