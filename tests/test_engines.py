"""What the engines promise beside equality: checkpoints that any of them continues, shares of parameters, messages."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from torch import nn

from tests.helpers_engines import assert_close
from tests.helpers_ranks import SCRIPTS, count_bytes, divide_and_measure, run_ranks, run_several
from tests.tiny import Tiny, rows_of, tensors_under, write_sst2
from utils.engine.engines import copy_of

pytestmark = pytest.mark.usefixtures("one_thread")

#: Name, engine, number of processes, further flags.
Part = tuple[str, str, int, tuple[object, ...]]
#: Engine and number of processes of the first part and of the second; half of them with either optimizer.
CHANGES = {
    "one-to-fsdp": (("ddp", 1), ("fsdp", 2)),
    "fsdp-to-one": (("fsdp", 2), ("ddp", 1)),
    "ddp-to-fsdp": (("ddp", 2), ("fsdp", 2)),
    "fsdp-to-ddp": (("fsdp", 2), ("ddp", 2)),
}


class Parts:
    """A run in two parts; all that need two processes are made by the same pair."""

    def __init__(self, tiny: Tiny, root: Path) -> None:
        self.tiny, self.root = tiny, root
        write_sst2(root / "glue", train=27, valid=11)
        firsts: list[Part] = [(name, *first, ("--training-step", 3)) for name, (first, _) in CHANGES.items()]
        seconds: list[Part] = [(name, *second, ("--resume",)) for name, (_, second) in CHANGES.items()]
        for part in ([p for p in firsts if p[2] == 1], [p for p in (*firsts, *seconds) if p[2] == 2]):
            self._run(part)
        self._run([p for p in seconds if p[2] == 1])
        self._run([(name, "ddp", 1, ()) for name in ("one-adamw", "one-bertadam")])

    def _run(self, parts: list[Part]) -> None:
        lines = [self._line(*part) for part in parts]
        if parts[0][2] == 1:
            for line in lines:
                script, *arguments = shlex.split(line)
                SCRIPTS[script](arguments)
        else:
            ended = run_ranks(lines, self.root / "output", script=run_several)
            assert ended.codes == [0, 0], ended.errors

    def _line(self, name: str, engine: str, processes: int, more: tuple[object, ...]) -> str:
        fixed = ("--data-path", self.root / "glue", "--batch-size", 4 // processes, "--engine", engine)
        loop = ("--optimizer", optimizer_of(name), "--epochs", 1, "--save-step", 3, "--valid-step", 100)
        return shlex.join(map(str, ["train_t5", *self.tiny.sst2(self.root / name, *loop, *more, *fixed)]))


def optimizer_of(name: str) -> str:
    """By the name of a run."""
    return "adamw" if name in ("one-adamw", "one-to-fsdp", "fsdp-to-ddp") else "bertadam"


@pytest.fixture(scope="module")
def parts(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tiny, tmp_path_factory.mktemp("parts"))


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_goes_on_under_another_engine(change: str, parts: Parts) -> None:
    """Parameters and the optimizer's state: the steps behind it are those of a run of one process."""
    rows = [row for row in rows_of(parts.root / change) if (row["split"], row["step"]) != ("valid", 3)]
    for found, wanted in zip(rows, rows_of(parts.root / f"one-{optimizer_of(change)}"), strict=True):
        assert_close(found, wanted)
    assert len(rows) > 5


@pytest.mark.slow
def test_files_are_those_of_one_process(parts: Parts) -> None:
    """Names and shapes of weights and of the optimizer's state, in checkpoints and best models."""
    one, fsdp = (
        {name: t.shape for name, t in tensors_under(parts.root / n).items()} for n in ("one-adamw", "one-to-fsdp")
    )
    last = max(name.split("/")[1] for name in one if name.startswith("checkpoints/"))
    chosen = {name: shape for name, shape in one.items() if f"checkpoints/{last}/" in name or name.startswith("best")}
    chosen = {name: shape for name, shape in chosen.items() if "random" not in name}
    assert len(chosen) > 50 and {name: fsdp[name] for name in chosen} == chosen


def messages(tiny: Tiny, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: object) -> dict[str, int]:
    """Bytes of the third step's messages, by kind."""
    monkeypatch.chdir(folder)
    arguments = tiny.sst2(folder / "run", "--batch-size", 2, "--training-step", 3, "--valid-step", 100, *more)
    ended = run_ranks(arguments, folder / "output", count_bytes)
    assert ended.codes == [0, 0], ended.errors
    sent: dict[str, int] = json.loads((folder / "bytes-0.json").read_text())
    return sent


PLUGINS = ("--distil", "hidden", "--mux-num", 4, "--residual-scale", 1)
#: The tiny T5's plugins: per layer mux (k, k·d) + k, adapter (64, 2·d) + 64 and (d, 64) + d.
PLUGIN_BYTES = 4 * 2 * (4 * 4 * 32 + 4 + 64 * 64 + 64 + 32 * 64 + 32)
#: The loop's own numbers: a handful per process.
FEW = 2000


def test_training_plugins_sends_their_gradients_alone(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDP exchanges as many bytes as the plugins have, each step; the backbone's are never sent."""
    sent = messages(tiny, tmp_path, monkeypatch, *PLUGINS)
    plugins = sum(t.numel() * 4 for t in tensors_under(tmp_path / "run" / "best").values())
    backbone = sum(t.numel() * 4 for t in tensors_under(tiny.model).values())
    assert plugins == PLUGIN_BYTES and backbone > 2 * plugins
    assert plugins <= sent["gloo:all_reduce"] <= plugins + FEW
    assert sum(sent.values()) <= plugins + 2 * FEW


@pytest.mark.slow
def test_fsdp_gathers_parameters_and_sends_no_gradients_of_the_backbone(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process gives its half of the model for the teacher's pass, the student's, and less for the way back."""
    sent = messages(tiny, tmp_path, monkeypatch, *PLUGINS, "--engine", "fsdp")
    everything = sum(t.numel() * 4 for t in tensors_under(tiny.model).values()) + PLUGIN_BYTES
    assert PLUGIN_BYTES <= sent["gloo:all_reduce"] <= PLUGIN_BYTES + FEW
    assert everything / 2 <= sent["gloo:all_gather"] <= 3 * everything / 2 + FEW


def test_a_copy_that_is_to_be_divided_takes_no_memory() -> None:
    """Parameters of its own, tied as they were, whose numbers lie where the original's do."""
    layer = nn.Linear(2, 2)
    original = nn.ModuleList([layer, nn.Sequential(nn.ReLU(), nn.Linear(2, 2, bias=False))])
    original[1][1].weight = layer.weight  # type: ignore[index]
    made = copy_of(original)
    (weight, bias), theirs = list(made.parameters()), list(original.parameters())
    assert made[1][1].weight is made[0].weight is weight  # type: ignore[index]
    assert weight is not theirs[0] and weight.data_ptr() == theirs[0].data_ptr()
    theirs[1].data = theirs[1].new_empty(0)
    assert bias.shape == (2,)


def test_a_process_holds_its_share_of_frozen_parameters(tmp_path: Path) -> None:
    """Half of a frozen T5 each, odd sizes included; the original keeps nothing, and tied parameters stay one."""
    ended = run_ranks([], tmp_path, script=divide_and_measure)
    assert ended.codes == [0, 0], ended.errors
    for output in ended.outputs:
        own, whole, left, tied = map(int, output.split())
        assert abs(own - whole / 2) < whole / 20 and left == 0 and tied == 1
