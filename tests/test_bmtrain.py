"""What every engine promises, of DDP in one process and of BMTrain's adapter around a stub of it; and its traps."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import stub_bmtrain
from tests.helpers_contract import STEPS, VARIANTS, losses_of, objective, plain_loop, trainer_of, weights_of
from tests.helpers_engines import assert_equal_runs
from tests.helpers_ranks import run_ranks, run_several
from tests.tiny import Tiny, rows_of, run, tensors_under, write_sst2
from utils import installation
from utils.engine import Trainer
from utils.engine.bmtrain_blocks import BlockLayer
from utils.engine.bmtrain_engine import BMTrainEngine
from utils.engine.engines import EngineName, is_divided
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
ENGINES: tuple[EngineName, ...] = ("ddp", "bmtrain")


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """BMTrain is installed, and there is a GPU, as far as anyone asks."""
    monkeypatch.setattr(installation, "has_cuda", lambda: True)
    monkeypatch.setitem(sys.modules, "bmtrain", None)
    stub_bmtrain.install()
    yield


def assert_weights(trainer: Trainer, wanted: Mapping[str, torch.Tensor]) -> None:
    """Up to rounding, which Adam enlarges where a gradient is nearly 0; a step moves a weight by up to 1e-2."""
    found = {name: values.detach() for name, values in wanted.items()}
    torch.testing.assert_close(weights_of(trainer), found, rtol=1e-3, atol=5e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_weights_are_those_of_a_plain_loop(engine: EngineName, variant: str, tmp_path: Path) -> None:
    """Step by step, decay and clipping included; what is frozen does not change at all."""
    trainer = trainer_of(engine, variant, tmp_path)
    frozen = {name: p.detach().clone() for name, p in objective(variant).named_parameters() if not p.requires_grad}
    trainer.fit()
    losses, weights = plain_loop(variant)
    assert losses_of(tmp_path) == pytest.approx(losses, rel=1e-5) and len(losses) == STEPS
    assert_weights(trainer, weights)
    found = weights_of(trainer)
    assert all(torch.equal(found[name], values) for name, values in frozen.items())


@pytest.mark.parametrize("engine", ENGINES)
def test_accumulated_gradients_are_those_of_a_plain_loop(engine: EngineName, tmp_path: Path) -> None:
    """Three batches a step; nothing of a step's gradients is left in the next one."""
    trainer = trainer_of(engine, "whole", tmp_path, accumulation=3)
    trainer.fit()
    losses, weights = plain_loop("whole", accumulation=3)
    assert losses_of(tmp_path) == pytest.approx(losses, rel=1e-5)
    assert_weights(trainer, weights)


@pytest.mark.parametrize(
    ("first", "second", "variant"),
    [("ddp", "bmtrain", "whole"), ("bmtrain", "ddp", "whole"), ("bmtrain", "bmtrain", "plugins")],
)
def test_a_checkpoint_goes_on_under_either_engine(
    first: EngineName, second: EngineName, variant: str, tmp_path: Path
) -> None:
    """Weights and the optimizer's state: two steps and two more are four."""
    trainer_of(first, variant, tmp_path, steps=2).fit()
    trainer = trainer_of(second, variant, tmp_path, resume=True)
    assert trainer.progress.step == 2
    trainer.fit()
    losses, weights = plain_loop(variant)
    assert losses_of(tmp_path) == pytest.approx(losses, rel=1e-5)
    assert_weights(trainer, weights)


def test_files_are_those_of_ddp(tmp_path: Path) -> None:
    """Names, shapes and types of weights and of the optimizer's state."""
    for engine in ENGINES:
        trainer_of(engine, "lora", tmp_path / engine).fit()
    one, other = (
        {name: (t.shape, t.dtype) for name, t in tensors_under(tmp_path / engine).items()} for engine in ENGINES
    )
    assert other == one and len(one) > 20


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_that_are_not_finite_are_skipped_and_counted(
    engine: EngineName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second and third of five batches change nothing."""
    trainer = trainer_of(engine, "plugins", tmp_path, steps=5, max_bad_steps=3)
    forward, number = trainer.engine.forward, 0

    def spoiled(*arguments: Any) -> Any:
        nonlocal number
        number += 1
        loss, parts = forward(*arguments)
        return (loss * math.nan if number in (2, 3) else loss), parts

    monkeypatch.setattr(trainer.engine, "forward", spoiled)
    progress = trainer.fit()
    assert (progress.step, progress.skipped, progress.skipped_in_a_row) == (5, 2, 0)
    assert all(bool(values.isfinite().all()) for values in weights_of(trainer).values())


def test_the_scale_of_the_loss_changes_nothing_but_itself(tmp_path: Path) -> None:
    """In fp16: gradients are unscaled for the norm and for the step; an overflow is skipped and halves the scale."""
    trainer = trainer_of("bmtrain", "plugins", tmp_path)
    engine: Any = trainer.engine
    engine._manager.loss_scale, engine._manager.loss_scale_enabled = 1024.0, True
    trainer.runtime.precision = "fp16"
    trainer.fit()
    losses, weights = plain_loop("plugins")
    assert losses_of(tmp_path) == pytest.approx(losses, rel=1e-5)
    assert_weights(trainer, weights)


def test_an_overflow_is_skipped_and_halves_the_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One infinite gradient of one plugin: no weight changes, the step is counted."""
    trainer = trainer_of("bmtrain", "plugins", tmp_path, steps=1)
    engine: Any = trainer.engine
    engine._manager.loss_scale, engine._manager.loss_scale_enabled = 1024.0, True
    trainer.runtime.precision = "fp16"
    backward = engine.backward

    def spoiled(loss: torch.Tensor) -> None:
        backward(loss)
        engine._replicated[0].grad.view(-1)[0] = math.inf

    monkeypatch.setattr(engine, "backward", spoiled)
    before = {name: p.detach().clone() for name, p in objective("plugins").named_parameters()}
    progress = trainer.fit()
    assert progress.skipped == 1 and engine._manager.loss_scale == 512.0
    torch.testing.assert_close(weights_of(trainer), before, rtol=0, atol=0)


def test_what_lies_in_blocks(tmp_path: Path) -> None:
    """Layers in one Block each, divided with what is frozen in them; plugins, embeddings and norms outside; one
    parameter where four modules share it.
    """
    engine: Any = trainer_of("bmtrain", "plugins", tmp_path).engine
    layers = [part for part in engine.module.modules() if isinstance(part, BlockLayer)]
    assert len(layers) == 4 == stub_bmtrain.calls.count("Block")
    divided = {name for name, parameter in engine.module.named_parameters() if is_divided(parameter)}
    whole = {name for name, _ in engine.module.named_parameters()} - divided
    assert all(".block." in name for name in divided) and len(divided) > 30
    assert all(".bank." in name or "shared" in name or "final_layer_norm" in name for name in whole)
    assert not any(".bank." in name for name in divided)
    trained = {name for name, p in engine.module.named_parameters() if p.requires_grad}
    assert trained and all(".bank." in name for name in trained)
    model = engine.module.model
    tied = (model.shared, model.encoder.embed_tokens, model.decoder.embed_tokens, model.lm_head)
    assert len({id(module.weight) for module in tied}) == 1


def test_the_model_is_empty_while_its_copy_trains(tmp_path: Path) -> None:
    """Its parameters come back for evaluations, and stay at the end."""
    trainer = trainer_of("bmtrain", "whole", tmp_path)
    assert all(values.numel() == 0 for values in weights_of(trainer).values())
    with trainer.engine.whole():
        torch.testing.assert_close(weights_of(trainer), dict(objective("whole").named_parameters()), rtol=0, atol=0)
    assert all(values.numel() == 0 for values in weights_of(trainer).values())


@pytest.mark.parametrize("first", ["ddp", "bmtrain"])
def test_offloaded_steps_are_those_of_adamw(first: EngineName, tmp_path: Path) -> None:
    """Decoupled decay, though BMTrain's own of float32 parameters is not; a checkpoint of either kind goes on."""
    trainer_of(first, "whole", tmp_path, steps=2, cpu_offload=first == "bmtrain").fit()
    trainer = trainer_of("bmtrain", "whole", tmp_path, resume=True, cpu_offload=True)
    trainer.fit()
    losses, weights = plain_loop("whole")
    assert "offloaded step" in stub_bmtrain.calls
    assert losses_of(tmp_path) == pytest.approx(losses, rel=1e-5)
    assert_weights(trainer, weights)


def test_an_offloaded_checkpoint_goes_on_without(tmp_path: Path) -> None:
    """Under DDP, with AdamW's state from the CPU's memory."""
    trainer_of("bmtrain", "whole", tmp_path, steps=2, cpu_offload=True).fit()
    trainer = trainer_of("ddp", "whole", tmp_path, resume=True)
    trainer.fit()
    _, weights = plain_loop("whole")
    assert_weights(trainer, weights)


def test_train_t5_trains_plugins_with_it(tiny: Tiny, tmp_path: Path) -> None:
    """The entry script: the same best model and metrics as without."""
    flags = ("--distil", "hidden", "--mux-num", 4, "--residual-scale", 1, "--training-step", 3)
    for engine in ENGINES:
        run(tiny.sst2(tmp_path / engine, *flags, "--engine", engine))
    one, other = (tensors_under(tmp_path / engine / "best") for engine in ENGINES)
    torch.testing.assert_close(other, one, rtol=1e-4, atol=4e-6)
    assert losses_of(tmp_path / "bmtrain") == pytest.approx(losses_of(tmp_path / "ddp"), rel=1e-4)


TWO_PROCESSES = {
    "whole": ("--grad-accumulation", 2),
    "lora": ("--delta-tuning",),
    "plugins": ("--distil", "hidden", "--mux-num", 2, 4, "--residual-scale", 1),
}


def install_on_rank(rank: int) -> None:
    """BMTrain's stub in a process of its own."""
    stub_bmtrain.install()
    installation.has_cuda = lambda: True


@pytest.mark.slow
def test_two_processes_are_one(tiny: Tiny, tmp_path: Path) -> None:
    """Odd numbers of rows, shares that end inside of parameters, a resume: losses, weights and metrics are those of
    DDP in one process, and the checkpoint of two goes on in one.
    """
    write_sst2(tmp_path / "glue", train=27, valid=11)

    def line(name: str, engine: str, processes: int, *more: object) -> str:
        fixed = ("--data-path", tmp_path / "glue", "--batch-size", 4 // processes, "--engine", engine)
        flags = (*TWO_PROCESSES[name], "--save-step", 2, "--random-seed", 3, *more)
        return shlex.join(["train_t5", *tiny.sst2(tmp_path / f"{name}-{engine}", *flags, *map(str, fixed))])

    twos = [
        line(name, "bmtrain", 2, *more) for name in TWO_PROCESSES for more in (("--training-step", 2), ("--resume",))
    ]
    ended = run_ranks(twos, tmp_path / "output", install_on_rank, script=run_several)
    assert ended.codes == [0, 0], ended.errors
    run_several(
        [line(name, "ddp", 1, *more) for name in TWO_PROCESSES for more in (("--training-step", 2), ("--resume",))]
    )
    for name in TWO_PROCESSES:
        assert_equal_runs(tmp_path / f"{name}-bmtrain", tmp_path / f"{name}-ddp")
        assert rows_of(tmp_path / f"{name}-bmtrain")[-1]["step"] > 2


def test_bertadam_is_refused(tmp_path: Path) -> None:
    """It needs each tensor's norm."""
    with pytest.raises(
        UserError, match=r"^--optimizer bertadam needs the norm of each tensor's gradient.*use adamw\.$"
    ):
        trainer_of("bmtrain", "whole", tmp_path, optimizer="bertadam")


def test_a_model_without_t5_layers_is_refused(tmp_path: Path) -> None:
    """Nothing of it could be divided."""
    accelerator = trainer_of("bmtrain", "whole", tmp_path).runtime.accelerator
    with pytest.raises(UserError, match=r"^--engine bmtrain found no T5 layer in this model"):
        BMTrainEngine(accelerator, nn.Linear(2, 2))
