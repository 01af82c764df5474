"""The edit protocol: a compressed model is a Hugging Face model plus an ordered list of structural edits.

An edit is a frozen dataclass that knows how to apply itself to a model, how to undo itself where that is
possible, and which of the model's parameters are its own. The list of a model's edits lives in
`model.config.compression`, so `save_pretrained` writes it into `config.json`, and `AutoModel…from_pretrained`
(after `import model`) builds the same structure again before it loads the weights.

    from model import PluginConfig, apply_edit
    apply_edit(t5, PluginConfig(ratios=(2, 4)))
    t5.save_pretrained("small")                      # plain safetensors + config.json
    # the same logits, in any process that did `import model`
    AutoModelForSeq2SeqLM.from_pretrained("small", trust_remote_code=False)
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Self, TypeVar

from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedModel

from model.backbone import COMPRESSED_PREFIX, family_of
from model.errors import ModelError

#: The order in which edits may be stacked: what changes the backbone's shapes first, what wraps it last.
STACKING_ORDER = ("layer_drop", "pruning", "decomposition", "embedding", "lora", "plugin", "quantization")
#: No width, rank or ratio of a model comes near; a file that names a larger one would only fill the memory.
LARGEST_SETTING = 1 << 20


Edit = TypeVar("Edit", bound="EditConfig")


class EditConfig(ABC):
    """Base of all edits. Subclasses are frozen dataclasses whose fields are JSON values or tuples of them."""

    kind: ClassVar[str]

    @abstractmethod
    def apply(self, model: PreTrainedModel) -> None:
        """Replace modules of `model` in place. Matching nothing raises `ModelError`."""

    def fitted(self, model: PreTrainedModel) -> Self:
        """The edit with what was left to the model filled in; it is applied, and recorded, in this form."""
        return self

    def build(self, model: PreTrainedModel) -> None:
        """Give a model without meaningful weights the structure that `apply` leaves; also on the meta device.

        Edits that look at weights when they are applied (a decomposition, say) have their own.
        """
        self.apply(model)

    def undo(self, model: PreTrainedModel) -> None:
        """Give back the modules as they were. Edits that cannot be undone say so."""
        raise ModelError(f"The edit {self.kind!r} cannot be undone: reload the model without it.")

    @abstractmethod
    def own_modules(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """The modules that this edit added, by the name under which a delta file stores them."""

    def parts(self) -> dict[str, EditConfig]:
        """How the edit's delta is split into files: name of the file -> the part of the edit in it."""
        return {self.kind: self}

    def joined(self, other: EditConfig) -> EditConfig:
        """The edit that holds what both hold, where parts can be put together again."""
        raise ModelError(f"Two edits {self.kind!r} cannot be joined.")

    def for_task(self, task: str, state: dict[str, Tensor]) -> tuple[EditConfig, dict[str, Tensor]]:
        """The edit and its stored tensors under the name of a task, where an edit knows tasks."""
        raise ModelError(f"The edit {self.kind!r} belongs to no task, so that it cannot get the name {task!r}.")

    def extend(self, model: PreTrainedModel) -> None:
        """Bring a model that carries a part of this edit up to the whole, where that is possible."""
        raise ModelError(f"The edit {self.kind!r} cannot be extended.")

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as it stands in `config.json`."""
        fields = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {"kind": self.kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_dict`. An unknown field is an error, so that a typo never becomes the default.

        Raises:
            ModelError: a setting is unknown, or not what it must be.
        """
        fields = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        given = {k: v for k, v in values.items() if k != "kind"}
        if unknown := sorted(set(given) - fields):
            raise ModelError(
                f"The edit {cls.kind!r} has no setting {', '.join(unknown)}; it has: {', '.join(sorted(fields))}."
            )
        if large := cls.settings_above(LARGEST_SETTING, given):
            raise ModelError(f"The edit {cls.kind!r} has more than {LARGEST_SETTING} as {large[0]}: no model has that.")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})

    @classmethod
    def settings_above(cls, limit: int, values: Mapping[str, Any]) -> list[str]:
        """Names of those `values` (JSON form) that are sizes, or hold some, and go beyond `limit`."""
        sizes = (f.name for f in dataclasses.fields(cls) if "float" not in str(f.type))  # type: ignore[arg-type]
        return [name for name in sizes if _largest_number(values.get(name)) > limit]


def is_whole(value: object) -> bool:
    """Whether a setting is a whole number (JSON's `true` is not)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_positive(value: object) -> bool:
    """Whether a setting is a finite number above 0 (a whole number that no float can hold is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def _largest_number(value: Any) -> int:
    """The largest whole number in a setting, at any depth; 0 if there is none."""
    if isinstance(value, list | tuple):
        return max(map(_largest_number, value), default=0)
    return value if is_whole(value) else 0


_REGISTRY: dict[str, type[EditConfig]] = {}


def register_edit(cls: type[Edit]) -> type[Edit]:
    """Class decorator: make an edit loadable from `config.json` by its kind."""
    if cls.kind not in STACKING_ORDER:
        raise ModelError(f"The edit {cls.kind!r} has no place in the stacking order {STACKING_ORDER}.")
    _REGISTRY[cls.kind] = cls
    return cls


def edit_from_dict(values: Any) -> EditConfig:
    """Build the edit that `config.json` describes.

    Raises:
        ModelError: it describes none.
    """
    if not isinstance(values, dict):
        raise ModelError(f"config.json describes an edit by a {type(values).__name__}, expected an object.")
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in _REGISTRY:
        raise ModelError(f"config.json names the edit {kind!r}; this version knows {', '.join(sorted(_REGISTRY))}.")
    return _REGISTRY[kind].from_dict(values)


def edits_from(descriptions: Any) -> list[EditConfig]:
    """The edits of a config's entry `compression`, in its order.

    Raises:
        ModelError: it is no list of edits.
    """
    if not isinstance(descriptions, list | tuple):
        raise ModelError(f"config.json has a {type(descriptions).__name__} as compression, expected a list of edits.")
    return [edit_from_dict(values) for values in descriptions]


def edits_of(model: PreTrainedModel) -> list[EditConfig]:
    """The edits that `model` carries, in stacking order (empty for a dense model)."""
    return [edit_from_dict(values) for values in getattr(model.config, "compression", None) or []]


def find_edit(model: PreTrainedModel, edit_type: type[Edit]) -> Edit | None:
    """The model's edit of the given type, or None."""
    return next((edit for edit in edits_of(model) if isinstance(edit, edit_type)), None)


def check_stacking(kinds: Sequence[str]) -> None:
    """Refuse a stack that repeats an edit or is out of order, naming the order that would do.

    Raises:
        ModelError: with the legal order.
    """
    legal = sorted(set(kinds), key=STACKING_ORDER.index)
    if list(kinds) != legal:
        problem = "has the same edit twice" if len(set(kinds)) < len(kinds) else "cannot be stacked in this order"
        # A bank takes square blocks of the model's width, which layers that lost heads or neurons do not have.
        only = ", where pruning has taken nothing away" if {"pruning", "decomposition"} <= set(kinds) else ""
        raise ModelError(f"The stack {' + '.join(kinds)} {problem}; legal is: {' + '.join(legal)}{only}.")


def apply_edit(model: PreTrainedModel, edit: EditConfig, from_scratch: bool = False) -> None:
    """Apply one edit on top of those that the model carries, and record it in the model's config.

    Args:
        from_scratch: draw the edit's parameters instead of computing them from the model's weights.
    """
    present = edits_of(model)
    check_stacking([e.kind for e in present] + [edit.kind])
    edit = edit.fitted(model)
    (edit.build if from_scratch else edit.apply)(model)
    _record(model, [*present, edit])


def record_edit(model: PreTrainedModel, edit: EditConfig) -> None:
    """Record an edit whose modules are in place already: stacked on the others, or instead of one of its kind."""
    present = edits_of(model)
    if all(e.kind != edit.kind for e in present):
        check_stacking([e.kind for e in present] + [edit.kind])
        present.append(edit)
    _record(model, [edit if e.kind == edit.kind else e for e in present])


def undo_edit(model: PreTrainedModel, kind: str) -> None:
    """Undo the edit `kind`, which must be the last of the stack, or the last before quantisation."""
    present = edits_of(model)
    kinds = [e.kind for e in present]
    if kind not in kinds or set(kinds[kinds.index(kind) + 1 :]) - {STACKING_ORDER[-1]}:
        stack = " + ".join(kinds) or "none"
        raise ModelError(f"Only the last edit can be undone: asked for {kind!r}, the model carries {stack}.")
    present[kinds.index(kind)].undo(model)
    _record(model, [e for e in present if e.kind != kind])


def join_edits(edits: Sequence[EditConfig]) -> EditConfig:
    """The edit that holds what all of `edits` hold.

    Raises:
        ModelError: they do not go together, or the whole would also hold parts that none of them has (untrained ones).
    """
    whole = functools.reduce(lambda one, other: one.joined(other), edits)
    if gaps := sorted(set(whole.parts()).difference(*(edit.parts() for edit in edits))):
        raise ModelError(f"Together they lack {', '.join(gaps)}: every task of a bank has plugins for the same ratios.")
    return whole


def extend_edit(model: PreTrainedModel, edit: EditConfig) -> None:
    """Bring the model's edit of the same kind up to `edit` (see `EditConfig.extend`) and record it."""
    present, edit = edits_of(model), edit.fitted(model)
    edit.extend(model)
    _record(model, [edit if e.kind == edit.kind else e for e in present])


_most_numbers: ContextVar[float] = ContextVar("_most_numbers", default=math.inf)


@contextmanager
def structures_of_at_most(numbers: int) -> Iterator[None]:
    """Inside, `build_edits` refuses a structure that has more numbers in its parameters."""
    token = _most_numbers.set(numbers)
    try:
        yield
    finally:
        _most_numbers.reset(token)


def build_edits(model: PreTrainedModel, descriptions: Any) -> None:
    """Give a freshly built model the structure that its config describes (weights are loaded afterwards).

    Args:
        descriptions: a list of what `EditConfig.to_dict` gives.

    Raises:
        ModelError: it is none, or an edit does not go with this model, or it becomes too large.
    """
    edits = edits_from(descriptions)
    check_stacking([e.kind for e in edits])
    for edit in edits:
        edit.fitted(model).build(model)
    if (numbers := sum(parameter.numel() for parameter in model.parameters())) > _most_numbers.get():
        raise ModelError(
            f"config.json describes a model of {numbers:,} numbers, with its edits; its weights have far fewer."
        )


def _record(model: PreTrainedModel, edits: Sequence[EditConfig]) -> None:
    """Write the stack into the config.

    The config object becomes one of the `compressed_…` type, so that a program that does not know the edits
    refuses the saved directory instead of loading it with randomly initialised weights.
    """
    values = model.config.to_dict()
    values.pop("compression", None)
    family = family_of(model.config)
    model_type = COMPRESSED_PREFIX + family if edits else family
    values.pop("model_type", None)
    config = CONFIG_MAPPING[model_type].from_dict(values)
    if edits:
        config.compression = [edit.to_dict() for edit in edits]
    config._attn_implementation = model.config._attn_implementation
    if hasattr(model.config, "_name_or_path"):
        config._name_or_path = model.config._name_or_path
    model.config = config


def delta_state(model: PreTrainedModel, edit: EditConfig) -> dict[str, Tensor]:
    """The edit's own parameters under their stored names, on the CPU."""
    return {
        f"{prefix}.{name}": tensor.detach().to("cpu").contiguous()
        for prefix, module in edit.own_modules(model).items()
        for name, tensor in module.state_dict().items()
    }
