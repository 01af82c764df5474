"""What is minimised: task loss, hidden-state distillation from the same model without plugins, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from model.errors import ModelError
from model.heads import Batch, HeadOutput
from model.lora import LoraConfig
from model.losses import hidden_mse, task_loss, token_accuracy
from model.plugin.surgery import plugin_layers, plugin_modules, use_ratio
from model.shares import share

Distil = Literal["hidden", "task-hidden", "task", "no"]
Head = Callable[[PreTrainedModel, Batch], HeadOutput]


class PluginObjective(nn.Module):
    """Loss of one batch, by `--distil` (Variator, section 3.3):

    no           task
    task         task(student)
    hidden       mse(decoder, where there is one) + mse(encoder)
    task-hidden  task(student) · task_ratio + what hidden has

    The teacher is the same model at ratio 1, run once per batch without gradients, before the student. With
    several ratios the losses are averaged over them; their parameters are disjoint, so each ratio learns
    what it would learn alone (up to the common factor and the common clipping norm).

    Args:
        model: the (edited) model.
        head: gives scores and hidden states.
        distil: see above.
        ratios: ratios of the student; empty means the model as it is.
        task_ratio: weight of the task loss in `task-hidden`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        head: Head,
        distil: Distil = "no",
        ratios: Sequence[int] = (),
        task_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        if distil != "no" and not ratios:
            raise ModelError(f"Distillation ({distil}) trains plugins, but the model has none.")
        self.model = model
        self.head = head
        self.distil = distil
        self.ratios = tuple(ratios)
        self.task_ratio = task_ratio

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and, detached, its parts (`task_loss`, `mse_loss`, `accuracy`)."""
        if not self.ratios:
            return self._parts(self.head(self.model, batch), batch, None)
        teacher = self._teacher(batch) if "hidden" in self.distil else None
        outcomes = []
        for ratio in self.ratios:
            with use_ratio(self.model, ratio):
                outcomes.append(self._parts(self.head(self.model, batch), batch, teacher))
        loss = torch.stack([loss for loss, _ in outcomes]).mean()
        logs = {key: torch.stack([part[key] for _, part in outcomes]).mean() for key in outcomes[0][1]}
        return loss, logs

    def _teacher(self, batch: Batch) -> HeadOutput:
        with torch.no_grad(), use_ratio(self.model, 1):
            return self.head(self.model, batch)

    def _parts(self, student: HeadOutput, batch: Batch, teacher: HeadOutput | None) -> tuple[Tensor, dict[str, Tensor]]:
        of_labels = share(batch, "labels")
        task = task_loss(student.scores, batch["labels"]) * of_labels
        logs = {"task_loss": task.detach()}
        if not batch["labels"].is_floating_point():
            logs["accuracy"] = token_accuracy(student.scores.detach(), batch["labels"]) * of_labels
        if teacher is None:
            return task, logs
        encoder = hidden_mse(teacher.encoder_hidden, student.encoder_hidden, batch["attention_mask"])
        mse = encoder * share(batch, "positions")
        if teacher.decoder_hidden is not None and student.decoder_hidden is not None:
            decoder_mask = batch.get("decoder_attention_mask")
            decoder = hidden_mse(teacher.decoder_hidden, student.decoder_hidden, decoder_mask)
            # As the original adds them: the decoder's first.
            mse = (decoder if decoder_mask is None else decoder * share(batch, "decoder_positions")) + mse
        logs["mse_loss"] = mse.detach()
        return (mse + task * self.task_ratio if self.distil == "task-hidden" else mse), logs


def freeze_for(model: PreTrainedModel, distil: Distil, delta_tuning: bool, ratios: Sequence[int] | None = None) -> None:
    """Set `requires_grad` so that exactly the parameters of the stage are trained.

    Distillation trains the plugins of `ratios` (default: all of the bank), `no` with LoRA the LoRA matrices, `no`
    without it the whole model except plugins, which it does not run.

    Raises:
        ModelError: the model's weights are rounded to int8.
    """
    if any(not parameter.is_floating_point() for parameter in model.parameters()):
        raise ModelError("A quantised model cannot be trained: train the one that it was made of, and quantise that.")
    model.requires_grad_(distil == "no" and not delta_tuning)
    if distil == "no" or ratios is None:
        for ffn in plugin_layers(model):
            ffn.bank.requires_grad_(distil != "no")
    else:
        for plugin in (plugin for ratio in ratios for plugin in plugin_modules(model, ratio)):
            plugin.requires_grad_(True)
    if distil == "no" and delta_tuning:
        for module in LoraConfig().own_modules(model).values():
            module.requires_grad_(True)
