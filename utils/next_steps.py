"""What each entry script proposes when it has ended: complete commands with the run's own models, data and settings.

A command takes over what describes the data and the machine (lengths, case, precision), and leaves to the defaults of
the next stage what belongs to training. Folders that it proposes are new ones beside what was made.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from dataset import TASKS
from model.weights import read_json
from utils.arguments import RunArguments
from utils.arguments.spellings import flag_named
from utils.hints import beside, command
from utils.tucker.arguments import BertArguments
from utils.tucker.defaults import TASK_DEFAULTS
from utils.tucker.general_arguments import GeneralCommand
from utils.tucker.ranks import flags_for, sizes_of
from utils.tucker.task_arguments import Plan, TaskCommand
from utils.variator.arguments import PluginArguments, TaskArguments

#: Tasks that the server does not answer.
_NOT_SERVED = ("squad", "wiki")
#: The budget that plans are shown with.
BUDGET = "macs<=0.5x"
#: A student of each axis: its flag in `minidisc`.
_TARGETS = {"sparsity": ["--target_sparsity", "90"], "rank": ["--target", "60R"]}


# --- task_distill.py -------------------------------------------------------------------------------------------------


def after_stage(stage: str, given: TaskCommand, plan: Plan) -> list[str]:
    """Behind a stage of `task_distill.py`; nothing where the same call goes on by itself."""
    output = _output(given.run)
    if stage == "intermediate":
        if len(plan.stages) > 1:
            return []
        more = ["--teacher_model", given.task.teacher_model, "--student_model", output, *_augmented(given)]
        return [_task_command(given, "--stage", "prediction", *more, "--output_dir", beside(output, "prediction"))]
    if plan.evaluate or plan.predict:
        return []
    return _of_teacher(given, output) if stage == "finetune" else _of_student(given, output)


def after_schedule(mode: str, given: TaskCommand, plan: Plan) -> list[str]:
    """Behind a schedule: of a sorted or decomposed teacher the choice of a size, of a student its evaluation."""
    output = _output(given.run)
    if mode == "sparsify":
        return _of_sorted(given, output)
    return [] if plan.evaluate or plan.predict else _of_student(given, output)


def after_evaluation(given: TaskCommand, plan: Plan) -> list[str]:
    """Behind evaluation and prediction: of a teacher its students, of a student the page of results and the server."""
    output = _output(given.run)
    if plan.stages == ("finetune",):
        return _of_teacher(given, output)
    if plan.schedule == "sparsify":
        return []
    trained = bool(plan.stages or plan.schedule)
    source = output if trained else Path(str(given.task.student_model))
    runs = list(dict.fromkeys([*([source] if (source / "result.json").is_file() else []), output]))
    served = [_serve(source, given.task.task_name)] if source.is_dir() else []
    if not plan.evaluate:
        return served
    return [command("utils.report", *runs, "--output", beside(output, "report.html")), *served]


def _of_teacher(given: TaskCommand, output: Path) -> list[str]:
    """Students of a fine-tuned model: pruned, and of a BERT decomposed."""
    config = _config(output)
    if config.get("compression"):
        return _of_student(given, output)
    teacher: list[Any] = ["--teacher_model", output]
    is_bert = config.get("model_type") == "bert"
    kind = [] if is_bert else ["--model_type", "sparseenct5"]
    found = [
        _task_command(given, "--mode", "sparsify", *kind, *teacher, "--output_dir", beside(output, "sparsified")),
    ]
    if is_bert and (sizes := sizes_of(config)) is not None:
        student = [*teacher, "--student_model", output, *flags_for(sizes), *_augmented(given)]
        found.append(_task_command(given, "--stage", "both", *student, "--output_dir", beside(output, "decomposed")))
    return found


def _of_sorted(given: TaskCommand, output: Path) -> list[str]:
    """What a run of --mode sparsify is for: a plan of its sizes, or a schedule; of a cut, its distillation."""
    step = given.schedule.layer_or_sparsity
    kind = ["--model_type", given.schedule.model_type] if given.schedule.model_type else []
    if step is not None:
        more = ["--layer_or_sparsity", step, *kind, "--teacher_model", given.task.teacher_model]
        return [_task_command(given, "--mode", "distill", *more, "--output_dir", beside(output, "distilled"))]
    axis = given.schedule.axis or "sparsity"
    sized = ["--axis", axis] if axis in ("rank", "layers") else []
    length = given.bert.max_seq_length if given.bert.max_seq_length != 128 else None
    rows = ["--length", length] if length else []
    # A decomposed model is no whole one to count from, and what it saves are parameters.
    limit = [BUDGET] if axis != "rank" else ["params<=0.5x", "--whole", given.task.teacher_model]
    plan = command("utils.plan", "--model", output, *sized, "--budget", *limit, *rows)
    if axis not in _TARGETS:
        return [plan]
    scaled = [] if axis == "sparsity" else ["--axis", axis]
    schedule: list[Any] = [*scaled, *_TARGETS[axis], *kind, "--teacher_model", output]
    return [plan, _task_command(given, "--mode", "minidisc", *schedule, "--output_dir", beside(output, "minidisc"))]


def _of_student(given: TaskCommand, output: Path) -> list[str]:
    """The evaluation of a finished student with its costs, or its server."""
    place = ["--student_model", output, "--output_dir", beside(output, "evaluation")]
    return [_task_command(given, "--mode", "evaluate", *place), _serve(output, given.task.task_name)]


def _task_command(given: TaskCommand, *words: Any) -> str:
    """A call of `task_distill.py` on the same task, data and machine."""
    task, bert = given.task, given.bert
    place = ["--task_name", task.task_name, "--data_dir", task.data_dir]
    return command("task_distill.py", *words[:2], *place, *words[2:], *bert_settings(bert, given.run, task.task_name))


def bert_settings(bert: BertArguments, run: RunArguments, task: str | None) -> list[Any]:
    """Flags of the length, the case and the machine that are not the default of the task."""
    known = TASK_DEFAULTS.get(task or "")
    length = known.max_seq_length if known is not None else BertArguments().max_seq_length
    return [
        *(["--max_seq_length", bert.max_seq_length] if bert.max_seq_length != length else []),
        *(["--do_lower_case"] if bert.do_lower_case else []),
        *(["--fp16"] if bert.fp16 else []),
        *(["--no_cuda"] if bert.no_cuda else []),
        *_precision(run),
    ]


def _augmented(given: TaskCommand) -> list[str]:
    return ["--aug_train"] if given.task.aug_train else []


# --- general_distill.py ----------------------------------------------------------------------------------------------


def after_general(given: GeneralCommand) -> list[str]:
    """Behind the general distillation: a teacher of some task is fine-tuned, and then teaches the student.

    The task is one whose rows are there, beside the text or where the launchers keep them; else MRPC, which is small
    and fetched first.
    """
    output, text = _output(given.run), given.general.pregenerated_data
    assert text is not None
    places = [text.parent / "glue", Path("data/glue")]
    found = [(name, place) for place in places for name in TASK_DEFAULTS if _has_rows(place, name)]
    name, place = found[0] if found else ("mrpc", places[-1])
    settings = bert_settings(given.bert, given.run, name)
    tuned, task = beside(output, f"teacher-{name}"), ["--task_name", name, "--data_dir", place]
    teacher = ["--teacher_model", given.general.teacher_model, "--output_dir", tuned]
    student = ["--teacher_model", tuned, "--student_model", output, "--output_dir", beside(output, name)]
    fetch = [] if found else [command("utils/save_data.py", "--only", name)]
    return [
        *fetch,
        command("task_distill.py", "--mode", "finetune", *task, *teacher, *settings),
        command("task_distill.py", "--stage", "both", *task, *student, *settings),
    ]


def _has_rows(data: Path, task: str) -> bool:
    return any((data / name).is_dir() for name in (task, TASKS[task].folder) if name)


# --- train_t5.py -----------------------------------------------------------------------------------------------------


def after_t5(
    task: TaskArguments, plugin: PluginArguments, run: RunArguments, batch_size: int, training_step: int
) -> list[str]:
    """Behind `train_t5.py`: of a T5 its plugins, of plugins their evaluation, of an evaluation the page of results."""
    output = _output(run)
    best = output / "best"
    if task.mode == "valid":
        page = command("utils.report", output, "--output", beside(output, "report.html"))
        return [page, *_serve_t5(task, plugin.plugin_path)]
    base = ["--task_name", task.dataset, "--data_dir", task.data_path, "--model_config", task.model_config]
    settings = _t5_settings(task, run, batch_size)
    if plugin.distil != "no":
        given = [*base, *(["--checkpoint", task.checkpoint] if task.checkpoint else [])]
        place = ["--plugin_path", best, "--output_dir", beside(output, "valid")]
        valid = command("train_t5.py", "--mode", "valid", *given, *place, *settings)
        return [valid, *_serve_t5(task, str(best))]
    steps = ["--max_steps", training_step] if task.dataset == "wiki" else []  # a corpus may have no known end
    learn = ["--checkpoint", best, "--distil", "hidden", "--mux_num", 4, "--output_dir", beside(output, "plugins")]
    return [command("train_t5.py", *base, *learn, *steps, *settings)]


def _t5_settings(task: TaskArguments, run: RunArguments, batch_size: int) -> list[Any]:
    """Flags of the data and the machine that are not the default."""
    usual = {entry.name: entry.default for entry in fields(TaskArguments)}
    names = ("max_input_length", "decoder_start", "logit_scale")
    values = [(name, getattr(task, name)) for name in names if getattr(task, name) != usual[name]]
    found = [word for name, value in values for word in (flag_named(name), value)]
    return [*found, "--train_batch_size", batch_size, *_precision(run)]


def _serve_t5(task: TaskArguments, plugins: str | None) -> list[str]:
    """The server of a fine-tuned T5 with these plugins, where there is one."""
    model = task.checkpoint or Path(str(task.model_config))
    is_model = (model / "config.json").is_file() or (model / "best" / "config.json").is_file()
    if task.dataset in _NOT_SERVED or not is_model:
        return []
    given = ["--plugins", plugins] if plugins and plugins != "none" and Path(plugins).is_dir() else []
    return [command("serving", "--model", model, *given, "--task_name", task.dataset)]


# --- of all ----------------------------------------------------------------------------------------------------------


def _serve(model: Path, task: str | None) -> str:
    return command("serving", "--model", model, "--task_name", task)


def _precision(run: RunArguments) -> list[str]:
    return [] if run.precision == RunArguments().precision else ["--precision", run.precision]


def _output(run: RunArguments) -> Path:
    assert run.output_path is not None
    return run.output_path


def _config(run: Path) -> dict[str, Any]:
    file = run / "best" / "config.json"
    return read_json(file) if file.is_file() else {}
