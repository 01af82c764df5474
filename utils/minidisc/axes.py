"""What a schedule has to know of each axis beyond `model.schedule.ScaleAxis`: what its students are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from dataset import Task
from model import (
    DecompositionConfig,
    LayerDropConfig,
    LayersAxis,
    PluginConfig,
    PruningConfig,
    RankAxis,
    RatioAxis,
    SparsityAxis,
    apply_edit,
    committed,
    edits_of,
    find_edit,
    first_layers,
    sort_components,
    sparsify,
)
from model.backbone import BERT, family_of, spec_for
from model.decomposition import at_ranks, matrix_bank, ranks_at
from model.decomposition.embeddings import EmbeddingConfig
from model.plugin import with_ratios
from model.plugin.axis import ratio_at
from model.pruning import Importance, sparsity_of, with_layers
from model.schedule import ScaleAxis
from notation import SCALE_TOLERANCE, UNITS, Axis, Step, Unit
from utils.errors import UserError
from utils.minidisc.ranks import base_flags
from utils.minidisc.unsort import unsorted
from utils.tucker.arguments import DecompositionArguments
from utils.tucker.loading import load_classifier
from utils.tucker.student import build_student, requested_edits


class Job(Protocol):
    """What an axis asks of the schedule when it makes the base."""

    def importance(self, teacher: Any) -> Importance:
        """That of a teacher's heads and neurons."""

    def ratios(self) -> list[int]:
        """All plugin ratios that will be asked for."""

    def say(self, text: str) -> None:
        """One line to the user."""


class AxisKind(ABC):
    """Makes the students of one axis. Scales are fractions that are gone, of the base: the student that lacks nothing.

    Args:
        task: of the classifiers.
        layers: how many the fine-tuned teacher's encoder had before any were dropped.
    """

    axis: ClassVar[Axis]
    #: Edits that a teacher may carry.
    allowed: ClassVar[tuple[str, ...]]
    #: Folder of the stage that makes the base, and what is said of it; None where the teacher itself is the base.
    stage: ClassVar[str | None] = None
    told: ClassVar[str] = ""
    #: Whether each step of a path is cut from the base, not from the assistant before it.
    starts_at_base: ClassVar[bool] = False
    #: Whether the base computes what the teacher does, and so teaches in its place.
    base_teaches: ClassVar[bool] = False

    def __init__(self, task: Task, layers: int) -> None:
        self.task, self.num_layers = task, layers

    @property
    def unit(self) -> Unit:
        """How scales are written."""
        return UNITS[self.axis]

    def number(self, scale: float) -> float:
        """A scale in the natural unit: 90, 60, 4."""
        return self.unit.number(scale, self.num_layers)

    @property
    def mark(self) -> str:
        """What stands behind a number in a sentence that names the axis."""
        return " %" if self.unit.is_percent else ""

    def text(self, scale: float) -> str:
        """A scale as it is written: 90S, 60R, 4L."""
        return f"{self.number(scale):g}{self.unit.letter}"

    def check(self, teacher: Any, source: str, steps: Sequence[Step]) -> None:
        """Refuse a teacher that has no students of these scales.

        Raises:
            UserError, ModelError: with what it is.
        """
        if beyond := [edit.kind for edit in edits_of(teacher) if edit.kind not in self.allowed]:
            what = {"sparsity": "heads, neurons and layers", "layers": "heads, neurons and layers"}.get(self.axis)
            goes = f"{what} can go only before it" if what else f"{self.unit.plural} cannot be scaled with it"
            raise UserError(f"{source} carries the edit {beyond[0]!r}: {goes}.")

    def given(self, teacher: Any) -> float | None:
        """The scale of a teacher that is a base itself, or a part of one; None if a base has to be made."""
        return None

    def base(self, source: str, job: Job) -> Any:
        """The base, made of the teacher in `source`."""
        raise NotImplementedError

    def settle(self, model: Any) -> None:
        """Take note of the base, before students are made of it."""
        return

    @abstractmethod
    def open(self, model: Any, scales: Sequence[float]) -> ScaleAxis:
        """The axis on a student that `student` has made for these scales."""

    @abstractmethod
    def student(self, model: Any, scales: Sequence[float]) -> Any:
        """A model that holds these scales, and no more than it must, of a base or an assistant that has been trained
        on all of them."""

    def cut(self, model: Any, scale: float) -> Any:
        """The student of a path's step, of a base or an assistant that has been trained by itself."""
        return self.student(model, (scale,))

    def kept(self, axis: ScaleAxis, scale: float, target: float) -> Any:
        """What is saved of an iteration that chose `scale`: the next one goes on from it, to `target`."""
        return axis.commit(scale)


class SparsityKind(AxisKind):
    """Heads and neurons, sorted by importance."""

    axis = "sparsity"
    allowed = (LayerDropConfig.kind, PruningConfig.kind)
    stage, told, base_teaches = "sparsified", "importance of heads and neurons", True

    def __init__(self, task: Task, layers: int, round_to: int) -> None:
        super().__init__(task, layers)
        self._round_to = round_to

    def check(self, teacher: Any, source: str, steps: Sequence[Step]) -> None:
        """A teacher that is pruned already has no smaller sparsity."""
        super().check(teacher, source, steps)
        pruned = sparsity_of(teacher) - SCALE_TOLERANCE
        for step in steps:
            if pruned > step.scale:
                raise UserError(f"{source} is pruned to {100 * pruned:g} % already and cannot become {step.text}.")

    def given(self, teacher: Any) -> float | None:
        """A sorted teacher's sparsity."""
        edit = find_edit(teacher, PruningConfig)
        return None if edit is None else edit.sparsity

    def base(self, source: str, job: Job) -> Any:
        """The teacher, sorted."""
        model = load_classifier(source, self.task, trained=True)
        sparsify(model, job.importance(model), self._round_to)
        return model

    def open(self, model: Any, scales: Sequence[float]) -> ScaleAxis:
        """Nested widths."""
        return SparsityAxis(model, scales)

    def student(self, model: Any, scales: Sequence[float]) -> Any:
        """Widths beyond the largest trained one would only cost memory."""
        return committed(model, scales[0])


class RankKind(AxisKind):
    """The leading components of a decomposed teacher.

    Args:
        flags: `--protocol`, `--ops` and the ranks of the base.
    """

    axis = "rank"
    allowed = (LayerDropConfig.kind, PruningConfig.kind, DecompositionConfig.kind, EmbeddingConfig.kind)
    stage, told = "decomposed", "decomposition of the teacher"

    def __init__(self, task: Task, layers: int, flags: DecompositionArguments) -> None:
        super().__init__(task, layers)
        self._flags, self._whole = flags, dict[str, int]()

    def check(self, teacher: Any, source: str, steps: Sequence[Step]) -> None:
        """The encoder must be a BERT's, of whole layers; ranks for one that is decomposed already are a mistake."""
        super().check(teacher, source, steps)
        if family_of(teacher.config) != BERT.family:
            raise UserError(
                f"{source} is of family {family_of(teacher.config)!r}: ranks are those of a decomposed BERT."
            )
        if sparsity_of(teacher) > 0:
            raise UserError(f"{source} is pruned: only whole layers can be decomposed.")
        if find_edit(teacher, DecompositionConfig) is None:
            requested_edits(teacher.config, base_flags(self._flags, teacher))
        elif replace(self._flags, use_swap=False) != DecompositionArguments():
            raise UserError(f"{source} is decomposed already, and its ranks are the base: leave --rank_* out.")
        else:
            RankAxis(teacher, (0.0,)).close()

    def base(self, source: str, job: Job) -> Any:
        """The teacher's decomposition, its components sorted."""
        model = load_classifier(source, self.task, trained=True)
        if find_edit(model, DecompositionConfig) is None:
            model, how = build_student(source, base_flags(self._flags, model), self.task, trained=True)
            job.say(f"base: {how}")
        sort_components(model)
        return model

    def settle(self, model: Any) -> None:
        """Its ranks are those of scale 0."""
        self._whole = matrix_bank(model).ranks

    def open(self, model: Any, scales: Sequence[float]) -> ScaleAxis:
        """Views of the bank's factors."""
        return RankAxis(model, scales, self._whole)

    def student(self, model: Any, scales: Sequence[float]) -> Any:
        """Components beyond those of the largest scale would only cost memory."""
        return at_ranks(model, ranks_at(self._whole, scales[0]))

    def cut(self, model: Any, scale: float) -> Any:
        """An assistant that was trained by itself has its components mixed."""
        sort_components(model)
        return self.student(model, (scale,))


class LayersKind(AxisKind):
    """The teacher's first layers."""

    axis = "layers"
    allowed = (LayerDropConfig.kind, PruningConfig.kind)
    starts_at_base = True

    def check(self, teacher: Any, source: str, steps: Sequence[Step]) -> None:
        """The teacher is a whole one."""
        super().check(teacher, source, steps)
        if sparsity_of(teacher) > SCALE_TOLERANCE or find_edit(teacher, LayerDropConfig) is not None:
            raise UserError(f"{source} is smaller than the fine-tuned teacher: layers are dropped from that one.")
        for step in steps:
            if step.scale > self.num_layers:
                raise UserError(f"{source} has {self.num_layers} layers and cannot become {step.text}.")

    def given(self, teacher: Any) -> float | None:
        """All layers."""
        return 0.0

    def open(self, model: Any, scales: Sequence[float]) -> ScaleAxis:
        """A list that ends early."""
        return LayersAxis(model, scales)

    def student(self, model: Any, scales: Sequence[float]) -> Any:
        """Without the layers that no scale has; heads that stand in another order are put back."""
        count = int(self.number(scales[0]))
        if find_edit(model, LayerDropConfig) is not None:
            return with_layers(model, count)
        whole = unsorted(model, self.task)
        apply_edit(whole, first_layers(count))
        return whole


class RatioKind(AxisKind):
    """The teacher with plugins, whose ratio is scaled; backbone and plugins learn together."""

    axis = "ratio"
    allowed = (
        *(LayerDropConfig.kind, PruningConfig.kind, DecompositionConfig.kind),
        *(EmbeddingConfig.kind, PluginConfig.kind),
    )
    stage, told = "plugins", "plugins for every ratio"
    starts_at_base = True

    def check(self, teacher: Any, source: str, steps: Sequence[Step]) -> None:
        """Plugins that the teacher brings must be for all ratios."""
        super().check(teacher, source, steps)
        edit = find_edit(teacher, PluginConfig)
        if edit is not None and (lacking := [s.text for s in steps if s.scale not in (1, *edit.ratios)]):
            has = ", ".join(f"{ratio}K" for ratio in edit.ratios)
            raise UserError(f"{source} has plugins for {has} and cannot become {lacking[0]}.")

    def base(self, source: str, job: Job) -> Any:
        """The teacher with fresh plugins, switched off."""
        model = load_classifier(source, self.task, trained=True)
        if find_edit(model, PluginConfig) is None:
            apply_edit(model, PluginConfig(tuple(sorted({ratio for ratio in job.ratios() if ratio > 1}))))
        return model

    def open(self, model: Any, scales: Sequence[float]) -> ScaleAxis:
        """The switch of the plugins."""
        return RatioAxis(model, scales)

    def student(self, model: Any, scales: Sequence[float]) -> Any:
        """With the plugins of these ratios alone, the first one on."""
        ratios = [ratio_at(scale) for scale in scales]
        return with_ratios(model, ratios, ratios[0])

    def kept(self, axis: ScaleAxis, scale: float, target: float) -> Any:
        """The target's plugins have been trained too: they stay beside those in use."""
        assert isinstance(axis, RatioAxis)
        ratio = ratio_at(scale)
        return with_ratios(axis.model, [ratio, ratio_at(target)], ratio)


#: Where a schedule's base lies in its folder, of the axes that make one.
STAGES: Mapping[Axis, str] = {
    kind.axis: kind.stage for kind in (SparsityKind, RankKind, LayersKind, RatioKind) if kind.stage is not None
}


def kinds_for(axes: Iterable[Axis], command: Any, task: Task, teacher: Any) -> dict[Axis, AxisKind]:
    """One of each axis that a call uses.

    Args:
        command: the parsed flags (`utils.tucker.task_arguments.TaskCommand`).
    """
    depth = spec_for(teacher).sizes(teacher.config).layers
    makers: dict[Axis, Callable[[], AxisKind]] = {
        "sparsity": lambda: SparsityKind(task, depth, command.schedule.round_to),
        "rank": lambda: RankKind(task, depth, command.decomposition),
        "layers": lambda: LayersKind(task, depth),
        "ratio": lambda: RatioKind(task, depth),
    }
    return {axis: makers[axis]() for axis in dict.fromkeys(axes)}
