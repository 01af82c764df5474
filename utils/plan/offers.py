"""The commands that a plan leads to: how a model gets more sizes, and what to do with the chosen one.

They take task, data and settings from the call, or from what the model's run recorded; where neither says them, a
sentence names what is missing instead of a command with gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dataset.sources import is_hub
from model.backbone import BERT, T5
from model.decomposition.config import RANKS
from model.weights import read_json
from utils.arguments import RunArguments
from utils.engine.run_directory import ARGUMENTS_FILE, recorded_arguments
from utils.hints import beside, command
from utils.next_steps import bert_settings
from utils.opening.files import architecture_in
from utils.plan.files import edits_in, family_in
from utils.plan.point import CONFIG, Point
from utils.tool_steps import after_model
from utils.tucker.arguments import BertArguments

#: Tasks that the server does not answer.
_NOT_SERVED = ("", "squad", "wiki")
#: Heads of a model that was fine-tuned to classify.
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
#: Axes that a schedule or an adaptation gives a plain classifier, in the order in which they are offered.
_OF_CLASSIFIERS = ("sparsity", "rank", "ratio")
_RATIOS = (2, 4)


@dataclass(frozen=True)
class Origin:
    """Where a point's model comes from.

    Attributes:
        place: what names it in a command: the folder of its run, or its own.
        task, data: that it was trained on; "" where nothing says it, or the data are not there.
        recorded: the arguments of its run.
    """

    place: Path
    task: str
    data: str
    recorded: Mapping[str, Any]

    @property
    def is_known(self) -> bool:
        """Whether it can be trained further."""
        return bool(self.task and self.data)


def origin_of(point: Point, task: str | None = None, data: str | None = None) -> Origin:
    """The origin of a point's model.

    Args:
        task, data: those of the call, which win over what was recorded.
    """
    directory = point.source.directory
    return _origin(directory.parent if directory.name == "best" else directory, task or "", data, point.source.task)


def _origin(run: Path, task: str, data: str | None = None, said: str = "") -> Origin:
    file = next((place / ARGUMENTS_FILE for place in (run, run / "best") if (place / ARGUMENTS_FILE).is_file()), None)
    recorded = {} if file is None else recorded_arguments(file.parent)
    name = task or recorded.get("task_name") or recorded.get("dataset") or said
    rows = data or next((r for key in ("data_dir", "data_path") if isinstance(r := recorded.get(key), str) and r), "")
    is_there = is_hub(str(rows)) or (bool(rows) and Path(rows).exists())
    return Origin(run, str(name), str(rows) if is_there else "", recorded)


def teacher_of(points: Sequence[Point]) -> Path | None:
    """The teacher that a point's run recorded, if it is still there: a whole model to count from."""
    named = [origin_of(point).recorded.get("teacher_model") for point in points]
    return next((Path(name) for name in named if isinstance(name, str) and Path(name).is_dir()), None)


def distillation_to(run: Path, scale: str) -> str | None:
    """The command that distils a student that a schedule tried and did not keep; None where its models are gone."""
    origin = _origin(run, "")
    teacher = origin.recorded.get("teacher_model")
    if not origin.is_known or not isinstance(teacher, str) or not Path(teacher).is_dir():
        return None
    names = ("model_type", "protocol", "ops", *RANKS["IV"])
    kept = [(f"--{name}", origin.recorded[name]) for name in names if origin.recorded.get(name) is not None]
    step = ["--layer_or_sparsity", scale, *(word for pair in kept for word in pair)]
    place = ["--teacher_model", teacher, "--output_dir", beside(run, scale)]
    return _task_command(origin, "--mode", "distill", *step, *place)


def ways_to_sizes(point: Point, origin: Origin, words: Sequence[str], axis: str | None = None) -> dict[str, str]:
    """Axis -> the command that lists, or makes, the sizes of a plain model on it; nothing for any other model.

    Args:
        words: the arguments of this call of the plan.
        axis: only this one.
    """
    directory = point.source.directory
    if edits_in(directory) or point.source.plugins is not None or not point.is_whole:
        return {}
    found: dict[str, str] = {}
    if origin.is_known and family_in(directory) == T5.family:
        learn = ["--checkpoint", directory, "--distil", "hidden", "--mux_num", *_RATIOS]
        base = ["--task_name", origin.task, "--data_dir", origin.data, "--model_config", directory]
        found["ratio"] = command("train_t5.py", *base, *learn, "--output_dir", beside(origin.place, "plugins"))
    elif origin.is_known and _is_classifier(directory):
        teacher = ["--teacher_model", origin.place, "--output_dir"]
        sort = ["--mode", "sparsify", *_kind(directory), *teacher, beside(origin.place, "sparsified")]
        found["sparsity"] = _task_command(origin, *sort)
        if family_in(directory) == BERT.family:
            split = ["--mode", "sparsify", "--axis", "rank", *teacher, beside(origin.place, "decomposed")]
            found["rank"] = _task_command(origin, *split)
        student = ["--student_model", origin.place, "--output_dir", beside(origin.place, "plugins")]
        found["ratio"] = _task_command(origin, "--mode", "adapt", "--mux_num", *_RATIOS, *student)
    if axis != "layers":
        found["layers"] = command("utils.plan", *_without(words, "--axis", "--grid"), "--axis", "layers")
    return {name: line for name, line in found.items() if axis in (None, name)}


def about_sizes(point: Point, origin: Origin, ways: Mapping[str, str]) -> str:
    """The sentence in front of these commands."""
    names, directory = list(ways), point.source.directory
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}, in this order"
    others = " and ".join((", ".join(_OF_CLASSIFIERS[:-1]), _OF_CLASSIFIERS[-1]))
    lacking = ""
    if family_in(directory) != T5.family and not _is_classifier(directory):
        lacking = f" (fine-tuned on a task, it would have some by {others} too)"
    elif not origin.is_known:
        lacking = f" (--task_name and --data_dir, which name its task's rows, add those by {others})"
    return f"{point.name} has one size. Smaller ones are listed or made by {listed}{lacking}:"


def after_choice(point: Point, origin: Origin, words: Sequence[str]) -> list[str]:
    """What to do with the chosen point: of a cut the student is distilled, every other one is written."""
    write = command("utils.plan", *_without(words, "--remeasure"), "--commit", beside(origin.place, _end(point)))
    return [*_distillation(point, origin), write] if has_to_learn(point, origin) else [write]


def has_to_learn(point: Point, origin: Origin) -> bool:
    """Whether the point was cut, or decomposed, and not trained since."""
    return point.is_cut or (point.axis == "rank" and origin.recorded.get("mode") == "sparsify")


def after_commit(point: Point, origin: Origin, target: Path) -> list[str]:
    """What to do with the written model: a cut has not learnt and is distilled, any other one can be served."""
    learns = has_to_learn(point, origin)
    if learns and (distil := _distillation(point, origin, target)):
        return distil
    if not learns and origin.task not in _NOT_SERVED and _can_predict(target):
        return [command("serving", "--model", target, "--task_name", origin.task)]
    return after_model(target)


def _distillation(point: Point, origin: Origin, written: Path | None = None) -> list[str]:
    """The distillation of a cut, from the model that it is cut of, or from the one that this was decomposed of.

    Args:
        written: where the cut has been saved; the command cuts it itself otherwise.
    """
    directory, recorded = point.source.directory, origin.recorded
    if not origin.is_known or not _is_classifier(directory):
        return []
    teacher, ranks = origin.place, []
    made = beside(origin.place, point.step) if written is None else beside(written, "distilled")
    if point.axis == "rank" and recorded.get("mode") == "sparsify" and (first := teacher_of([point])) is not None:
        teacher = first
        names = ("protocol", "ops", *RANKS["IV"]) if written is None else ()
        ranks = [word for name in names if recorded.get(name) is not None for word in (f"--{name}", recorded[name])]
    step = ["--layer_or_sparsity", written or point.step, *_kind(directory), *ranks]
    place = ["--teacher_model", teacher, "--output_dir", made]
    return [_task_command(origin, "--mode", "distill", *step, *place)]


def _kind(directory: Path) -> list[str]:
    """The flag of the model type where it is not the usual one."""
    return [] if family_in(directory) == BERT.family else ["--model_type", "sparseenct5"]


def _task_command(origin: Origin, *words: Any) -> str:
    bert = {entry.name: origin.recorded[entry.name] for entry in fields(BertArguments) if entry.name in origin.recorded}
    run = {"precision": origin.recorded["precision"]} if "precision" in origin.recorded else {}
    place = ["--task_name", origin.task, "--data_dir", origin.data]
    settings = bert_settings(BertArguments(**bert), RunArguments(**run), origin.task)
    return command("task_distill.py", *words[:2], *place, *words[2:], *settings)


def _end(point: Point) -> str:
    """What the name of a written point's folder ends in."""
    return {"": "chosen", "ratio": f"k{point.value:g}"}.get(point.axis) or f"cut-{point.step}"


def _without(words: Sequence[str], *flags: str) -> list[str]:
    """The words without these flags and their values."""
    kept: list[str] = []
    dropped = False
    for word in words:
        if word.startswith("--"):
            dropped = word.split("=")[0] in flags
        if not dropped:
            kept.append(word)
    return kept


def _is_classifier(directory: Path) -> bool:
    return architecture_in(read_json(directory / CONFIG)).endswith(_CLASSIFIERS)


def _can_predict(directory: Path) -> bool:
    return _is_classifier(directory) or family_in(directory) == T5.family
