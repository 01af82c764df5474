"""From a saved directory and directories of plugins to a model with the tasks that it answers."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dataset import Collator, GlueExample, Task, encode_classification, get_task, sentinel_id, verbalizer_ids
from dataset.classification import PairCollator, encode_pairs
from dataset.tokens import TaggedSentence, encode_tagged
from model import PluginConfig, find_edit
from model.backbone import T5
from model.compression import is_whole
from model.delta import delta_parts
from model.distillation import classify
from model.heads import Batch, VerbalizerHead
from model.plugin.published import load_published_plugin, original_logit_scale
from model.weights import read_json
from serving.arguments import ServingArguments
from serving.predictor import Predictor, ServedTask
from utils.engine.precision import choose_precision
from utils.engine.run_directory import recorded_arguments
from utils.engine.run_files import ARGUMENTS_FILE
from utils.errors import UserError
from utils.loading import TASK_FILE, load_t5, read_task_file
from utils.opening.files import family_in
from utils.opening.places import delta_directory, model_directory
from utils.opening.tokenizers import open_tokenizer
from utils.opening.weights import open_delta
from utils.tucker.loading import check_length, load_classifier
from utils.tucker.tasks import is_tagged, task_for

#: Most tokens of a row where neither a flag nor the run that made the model says it; the scripts' own defaults.
_T5_LENGTH, _BERT_LENGTH = 512, 128


class Plugins(NamedTuple):
    """A `--plugins` flag: the name of the task ("" where none is given), and where its plugins are."""

    task: str
    path: Path


def load_predictor(arguments: ServingArguments) -> Predictor:
    """The model of `--model` with its plugins, ready to answer.

    Raises:
        UserError, ModelError, DataError: something is missing or does not fit, named in one sentence.
    """
    assert arguments.model is not None
    directory = Path(model_directory(str(arguments.model)))
    if not (directory / "config.json").is_file():
        raise UserError(f"--model {arguments.model} holds no model: there is no config.json in it, nor in its best/.")
    plugins = parse_plugins(arguments.plugins)
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    load = _load_t5 if family_in(directory) == T5.family else _load_bert
    model, tasks = load(directory, plugins, arguments)
    choice = choose_precision(arguments.precision, device)
    return Predictor(model.to(device).eval(), tasks, device, choice)


def parse_plugins(given: Sequence[str]) -> list[Plugins]:
    """`DIR` or `TASK=DIR`, each task once.

    Raises:
        UserError: a directory is not there, a task is unknown or named twice, or only some are named.
    """
    found = []
    for text in given:
        task, path = _split(text)
        if not path.exists():
            raise UserError(f"--plugins {text}: {path} does not exist.")
        found.append(Plugins(task, delta_directory(path, PluginConfig.kind)))
    names = [plugins.task for plugins in found]
    if len(set(names)) < len(names) or ("" in names and len(names) > 1):
        raise UserError(
            f"--plugins {' '.join(given)}: several directories of plugins need the names of their tasks, each once: "
            f"{_named(found)}."
        )
    return found


def _named(found: Sequence[Plugins]) -> str:
    """The flag with the tasks that the directories say they were made for."""
    pairs = [(one.task or _task_of(one.path) or "TASK", one.path) for one in found]
    return shlex.join(["--plugins", *(f"{task}={path}" for task, path in pairs)])


def _split(text: str) -> tuple[str, Path]:
    """Task, or "", and directory; a path may have = in it, as names of runs often do."""
    name, equals, rest = text.partition("=")
    if not equals or Path(text).exists() or os.sep in name:
        return "", Path(text)
    if not rest:
        raise UserError(f"--plugins {text}: a directory is missing behind =.")
    return get_task(name).name, Path(rest).expanduser()


def _load_t5(
    directory: Path, plugins: Sequence[Plugins], arguments: ServingArguments
) -> tuple[Any, dict[str, ServedTask]]:
    loaded = load_t5(str(directory), None)
    sources = _attach(loaded.model, directory, plugins, arguments.task)
    tasks = {}
    for name, (bank, source) in sources.items():
        task = get_task(name)
        if task.kind != "classification" or task.prompt is None:
            raise UserError(f"{source}: a T5 is served for classification with a prompt, and {name} is none.")
        head = _head(loaded.model, loaded.tokenizer, task, source, loaded.decoder_start)
        tasks[name] = ServedTask(
            task,
            bank,
            arguments.max_length or _recorded_length(source, "max_input_length") or _T5_LENGTH,
            partial(_prompts, task, loaded.tokenizer),
            Collator(loaded.tokenizer.pad_token_id),
            partial(_verbalized, head),
        )
    return loaded.model, tasks


def _load_bert(
    directory: Path, plugins: Sequence[Plugins], arguments: ServingArguments
) -> tuple[Any, dict[str, ServedTask]]:
    name = arguments.task or _task_of(directory)
    task = task_for(_required(name, directory))
    model = load_classifier(str(directory), task, trained=True)
    sources = _attach(model, directory, plugins, task.name)
    if list(sources) != [task.name]:
        raise UserError(f"--plugins {', '.join(sources)}: the classifier of {directory} is for {task.name} alone.")
    max_length = arguments.max_length or _recorded_length(directory, "max_seq_length") or _BERT_LENGTH
    check_length(model, max_length)
    tokenizer = open_tokenizer(directory, bool(_recorded(directory, "do_lower_case")), models=[model])
    bank, _ = sources[task.name]
    collate = PairCollator(Collator(tokenizer.pad_token_id))
    encode = partial(_words if is_tagged(task) else _pairs, tokenizer)
    return model, {task.name: ServedTask(task, bank, max_length, encode, collate, classify)}


def _attach(model: Any, directory: Path, plugins: Sequence[Plugins], asked: str | None) -> dict[str, tuple[str, Path]]:
    """Load plugins; task -> its name in the bank and the directory that says how it was trained."""
    named = {one.task: (one.task, one.path) for one in plugins if one.task}
    if named:
        for task, (_, path) in named.items():
            _load_named(model, task, path)
        if asked is not None and asked not in named:
            raise UserError(f"--task {asked}: --plugins names {', '.join(named)} only.")
        return {asked: named[asked]} if asked is not None else named
    carried = find_edit(model, PluginConfig)
    if not plugins and carried is not None and carried.tasks != ("",):
        return {task: (task, directory) for task in carried.tasks if asked in (None, task)}
    for one in plugins:
        _load_named(model, "", one.path)
    source = plugins[0].path if plugins else directory
    name = asked or _task_of(source) or _task_of(directory)
    return {_required(name, source): ("", source)}


def _load_named(model: Any, task: str, path: Path) -> None:
    if path.is_file():
        load_published_plugin(model, path, task=task)
        return
    parts = [part for part in delta_parts(path, "plugin") if task and part.startswith(f"plugin-{task}-")]
    open_delta(model, "plugin", path, parts, "" if parts else task)


def _head(model: Any, tokenizer: Any, task: Task, source: Path, decoder_start: int | None) -> VerbalizerHead:
    """How the task was trained, by its plugins' `task.json` or the model's."""
    recorded = read_task_file(source, model)
    start = recorded.get("decoder_start", decoder_start) or 0
    scale = original_logit_scale(model.config) if recorded.get("logit_scale") == "original" else 1.0
    return VerbalizerHead(verbalizer_ids(task, tokenizer), sentinel_id(tokenizer, 0), start, scale)


def _verbalized(head: VerbalizerHead, model: Any, batch: Batch) -> Tensor:
    return head(model, batch).scores


def _task_of(directory: Path) -> str | None:
    """The task that a directory was made for, where it says so."""
    recorded = read_json(directory / TASK_FILE).get("dataset") if (directory / TASK_FILE).is_file() else None
    name = recorded or _recorded(directory, "dataset") or _recorded(directory, "task_name")
    return get_task(name).name if isinstance(name, str) else None


def _recorded(directory: Path, name: str) -> Any:
    """An argument of the run that made a directory."""
    return recorded_arguments(directory).get(name)


def _recorded_length(directory: Path, name: str) -> int | None:
    """A length in tokens, as the run that made a directory had it."""
    length = _recorded(directory, name)
    if length is not None and (not is_whole(length) or length < 1):
        raise UserError(f"{directory / ARGUMENTS_FILE}: {name} is {length!r}, expected a whole number of at least 1.")
    return length if length is None else int(length)


def _required(name: str | None, source: Path) -> str:
    if name is None:
        raise UserError(f"{source} does not say which task it was trained for: name it with --task_name.")
    return name


def _prompts(task: Task, tokenizer: Any, rows: Sequence[Sequence[str]], max_length: int) -> list[Any]:
    return list(encode_classification(task, _examples(rows), tokenizer, max_length))


def _pairs(tokenizer: Any, rows: Sequence[Sequence[str]], max_length: int) -> list[Any]:
    return list(encode_pairs(_examples(rows), tokenizer, max_length))


def _examples(rows: Sequence[Sequence[str]]) -> list[GlueExample]:
    return [GlueExample(i, row[0], row[1] if len(row) > 1 else None) for i, row in enumerate(rows)]


def _words(tokenizer: Any, rows: Sequence[Sequence[str]], max_length: int) -> list[Any]:
    """Of each row's only text what stands between blanks."""
    sentences = [TaggedSentence(i, tuple(text.split()), None, ()) for i, (text,) in enumerate(rows)]
    return list(encode_tagged(sentences, tokenizer, max_length))
