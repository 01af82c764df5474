"""The one training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from dataset import BatchSource
from model.finite import NotFiniteError
from model.gradient_checkpointing import enable_for_trained
from utils.engine import random_state
from utils.engine.bad_steps import FOLDER as BAD_BATCHES
from utils.engine.bad_steps import FP16_MOST, how_to_go_on, not_finite, not_finite_metric, save_batches
from utils.engine.checkpoint import Progress, load_checkpoint, save_checkpoint, training_state
from utils.engine.config import NO_STEP_LIMIT, TrainerConfig
from utils.engine.data_record import fingerprints_of
from utils.engine.engines import engine_for
from utils.engine.logs import RunLog
from utils.engine.optimisation import schedule_factor, trainable_parameters
from utils.engine.run_directory import RunDirectory
from utils.engine.runtime import Runtime
from utils.engine.shares import add_shares
from utils.engine.stop_signals import StopSignals
from utils.errors import Interrupted, OutOfMemory, UserError, mark_own
from utils.heartbeat import doing
from utils.memory import how_to_need_less, memory_ran_out
from utils.writing import atomic_directory

Batch = dict[str, Tensor]


class Trainer:
    """Fits an objective to a source of batches; evaluates, selects, saves and resumes.

    Args:
        runtime: devices and processes.
        objective: module whose `forward(batch)` gives (mean loss over the rows, {name: scalar}); with an attribute
            `pieces` above 1, `forward(batch, piece)` gives one summand of it.
        source: the batches; knows how to start in the middle of an epoch.
        config: see `TrainerConfig`.
        directory: where everything is written.
        evaluate: gives the validation metrics of the present weights.
        selection: name of the metric that selects the best model (larger is better).
        save_best: writes the present model into an empty directory.
        valid: the batches that `evaluate` reads; a run does not go on with other ones than it began with.
    """

    def __init__(
        self,
        runtime: Runtime,
        objective: nn.Module,
        source: BatchSource,
        config: TrainerConfig,
        directory: RunDirectory,
        evaluate: Callable[[], dict[str, float]],
        selection: str,
        save_best: Callable[[Path], None],
        valid: Sequence[BatchSource] = (),
    ) -> None:
        if not trainable_parameters(objective):
            raise UserError("Nothing is left to train: every parameter is frozen.")
        self.runtime, self.source, self.config, self.directory = runtime, source, config, directory
        self.evaluate, self.selection, self.save_best = evaluate, selection, save_best
        if runtime.gradient_checkpointing:
            enable_for_trained(objective)
        self.engine = engine_for(runtime.engine, runtime.accelerator, objective.to(runtime.device), runtime.cpu_offload)
        self.module = self.engine.module
        self.optimizer = self.engine.optimizer(config.lr, config.weight_decay, config.optimizer)
        self.progress = Progress()
        runtime.separate_randomness()
        newest = self._common_checkpoint()
        runtime.by_main(lambda: directory.check_data(fingerprints_of(source, valid), newest is not None))
        if newest is not None:
            self.progress = load_checkpoint(newest, self.module, self.optimizer, runtime.rank)
        self.engine.start()
        self._stepper = self.engine.stepper(self.optimizer)
        self.log = RunLog(directory.path, runtime.is_main, self.progress.step, self.progress.evaluated_step)
        for line in runtime.choice.lines:
            self.log.line(line)
        for warning in directory.remarks:
            self.log.line(f"warning: {warning}")
        if newest is not None:
            self.log.line(f"resumed from {newest} (step {self.progress.step}, epoch {self.progress.epoch})")
        if remark := getattr(source, "remark", None):
            self.log.line(f"warning: {remark}")
        if config.schedule == "linear" and math.isinf(self._total_steps()):
            self.log.line(
                "warning: the linear schedule cannot fall, as the length of a streamed corpus is not known: "
                "the learning rate stays constant behind the warm-up unless --max_steps says where the run ends."
            )
        self._factor = schedule_factor(config.schedule, config.warmup_steps, self._total_steps())
        self._signals = StopSignals()
        self._agreed_signal = 0

    def fit(self) -> Progress:
        """Train to the end (or to the early stop) and return where the run stands.

        Raises:
            Interrupted: a signal of `STOPPING` came; a checkpoint was saved first.
        """
        total = self._total_steps()
        if self.progress.finished and self._is_over(total):
            self.log.line(f"this run is complete: {self.progress.step} steps, best {self.selection} {self._best()}")
            self.log.close()
            self.engine.finish()
            return self.progress
        self.log.start_bar(None if math.isinf(total) else int(total), self.progress.step)
        try:
            with self._signals, doing("training", lambda: f"step {self.progress.step + 1} of {self._total_text()}"):
                self._run_to_the_end(total)
        except (RuntimeError, MemoryError, OSError) as error:
            if (ran_out := memory_ran_out(error)) is None:
                raise
            where = f"{'at' if self.module.training else 'in the evaluation at'} step {self.progress.step + 1}"
            cure, flags = how_to_need_less(self.directory.arguments, self.module.training)
            raise mark_own(OutOfMemory(f"{ran_out} {where}: {cure}.", flags)) from error
        finally:
            self.log.close()
        # A signal until the handlers were gone would be lost, and what follows would begin; later ones end the process.
        self._agreed_signal = int(self.runtime.gather_numbers([self._signals.number or 0]).max())
        self._stop_if_asked(saved=True)
        return self.progress

    def _run_to_the_end(self, total: float) -> None:
        self._run_epochs(total)
        self.progress.finished = True
        self._checkpoint()
        self.engine.finish()
        skipped = f", {self.progress.skipped} of them skipped" if self.progress.skipped else ""
        self.log.line(f"done: {self.progress.step} steps{skipped}, best {self.selection} {self._best()}")
        if self._may_be_lost():
            self.log.line(f"warning: the last {self.progress.skipped_in_a_row} steps were bad and changed nothing.")

    def _run_epochs(self, total: float) -> None:
        while not self._is_over(total):
            for group in self._groups():
                self._step(group)
                if self._due(self.config.valid_step):
                    self._validate()
                elif self._due(self.config.save_step) and not self._may_be_lost():
                    self._checkpoint()
                self._stop_if_asked()
                if self._is_over(total):
                    break
            else:
                self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
                if self.config.valid_step <= 0:
                    self._validate()
        self._validate()
        if self._out_of_patience():
            self.log.line(f"early stop: no gain in {self.progress.evaluations_without_gain} evaluations")

    def _is_over(self, total: float) -> bool:
        """Whether no training is left to do; of a resumed run as of one that goes on."""
        return self.progress.step >= total or self.progress.epoch >= self.config.epochs or self._out_of_patience()

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.progress.evaluations_without_gain

    def _groups(self) -> Iterator[list[Batch]]:
        """The rest of the present epoch, in groups of `accumulation` micro-batches."""
        self.module.train()
        batches = iter(self.source.batches(self.progress.epoch, self.progress.batch))
        while group := list(islice(batches, self.config.accumulation)):
            yield group

    def _step(self, group: list[Batch]) -> None:
        started = time.perf_counter()
        lr = self.config.lr * self._factor(self.progress.step)
        for parameter_group in self.optimizer.param_groups:
            parameter_group["lr"] = lr
        totals, own_tokens = self._backward(group)
        trained = list(trainable_parameters(self.module).values())
        norm = self.engine.clip(trained, self.config.clip_norm or math.inf)
        values, tokens = self._of_all_processes(totals, own_tokens)
        self._update(group, values, float(norm or 0.0))
        self.progress.step += 1
        self.progress.batch += len(group)
        self.progress.tokens += tokens
        seconds = time.perf_counter() - started
        self.progress.seconds += seconds
        self._report(values, float(norm) if norm is not None else math.nan, lr, tokens / seconds)

    def _backward(self, group: list[Batch]) -> tuple[dict[str, Tensor], int]:
        """Gradients of the group's mean loss; this process's shares of loss and parts, and its tokens.

        An objective of several `pieces` is called once per piece (`forward(batch, piece)`), each with a backward pass
        of its own: its loss is the sum of theirs, and only one of their graphs is in memory at a time.
        """
        world_size = self.runtime.world_size
        totals: dict[str, Tensor] = {}
        tokens, pieces = 0, int(getattr(self.module, "pieces", 1))
        add_shares(self.runtime, group)
        for i, batch in enumerate(group):
            share = _global_share(batch, world_size) / len(group)
            tokens += _own_tokens(batch)
            self.runtime.tick()
            batch = self.runtime.to_device(batch)
            for piece in range(pieces):
                is_last = i + 1 == len(group) and piece + 1 == pieces
                with self.engine.exchange(is_last):
                    loss, parts = self.engine.forward(batch, piece) if pieces > 1 else self.engine.forward(batch)
                    if is_last and self.engine.waits_for_all:
                        loss = loss + _nothing(self.module)
                    self.engine.backward(loss * share)
                for key, value in {"loss": loss.detach(), **parts}.items():
                    totals[key] = totals.get(key, torch.zeros_like(value)) + value * share
        return totals, tokens

    def _of_all_processes(self, totals: dict[str, Tensor], tokens: int) -> tuple[dict[str, float], int]:
        """Loss and parts of the whole step and its tokens, the same on every process.

        The one message of a step also carries a stop signal, so that all processes stop at the same step.
        """
        own = torch.stack([value.detach().double() for value in totals.values()]).tolist()
        everyones = self.runtime.gather_numbers([self._signals.number or 0, tokens, *own])
        self._agreed_signal = int(everyones[:, 0].max())
        means = everyones[:, 2:].mean(0).tolist()
        return dict(zip(totals, means, strict=True)), int(everyones[:, 1].sum())

    def _update(self, group: list[Batch], values: dict[str, float], norm: float) -> None:
        """One step of the optimizer, or none where loss or gradients are not finite; too many of these are the end."""
        bad, fp16, progress = not_finite(values["loss"], norm), self.runtime.precision == "fp16", self.progress
        if fp16 or bad is None:  # in fp16 the loss scaling skips such a step, and learns from it
            self._stepper.step()
        skipped = self._stepper.step_was_skipped if fp16 else bad is not None
        self._stepper.zero_grad(set_to_none=True)
        progress.skipped += skipped
        progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if skipped else 0
        if progress.skipped_in_a_row >= (FP16_MOST if fp16 else self.config.max_bad_steps):
            self._stop_at(bad or "The gradients became infinite", group, {**values, "grad_norm": norm})
        if skipped and not fp16:
            self.log.line(f"warning: {bad} at step {progress.step + 1}, which changes nothing and is counted.")

    def _stop_at(self, bad: str, group: list[Batch], values: dict[str, float]) -> NoReturn:
        """Save the batch that cannot be learnt from, and stop on all processes."""
        step, count = self.progress.step + 1, self.progress.skipped_in_a_row
        folder = self.directory.path / BAD_BATCHES / f"step-{step:08d}"
        told = {"step": step, "epoch": self.progress.epoch, "batch": self.progress.batch, **values}
        failure = save_batches(folder, self.runtime.rank, group, told)
        self.runtime.barrier()  # a launcher ends the others as soon as the first has ended
        saved = f"its batch could not be saved ({failure})" if failure else f"its batch is in {folder}"
        times = f" ({count} such steps in a row)" if count > 1 else ""
        cure, kept = how_to_go_on(self.runtime.precision, self.directory.newest_checkpoint())
        self.runtime.stop_together(UserError(f"{bad} at step {step}{times}: {cure}; {saved}, {kept}."))

    def _report(self, values: dict[str, float], norm: float, lr: float, rate: float) -> None:
        step = self.progress.step
        is_asked = step % self.config.inspect_step == 0 or step == 1
        if not is_asked and not self.log.is_silent():
            self.log.advance()
            return
        self.log.advance(f"loss {values['loss']:.4f}, {rate:,.0f} tokens/s")
        text = " | ".join(f"{key}: {value:.4f}" for key, value in values.items())
        left = self._time_left()
        self.log.line(
            f"train | epoch: {self.progress.epoch:2d} | step: {step:6d}/{self._total_text()} | {text} | "
            f"grad_norm: {norm:.3f} | lr: {lr:.3e} | {rate:,.0f} tokens/s{left}"
        )
        if not is_asked:  # metrics.jsonl is the same on a slow machine
            return
        numbers = {**values, "grad_norm": norm, "lr": lr, "tokens_per_second": rate}
        if self.progress.skipped:
            numbers["skipped_steps"] = self.progress.skipped
        self.log.metrics("train", step, numbers)

    def _validate(self) -> None:
        """Evaluate, keep the best, save; nothing if the present weights were evaluated already."""
        if self.progress.evaluated_step == self.progress.step:
            return
        started = time.perf_counter()
        with self.engine.whole():
            values, gained = self._evaluate_and_keep()
        progress = self.progress
        text = " | ".join(f"{key}: {number:.4f}" for key, number in values.items())
        self.log.line(
            f"valid | epoch: {progress.epoch_of_last_step:2d} | step: {progress.step:6d} | {text} | "
            f"time: {time.perf_counter() - started:.1f}s{' | best so far' if gained else ''}"
        )
        self.log.metrics("valid", progress.step, values)
        if (self.config.save_step <= 0 or self._due(self.config.save_step)) and not self._may_be_lost():
            self._checkpoint()

    def _evaluate_and_keep(self) -> tuple[dict[str, float], bool]:
        """Metrics of the present weights, and whether they are the best so far, which are saved."""
        self.module.eval()
        values = self._finite_metrics()
        self.module.train()
        value, progress = values[self.selection], self.progress
        progress.evaluated_step = progress.step
        gained = progress.best_value is None or value > progress.best_value
        if gained:
            progress.best_value, progress.best_step, progress.evaluations_without_gain = value, progress.step, 0
            self._save_best()
        else:
            progress.evaluations_without_gain += 1
        return values, gained

    def _finite_metrics(self) -> dict[str, float]:
        """What `evaluate` gives; weights that do not compute numbers are the end, and neither the best nor saved."""
        try:
            values = self.evaluate()
            bad = not_finite_metric(values)
        except NotFiniteError as error:
            values, bad = {}, str(error).rstrip(".")
        if bad is not None:
            cure, kept = how_to_go_on(self.runtime.precision, self.directory.newest_checkpoint())
            self.runtime.stop_together(UserError(f"{bad}, at step {self.progress.step}: {cure}; {kept}."))
        return values

    def _save_best(self) -> None:
        def save() -> None:
            with atomic_directory(self.directory.best) as partial:
                self.save_best(partial)
                self.directory.copy_arguments(partial)

        self.runtime.by_main(save)

    def _checkpoint(self) -> None:
        states = self.runtime.gather_rows([random_state.capture(self.runtime.device)])
        trained = training_state(self.module, self.optimizer) if self.engine.is_divided else None

        def save() -> None:
            path, keep = self.directory.path, self.config.keep_checkpoints
            save_checkpoint(path, self.progress, self.module, self.optimizer, keep, states, trained)

        self.runtime.by_main(save)

    def _may_be_lost(self) -> bool:
        """Whether the last step was bad: another checkpoint of such weights would push out one of good ones."""
        return self.progress.skipped_in_a_row > 0 and self.runtime.precision != "fp16"

    def _common_checkpoint(self) -> Path | None:
        """The newest checkpoint, which has to be the same for every process.

        Raises:
            UserError: another process sees another one, or none.
        """
        newest = self.directory.newest_checkpoint()
        seen = self.runtime.gather_rows([newest.name if newest else "no checkpoint"])
        if other := next((rank for rank, name in enumerate(seen) if name != seen[0]), 0):
            error = UserError(
                f"{self.directory.path}: rank 0 sees {seen[0]} there and rank {other} {seen[other]}: the output "
                "directory has to be one that all machines share."
            )
            self.runtime.stop_together(error)
        return newest

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.progress.step % interval == 0

    def _stop_if_asked(self, saved: bool = False) -> None:
        """Save, unless that is done, and stop after a signal; with several processes, after one that all know of."""
        number = self._agreed_signal if self.runtime.world_size > 1 else self._signals.number
        if not number:
            return
        if not saved:
            self._checkpoint()
        step, path = self.progress.step, self.directory.path
        self.runtime.stop_together(Interrupted(number, f"saved step {step} in {path}."))

    def _total_steps(self) -> float:
        batches = self.source.batches_per_epoch
        by_epochs = math.inf if batches is None else self.config.epochs * math.ceil(batches / self.config.accumulation)
        by_limit = math.inf if self.config.max_steps >= NO_STEP_LIMIT else self.config.max_steps
        return float(min(by_limit, by_epochs))

    def _total_text(self) -> str:
        total = self._total_steps()
        return "?" if math.isinf(total) else str(int(total))

    def _time_left(self) -> str:
        total, progress = self._total_steps(), self.progress
        if math.isinf(total) or progress.step == 0:
            return ""
        seconds = progress.seconds / progress.step * (total - progress.step)
        return f" | left: {int(seconds // 60)}:{int(seconds % 60):02d}"

    def _best(self) -> str:
        value = self.progress.best_value
        return "none" if value is None else f"{value:.4f} at step {self.progress.best_step}"


def _nothing(module: nn.Module) -> Tensor:
    """Zero, that depends on every trained parameter: processes that exchange gradients wait for each of them.

    Without it a parameter that no output depends on (what is left around a pruned sub-layer) would stop them all.
    """
    first = [parameter.flatten()[0].float() for parameter in trainable_parameters(module).values()]
    return torch.stack(first).sum() * 0.0


def _global_share(batch: Batch, world_size: int) -> float:
    """Factor that makes the mean over processes of local means the mean over the global batch's rows.

    So a loss that is a mean over rows is the same for any number of processes; means over something else correct for
    it by themselves (`model.shares`). Micro-batches that are accumulated count alike, whatever they hold.
    """
    if world_size == 1 or "num_global_rows" not in batch:
        return 1.0
    return float(batch["num_rows"]) * world_size / float(batch["num_global_rows"])


def _own_tokens(batch: Batch) -> int:
    """Real tokens of the rows that count: a process that has run out of rows holds a copy of another's."""
    mask = batch["attention_mask"]
    return int(mask[: int(batch["num_rows"])].sum() if "num_rows" in batch else mask.sum())
