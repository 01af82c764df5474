"""What docs/scaling.md works out is what a step with numbers needs and sends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.gradient_checkpointing import enable_for_trained
from utils.errors import UserError
from utils.pages import read_measured
from utils.scaling.__main__ import main
from utils.scaling.measure import SMALL, numbers_for, with_numbers
from utils.scaling.memory import Links, Sizes, memory, sent_bytes, sizes_of, step_seconds
from utils.scaling.recorded import recorded_step
from utils.scaling.setups import Setup, minidisc_step, plugin_training
from utils.scaling.table import Worked, work_out
from utils.scaling.trace import Trace, extrapolated, trace_step, without_numbers

pytestmark = pytest.mark.usefixtures("single_thread")

ROOT = Path(__file__).resolve().parent.parent
_T5 = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "vocab_size": 60}
_BERT = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "vocab_size": 60}
PLUGINS = Setup("plugins", 5, (4, 64), 16, lambda layers: plugin_training(_T5, layers))
MINIDISC = Setup("minidisc", 5, (4, 64), 0, lambda layers: minidisc_step(_BERT, layers, (0.5, 0.75)))
SETUPS = {"plugins": PLUGINS, "minidisc": MINIDISC}


def measured(setup: Setup, checkpointing: bool = False) -> Trace:
    """Of a step with numbers."""
    objective = with_numbers(setup.objective(setup.layers))
    if checkpointing:
        enable_for_trained(objective)
    batch = numbers_for(setup)
    batch["attention_mask"][0, -1] = 0  # without padding there would be no mask to keep
    return trace_step(objective, batch)


@pytest.fixture(scope="module", params=SETUPS)
def worked(request: pytest.FixtureRequest) -> Worked:
    """A training worked out in float32."""
    return work_out(SETUPS[request.param], bf16=False)


@pytest.mark.slow
def test_shapes_say_what_a_step_with_numbers_needs(worked: Worked) -> None:
    """Two and three layers without numbers give five layers with numbers, layers that run again included."""
    plain, again = (measured(worked.setup, checkpointing) for checkpointing in (False, True))
    for expected, found in ((worked.plain, plain), (worked.checkpointing, again)):
        assert expected.macs == pytest.approx(found.macs, rel=0.01)
        assert expected.gather_bytes == pytest.approx(found.gather_bytes, rel=0.01)
        assert expected.activation_bytes == pytest.approx(found.activation_bytes, rel=0.1)
    assert again.activation_bytes < 0.8 * plain.activation_bytes and again.macs > 1.1 * plain.macs


@pytest.mark.slow
def test_bf16_keeps_other_sizes() -> None:
    """Autocast is part of the trace: most states have half the bytes."""
    plain, half = (without_numbers(PLUGINS.objective(2), PLUGINS.batch(), bf16) for bf16 in (False, True))
    assert half.activation_bytes < 0.9 * plain.activation_bytes and half.macs == plain.macs


@pytest.mark.slow
def test_messages_are_those_that_were_measured() -> None:
    """docs/distributed.md's two processes: the teacher's pass, the student's and the way back of 2 + 2 layers."""
    page = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    row = re.search(r"gathered from each process: parameters \| 0 \| ([\d ]+) \|", page)
    assert row is not None
    numbers = int(row[1].replace(" ", ""))
    setup = Setup("the tests' T5", 2, (2, 16), 2, lambda layers: plugin_training({**_T5, "vocab_size": 293}, layers))
    objective = setup.objective(2)
    trace, sizes = without_numbers(objective, setup.batch()), sizes_of(setup.objective(2))
    assert sent_bytes(sizes, trace, "fsdp", 2) - sizes.trained / 2 == pytest.approx(numbers, rel=0.02)
    assert sent_bytes(sizes, trace, "ddp", 2) == sizes.trained == 54_048


SIZES = Sizes(frozen=800, trained=80, rest=100, layer=50, layer_trained=10, layers=15)


def test_parts_of_the_memory() -> None:
    """By hand, for each engine."""
    one, ddp = memory(SIZES, 7, "ddp", 1), memory(SIZES, 7, "ddp", 8)
    fsdp, offload = memory(SIZES, 7, "fsdp", 8), memory(SIZES, 7, "fsdp", 8, offload=True)
    assert one.total == 800 + 4 * 80 + 7 and ddp.total == one.total + 80
    assert (fsdp.frozen, fsdp.trained, fsdp.gradients, fsdp.optimizer) == (100, 10, 10, 20)
    assert fsdp.gathered == 100 + 2 * 50 + 10 and fsdp.total == 100 + 40 + 7 + 210
    assert offload.total == 7 + 210 and offload.host == 100 + 40


def test_steps_and_their_messages() -> None:
    """Rings of W processes; the slower link from two machines on; all or nothing of it hidden."""
    trace, links = Trace(0, gather_bytes=900, macs=1), Links(10, 2, 4)
    assert sent_bytes(SIZES, trace, "ddp", 4) == 2 * 0.75 * 80
    assert sent_bytes(SIZES, trace, "fsdp", 4) == 0.75 * (900 + 50 + 80)
    assert step_seconds(3, 20, 4, links) == (3, 5) and step_seconds(3, 20, 5, links) == (10, 13)


def test_depth_is_extrapolated() -> None:
    """By hand."""
    assert extrapolated(Trace(10, 100, 7), Trace(13, 110, 9), 4) == Trace(22, 140, 15)


_IN_A_FRESH_PROCESS = """
import json, torch
from metric.cost import peak_memory_bytes
from tests.test_scaling import MEASURED
from utils.engine.optimisation import build_optimizer
from utils.scaling.measure import numbers_for, with_numbers
torch.set_num_threads(1)
before = peak_memory_bytes(lambda: None)
def train():
    objective, batch = with_numbers(MEASURED.objective(MEASURED.layers)).train(), numbers_for(MEASURED)
    optimizer = build_optimizer(objective, 1e-4, 0.0)
    for _ in range(2):  # the optimizer has its states from the first step on
        loss, _ = objective(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
print(json.dumps(peak_memory_bytes(train) - before))
"""
#: Large beside what a process needs anyway.
MEASURED = replace(SMALL, layers=3, shape=(8, 256))


@pytest.mark.slow
def test_a_process_needs_what_the_formula_says() -> None:
    """Resident memory of one process at its peak, within 15 %; freed memory goes back to the system at once."""
    worked = work_out(MEASURED, bf16=False)
    expected = memory(worked.sizes, worked.plain.activation_bytes, "ddp", 1).total
    at_once = {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", _IN_A_FRESH_PROCESS]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **at_once}, check=True, stdout=subprocess.PIPE)
    found = int(done.stdout.split()[-1])
    assert found == pytest.approx(expected, rel=0.15), f"{found / expected:.2f} of what was expected"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--gpus 0", "--gpus must be at least 1, found 0"),
        ("--tokens-per-second 10", "name it with --setup"),
        ("--setup t5-large --tokens_per_second -1", "--tokens_per_second must be above 0, found -1"),
        ("--setup t5-large --tokens-per-second 1 --measure", "give one of them"),
        ("--gmacs-per-second 5 --measure", "give one of them"),
        ("--recorded docs/results/pruned_speed.md --measure", "give one of them"),
        ("--recorded docs/nothing.md", "--recorded docs/nothing.md: there is no such page"),
        ("--recorded docs/scaling.md", "docs/scaling.md has no block <!-- measured sandwich -->"),
        ("--link_between 0", "--link_between must be above 0, found 0"),
    ],
)
def test_mistakes_are_told(flags: str, said: str) -> None:
    """Before anything is worked out."""
    with pytest.raises(UserError, match=said):
        main(flags.split())


@pytest.mark.slow
def test_the_table_goes_into_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A row for one GPU and three per number of GPUs; one GPU's step takes what its rate says."""
    monkeypatch.setattr("utils.scaling.__main__.SETUPS", {"t5-large": PLUGINS})
    page = tmp_path / "page.md"
    page.write_text("<!-- measured t5-large -->\n<!-- /measured t5-large -->\n")
    main(f"--setup t5-large --gpus 2 16 --tokens-per-second 512 --page {page}".split())
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 1 + 2 * 3 and len({line.count("|") for line in lines}) == 1
    assert "| 0.5 (" in lines[2] and all(line in capsys.readouterr().out for line in lines[:1])


def test_the_page_is_of_the_present_trainings() -> None:
    """Each has a block, and its numbers of parameters are those of its shapes."""
    from utils.scaling.setups import SETUPS as ALL

    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for name, setup in ALL.items():
        block = page.partition(f"<!-- measured {name} -->")[2].partition(f"<!-- /measured {name} -->")[0]
        sizes = sizes_of(setup.objective(setup.layers))
        assert f"{sizes.trained / 4e6:,.1f} M of {(sizes.trained + sizes.frozen) / 4e6:,.1f} M" in block


def test_the_page_is_at_the_recorded_rate() -> None:
    """Each table names the step of the results page and has its times; no other rate stands in the text."""
    from utils.scaling.setups import SETUPS as ALL

    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    step = recorded_step(ROOT / "docs" / "results" / "pruned_speed.md")
    gmacs = step.macs_per_second / 1e9
    assert gmacs == pytest.approx(float(step.gmacs) / float(step.ms) * 1e3)
    told = f"steps at {gmacs:.1f} G MACs per second ({step.gmacs} G MACs in {step.ms} ms, pruned_speed.md)"
    assert page.count(told) == page.count(" MACs per second") == len(ALL)
    for name in ALL:
        about, _, _, _, one, *_ = read_measured(ROOT / "docs" / "scaling.md", name)
        macs = re.search(r"trained; ([\d.]+) T MACs per GPU and step, ([\d.]+) T with", about)
        times = re.search(r"\| ([\d.,]+) \(([\d.,]+)\) \|$", one)
        assert macs and times and one.startswith("| 1 | none |")
        for found, expected in zip(times.groups(), macs.groups(), strict=True):
            assert float(found.replace(",", "")) == pytest.approx(float(expected) * 1e3 / gmacs, rel=0.01)


def test_a_page_without_the_step_is_refused(tmp_path: Path) -> None:
    """The row is looked for, and what it holds is the rate."""
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- measured sandwich -->\n| distillation of 50 | 2000 | 100.0 | 1 |\n<!-- /measured sandwich -->\n"
    )
    assert recorded_step(page).macs_per_second == 50e9
    page.write_text("<!-- measured sandwich -->\n| ratio | 2000 | 100.0 | 1 |\n<!-- /measured sandwich -->\n")
    with pytest.raises(UserError, match=r"page\.md has no row"):
        recorded_step(page)
