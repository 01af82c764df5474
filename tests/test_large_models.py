"""What large models need, in each entry script: layers that run again, and shares in the machine's memory."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

from tests.helpers_engines import assert_close, assert_equal_runs
from tests.helpers_plugin import tiny_t5
from tests.helpers_ranks import SCRIPTS, only_offloaded, run_ranks, run_several
from tests.test_equality import Case, World, cases
from tests.tiny import Tiny, rows_of
from utils.engine import Runtime, engines
from utils.errors import UserError
from utils.tucker.task_arguments import parse_task_arguments
from utils.variator.arguments import parse_arguments

pytestmark = pytest.mark.usefixtures("one_thread")

CHECKPOINTING = ("--gradient-checkpointing",)
OFFLOAD = ("--engine", "fsdp", "--cpu-offload", *CHECKPOINTING)
SCHEDULE = ("--mode", "minidisc", "--target_sparsity", 90, "--grid", "50,90", "--trunc_sparsity", 50)

#: One of each script.
NAMES = ("t5-plugins-accumulated", "general-accumulated", "entities-finetune")


class Runs:
    """Runs of one process as they are, and of two with the flags of large models, by name of the case."""

    def __init__(self, world: World) -> None:
        teacher = ("--teacher_model", world.root / "teacher-sst2")
        self.root, everything = world.root / "runs", cases(world)
        self.cases = {name: everything[name] for name in NAMES}
        flags = world.task(*SCHEDULE, *teacher, rows=8)  # importances depend on the batches that they are measured on
        self.cases["schedule"] = Case("task_distill", lambda out, n: [*flags(out, n), "--eval_batch_size", 4])
        for name, case in self.cases.items():
            script, *arguments = shlex.split(case.command(self.root / "one" / name, 1))
            SCRIPTS[script](arguments)
        self._two("ddp", CHECKPOINTING, None)
        self._two("fsdp", OFFLOAD, only_offloaded)

    def _two(self, name: str, flags: tuple[str, ...], prepare: object) -> None:
        commands = [case.command(self.root / name / n, 2, *flags) for n, case in self.cases.items()]
        ended = run_ranks(commands, self.root / f"output-{name}", prepare, script=run_several)  # type: ignore[arg-type]
        assert ended.codes == [0, 0], ended.errors


@pytest.fixture(scope="module")
def runs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(World(tiny, tmp_path_factory.mktemp("large") / "world"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_each_script_trains_the_same(engine: str, name: str, runs: Runs) -> None:
    """Two processes with gradient checkpointing, under FSDP also with offloading, equal one without."""
    assert_equal_runs(runs.root / engine / name, runs.root / "one" / name)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_a_schedule_trains_the_same(engine: str, runs: Runs) -> None:
    """Every row of MiniDisc's first stage, all validations of the second.

    There the student begins as its teacher: its gradients are rounding, which Adam makes as large as any.
    """
    for stage, splits in (("iteration-1", ("train", "valid")), ("iteration-2", ("valid",))):
        two, one = (rows_of(runs.root / kind / "schedule" / stage) for kind in (engine, "one"))
        pairs = [pair for pair in zip(two, one, strict=True) if pair[1]["split"] in splits]
        assert pairs
        for found, wanted in pairs:
            assert_close(found, wanted)


def test_every_group_gets_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers and the rest; pinned where a GPU fetches them, not where there is none."""
    found: list[tuple[nn.Module, OffloadPolicy]] = []
    monkeypatch.setattr(engines, "fully_shard", lambda m, offload_policy: found.append((m, offload_policy)))
    model, policy = tiny_t5(), engines.offload_policy(torch.device("cuda"))
    engines.divide(model, policy)
    assert [part for part, _ in found] == [*model.encoder.block, *model.decoder.block, model]
    assert policy == CPUOffloadPolicy(pin_memory=True) and all(given is policy for _, given in found)
    assert engines.offload_policy(torch.device("cpu")) == CPUOffloadPolicy(pin_memory=False)
    found.clear()
    engines.divide(model)
    assert not any(isinstance(given, CPUOffloadPolicy) for _, given in found)


@pytest.mark.parametrize(
    ("engine", "processes", "precision", "said"),
    [
        (
            "ddp",
            2,
            "fp32",
            "needs --engine fsdp in several processes, or --engine bmtrain; found --engine ddp in several processes",
        ),
        (
            "fsdp",
            1,
            "fp32",
            "needs --engine fsdp in several processes, or --engine bmtrain; found --engine fsdp in one process",
        ),
        ("ddp", 1, "bf16", "found --engine ddp in one process"),
        ("fsdp", 2, "fp16", "refused with fp16"),
    ],
)
def test_offloading_is_refused_where_nothing_is_divided(
    engine: engines.EngineName, processes: int, precision: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence, before any process waits for another."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: precision == "fp16")
    with pytest.raises(UserError, match=said) as caught:
        Runtime(precision, engine=engine, cpu_offload=True)  # type: ignore[arg-type]
    assert str(caught.value).startswith("--cpu_offload ")


@pytest.mark.parametrize("flag", ["gradient_checkpointing", "cpu_offload"])
def test_flags_without_effect_are_told(flag: str, tmp_path: Path) -> None:
    """Where nothing is trained."""
    said = f"--{flag} is for training and has no effect in --mode"
    fixed = f"--dataset sst2 --data-path d --model-config m --output-path {tmp_path} --{flag}"
    with pytest.raises(UserError, match=f"{said} valid"):
        parse_arguments([*fixed.split(), "--mode", "valid"])
    parse_arguments(fixed.split())
    fixed = f"--task_name sst2 --data_dir d --output_dir {tmp_path} --{flag}"
    with pytest.raises(UserError, match=f"{said} evaluate"):
        parse_task_arguments([*fixed.split(), "--mode", "evaluate", "--student_model", "m"])
    with pytest.raises(UserError, match=f"{said} sparsify"):
        parse_task_arguments([*fixed.split(), "--mode", "sparsify", "--teacher_model", "m"])
    parse_task_arguments([*fixed.split(), "--mode", "minidisc", "--teacher_model", "m"])
