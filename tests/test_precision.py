"""`--precision auto`: what it stands for on each machine, in every command, on every process, in a run that goes on.

Machines are made up: their flags and the rates of the timed product are set by the tests.
"""

from __future__ import annotations

import json
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch

from benchmarks.plugin_speed import main as plugin_speed
from serving.arguments import parse_arguments as serving_arguments
from serving.loading import load_predictor
from tests.helpers_ranks import run_ranks
from tests.tiny import Tiny, result_of, run
from tests.tiny_bert import TinyBert, run_general, run_task
from utils import cost
from utils.engine import precision
from utils.engine.precision import Rates, choose_precision
from utils.engine.run_directory import RunDirectory, recorded_precision
from utils.errors import UserError

AMX, AVX512_BF16, AVX2 = Rates(150.0, 900.0), Rates(150.0, 75.0), Rates(88.0, 0.6)
MACHINES = {"AMX": (True, AMX), "AVX512-BF16, slow": (True, AVX512_BF16), "AVX2": (False, AVX2)}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Makes this machine one of `MACHINES`."""

    def become(name: str) -> None:
        flag, rates = MACHINES[name]
        monkeypatch.setattr(precision, "has_bf16", lambda _: flag)
        monkeypatch.setattr(precision, "product_rates", lambda _: rates)

    return become


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TinyBert:
    return TinyBert(tmp_path_factory.mktemp("bert"))


def without(arguments: list[str], flag: str = "--precision") -> list[str]:
    """A command line as users give it: without the flag that the helpers of the tests add."""
    place = arguments.index(flag)
    return arguments[:place] + arguments[place + 2 :]


@pytest.mark.parametrize(("name", "expected"), [("AMX", "bf16"), ("AVX512-BF16, slow", "fp32"), ("AVX2", "fp32")])
def test_auto_believes_the_timing_and_not_the_flag(machine, name: str, expected: str) -> None:
    machine(name)
    choice = choose_precision("auto")
    assert choice.precision == expected and choice.warning is None
    rates = "GFLOP/s in bf16" in choice.why
    assert rates == (name != "AVX2") and (rates or "AMX or AVX512-BF16" in choice.why)


@pytest.mark.parametrize("flag", [True, False])
def test_a_busy_moment_does_not_make_a_machine_slow(monkeypatch: pytest.MonkeyPatch, flag: bool) -> None:
    """Where bf16 has instructions, the timing goes on until a product was left in peace; elsewhere it ends at once."""
    bf16_seconds = chain([0.3, 0.04, 0.04, 0.0002], repeat(0.04))  # another process has the processor, but for once

    def timed(pair: tuple[torch.Tensor, torch.Tensor]) -> float:
        return 0.001 if pair[0].dtype == torch.float32 else next(bf16_seconds)

    monkeypatch.setattr(precision, "has_bf16", lambda _: flag)
    monkeypatch.setattr(precision, "_seconds", timed)
    precision._timed.cache_clear()
    try:
        rates = precision.product_rates(torch.device("cpu"))
    finally:
        precision._timed.cache_clear()
    assert (rates.bf16 > rates.fp32) == flag


@pytest.mark.parametrize(("name", "is_slow"), [("AMX", False), ("AVX512-BF16, slow", True), ("AVX2", True)])
def test_a_precision_that_is_asked_for_is_obeyed_and_both_rates_told_if_it_is_slow(machine, name, is_slow) -> None:
    machine(name)
    choice = choose_precision("bf16")
    assert choice.precision == "bf16" and (choice.warning is not None) == is_slow
    if is_slow:
        rates = {"AVX2": "0.6 GFLOP/s in bf16, 88 in fp32", "AVX512-BF16, slow": "75 GFLOP/s in bf16, 150 in fp32"}
        assert rates[name] in choice.lines[1] and choice.lines[1].startswith("warning: ")
    assert choose_precision("fp32").warning is None


def test_a_run_that_goes_on_keeps_its_precision(machine) -> None:
    """Also where it is slow, which is told; fp16 needs its GPU."""
    machine("AVX2")
    choice = choose_precision("auto", kept="bf16")
    assert choice.precision == "bf16" and "began in bf16" in (choice.warning or "")
    machine("AMX")
    assert choose_precision("auto", kept="fp32").lines == ["precision: fp32 (auto: the run began in it)"]
    with pytest.raises(UserError, match="began in fp16, which needs a GPU"):
        choose_precision("auto", kept="fp16")


def test_the_timing_is_short_and_draws_no_random_numbers() -> None:
    """A run's numbers do not depend on whether its precision was timed; rates of this machine are positive."""
    precision._timed.cache_clear()
    state = torch.get_rng_state()
    rates = precision.product_rates(torch.device("cpu"))
    assert rates.fp32 > 0 and rates.bf16 > 0 and torch.equal(torch.get_rng_state(), state)
    assert precision.product_rates(torch.device("cpu")) is rates


@pytest.mark.parametrize(("name", "expected"), [("AMX", "bf16"), ("AVX2", "fp32")])
def test_training_says_what_it_chose_in_log_and_result(machine, tiny: Tiny, bert: TinyBert, tmp_path, name, expected):
    """The T5, the BERT on text and on a task, and the evaluation behind it."""
    machine(name)
    run(without(tiny.sst2(tmp_path / "t5", "--training-step", 1)))
    run(without(tiny.sst2(tmp_path / "valid", "--mode", "valid", "--no-costs")))
    general = ("--max_steps", 1, "--init_from_teacher", "--use_swap", *RANKS)
    run_general(without(bert.general(tmp_path / "general", *general)))
    teacher = ("--mode", "finetune", "--teacher_model", bert.model, "--max_steps", 1, "--do_eval", "--no-costs")
    run_task(without(bert.task(tmp_path / "task", *teacher)))
    found = [result_of(tmp_path / folder) for folder in ("t5", "valid", "general", "task")]
    found.append(json.loads((tmp_path / "task" / "evaluation.json").read_text()))
    assert [result["precision"] for result in found] == [expected] * 5
    assert all(result["precision_why"].startswith("auto: ") for result in found)
    for folder in ("t5", "general", "task"):
        logged = (tmp_path / folder / "log.log").read_text().splitlines()
        assert [line for line in logged if line.startswith("precision: ")] == [f"precision: {expected} ({WHY[name]})"]
        assert recorded_precision(tmp_path / folder) == expected


RANKS = ("--rank_layer", 4, "--rank_condim", 6, "--rank_dim", 6)
WHY = {
    "AMX": "auto: a product runs at 900 GFLOP/s in bf16, 150 in fp32",
    "AVX2": "auto: this processor has no bf16 (AMX or AVX512-BF16)",
}


def test_a_run_begun_in_bf16_goes_on_in_bf16_on_another_machine(machine, tiny: Tiny, tmp_path: Path, capsys) -> None:
    """Nothing has changed for the run, and the user is told what it costs; another precision may be asked for."""
    machine("AMX")
    steps = ("--save-step", 1, "--training-step")
    run(without(tiny.sst2(tmp_path / "run", *steps, 1)))
    machine("AVX2")
    capsys.readouterr()
    run(without(tiny.sst2(tmp_path / "run", *steps, 2, "--resume")))
    said = capsys.readouterr().out
    assert result_of(tmp_path / "run")["precision"] == "bf16"
    assert "warning: this run began in bf16, which is slow here: a product runs at 0.6 GFLOP/s in bf16, 88" in said
    assert "goes on with" not in said
    run([*without(tiny.sst2(tmp_path / "run", *steps, 3, "--resume")), "--precision", "fp32"])
    assert "the run goes on with --precision 'fp32' (was 'bf16')" in capsys.readouterr().out
    run(without(tiny.sst2(tmp_path / "run", *steps, 4, "--resume")))
    assert result_of(tmp_path / "run")["precision"] == "fp32"


def test_runs_of_earlier_versions_go_on_in_the_precision_of_their_flag(tmp_path: Path) -> None:
    """They record no choice, but never had `auto`."""
    RunDirectory(tmp_path / "run", {"precision": "bf16"})
    assert recorded_precision(tmp_path / "run") == "bf16"
    (tmp_path / "run" / "arguments.json").write_text("{")
    assert recorded_precision(tmp_path / "run") is None and recorded_precision(tmp_path / "none") is None


@pytest.mark.parametrize("name", list(MACHINES))
def test_costs_serving_and_benchmarks_choose_alike(machine, tiny: Tiny, tmp_path: Path, name: str, capsys) -> None:
    """Each says so, and computes in it."""
    machine(name)
    expected = choose_precision("auto").precision
    file = tmp_path / "cost.json"
    cost.main(["--model", str(tiny.model), "--batch", "1", "--length", "4", "--repeats", "1", "--json", str(file)])
    assert json.loads(file.read_text())[0]["precision"] == expected
    served = load_predictor(serving_arguments(["--model", str(tiny.model), "--task", "sst2", "--device", "cpu"]))
    assert served.choice.precision == expected
    rows = tmp_path / "rows.json"
    sizes = "--d-model 8 --d-ff 16 --d-kv 4 --num-heads 2 --num-layers 1 --shapes 1x8 --ratios 2 --repeats 1"
    plugin_speed([*sizes.split(), "--threads", "1", "--json", str(rows)])
    assert json.loads(rows.read_text())[0]["precision"] == expected
    said = capsys.readouterr()
    assert f"precision: {expected} (auto: " in said.out and f"precision: {expected} (auto: " in said.err


def main_rank_alone_is_fast(rank: int) -> None:
    """As on machines of two kinds: the other rank would choose otherwise."""
    precision.has_bf16 = lambda place: rank == 0
    precision.product_rates = lambda place: AMX if rank == 0 else AVX2


@pytest.mark.slow
def test_all_processes_take_what_the_first_one_chose(tiny: Tiny, tmp_path: Path) -> None:
    arguments = without(tiny.sst2(tmp_path / "run", "--training-step", 1))
    ended = run_ranks(arguments, tmp_path / "said", prepare=main_rank_alone_is_fast)
    assert ended.codes == [0, 0], ended
    assert result_of(tmp_path / "run")["precision"] == "bf16"
