"""The edit that attaches compression plugins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn
from transformers import PreTrainedModel

from model.backbone import spec_for
from model.compression import EditConfig, is_positive, is_whole, register_edit
from model.errors import ModelError
from model.plugin.state import Choice
from model.plugin.surgery import attach_modules, detach_modules, fill_bank, plugin_modules, set_ratio

Compat = Literal["native", "grouping", "original"]
#: Plugins per layer: far more than anyone trains, and few enough to be built in no time.
LARGEST_BANK = 1024


@register_edit
@dataclass(frozen=True)
class PluginConfig(EditConfig):
    """A bank of compression plugins in front of every encoder FFN (Variator, section 3).

    Attributes:
        ratios: the ratios k of the bank, each at least 2. Ratio 1 (the dense model) is always there.
        bottleneck: hidden size of the adapter that undoes the compression; 64 in the paper.
        residual_scale: S, the backbone's residual stream over the one that the parameters are made for. None, the
            default, takes the family's: 100 for T5, whose stream grows from layer to layer (published plugins and the
            original's training dynamics have it), and 1 for BERT, whose stream is normalised behind every sub-layer.
            What was taken is what is saved.
        tasks: names of the tasks that have plugins of their own on this backbone; "" is the only one by default.
        compat: how padding is treated.
            native: padded positions are left out of their group, so that a sequence's output does not depend on how
                its batch was padded;
            grouping: the original's groups, which ignore the mask (what published plugins were trained with);
            original: also its attention output of 0 on padded rows and its layer-norm epsilon of 1e-2.
        ratio: the ratio in use where the model is built or loaded: 1, or one of `ratios` (of the first task).
    """

    kind: ClassVar[str] = "plugin"

    ratios: tuple[int, ...] = (4,)
    bottleneck: int = 64
    residual_scale: float | None = None
    tasks: tuple[str, ...] = ("",)
    compat: Compat = "native"
    ratio: int = 1

    def __post_init__(self) -> None:
        given: Any = self.ratios
        if not isinstance(given, tuple | list) or not given or not all(is_whole(k) and k > 1 for k in given):
            raise ModelError(f"Plugin ratios must be whole numbers of at least 2, found {given!r}.")
        object.__setattr__(self, "ratios", tuple(given))  # a list and the tuple are equal settings
        if len(set(self.ratios)) < len(self.ratios):
            raise ModelError(f"Each plugin ratio may be named once, found {list(self.ratios)}.")
        if not is_whole(self.bottleneck) or self.bottleneck < 1:
            raise ModelError(f"The bottleneck must be a whole number of at least 1, found {self.bottleneck!r}.")
        if self.residual_scale is not None and not is_positive(self.residual_scale):
            raise ModelError(f"The residual scale must be a number above 0, found {self.residual_scale!r}.")

        names: Any = self.tasks
        if not isinstance(names, tuple | list) or not names or not all(_is_task_name(name) for name in names):
            raise ModelError(f"Task names are words without '.', '-' or '/', found {names!r}.")
        object.__setattr__(self, "tasks", tuple(dict.fromkeys(names)))
        if (size := len(self.ratios) * len(self.tasks)) > LARGEST_BANK:
            raise ModelError(f"A bank holds at most {LARGEST_BANK} plugins per layer, found {size}.")
        if self.compat not in get_args(Compat):
            raise ModelError(f"compat is one of {', '.join(get_args(Compat))}, found {self.compat!r}.")
        if not is_whole(self.ratio) or self.ratio not in (1, *self.ratios):
            raise ModelError(f"The ratio in use is 1 or one of {list(self.ratios)}, found {self.ratio!r}.")

    @property
    def choices(self) -> list[Choice]:
        """Every task with every ratio."""
        return [Choice(ratio, task) for task in self.tasks for ratio in self.ratios]

    def fitted(self, model: PreTrainedModel) -> PluginConfig:
        """With the residual scale of the model's family where none was given."""
        return self if self.residual_scale else replace(self, residual_scale=spec_for(model).stream_scale)

    def apply(self, model: PreTrainedModel) -> None:
        """Wrap every encoder FFN; `base_layer` keeps the dense one. `ratio` is in use afterwards."""
        attach_modules(model, self.compat)
        self.extend(model)
        set_ratio(model, self.ratio, self.tasks[0])

    def undo(self, model: PreTrainedModel) -> None:
        """Hang the dense FFNs back; logits are bit-identical to those before `apply`."""
        detach_modules(model)

    def own_modules(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """`[task.]ratio_{k}.mux_layer.{layer}` -> plugin; what follows the ratio is the published name."""
        return {
            f"{prefix_of(choice)}mux_layer.{i}": plugin
            for choice in self.choices
            for i, plugin in enumerate(plugin_modules(model, choice.ratio, choice.task))
        }

    def parts(self) -> dict[str, EditConfig]:
        """One delta file per ratio: `plugin-k4`; of a named task `plugin-sst2-k4`."""
        return {
            "-".join(["plugin", *([choice.task] if choice.task else []), f"k{choice.ratio}"]): replace(
                self, ratios=(choice.ratio,), tasks=(choice.task,), ratio=1
            )
            for choice in self.choices
        }

    def joined(self, other: EditConfig) -> PluginConfig:
        """A bank with the ratios and tasks of both; all other settings must agree."""
        assert isinstance(other, PluginConfig)
        scale = self.residual_scale or other.residual_scale  # one that is left to the model agrees with any
        mine, theirs = (replace(edit, residual_scale=edit.residual_scale or scale) for edit in (self, other))
        if (differing := replace(theirs, ratios=self.ratios, tasks=self.tasks, ratio=self.ratio)) != mine:
            raise ModelError(f"Plugins with other settings cannot share a bank: {differing} and {mine}.")
        ratios, tasks = dict.fromkeys(self.ratios + other.ratios), dict.fromkeys(self.tasks + other.tasks)
        return replace(mine, ratios=tuple(sorted(ratios)), tasks=tuple(tasks))

    def for_task(self, task: str, state: dict[str, Tensor]) -> tuple[PluginConfig, dict[str, Tensor]]:
        """Plugins without a task's name as those of `task`."""
        if self.tasks != ("",):
            raise ModelError(
                f"The plugins have the names of tasks ({', '.join(self.tasks)}); {task!r} is none of them."
            )
        named = {f"{task}.{key}": tensor for key, tensor in state.items()}  # as `prefix_of` begins
        return replace(self, tasks=(task,)), named

    def extend(self, model: PreTrainedModel) -> None:
        """Bring a model's bank up to this config: what is missing is added untrained, nothing is removed."""
        scale = self.fitted(model).residual_scale
        assert scale is not None
        fill_bank(model, self.choices, self.bottleneck, scale)


def prefix_of(choice: Choice) -> str:
    """What stands before the published name of a plugin's tensors."""
    return f"{choice.task}.ratio_{choice.ratio}." if choice.task else f"ratio_{choice.ratio}."


def _is_task_name(name: Any) -> bool:
    return isinstance(name, str) and not set(name) & set(".-/")
