"""The flags of `train_t5.py` beyond the shared ones; names and defaults of the original."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.arguments import (
    MODEL,
    PLACE,
    EvaluationArguments,
    OptimisationArguments,
    Reading,
    RunArguments,
    flag,
    for_training_only,
    out_of_range,
    parse,
)
from utils.arguments.values import task_among
from utils.errors import UserError

DATASETS = ("mnli", "qqp", "qnli", "sst2", "rte", "mrpc", "squad", "wiki")

#: Flags of the original that never had an effect.
IGNORED = ("model", "student_config", "ctx_length", "target_length", "local_rank")


@dataclass
class TaskArguments:
    """What to do, with which model and data."""

    _argument_group_name = "task"

    dataset: str | None = flag(
        None,
        "The task; wiki is span corruption on a text corpus.",
        name="task_name",
        convert=task_among(DATASETS),
        metavar="{" + ",".join(DATASETS) + "}",
    )
    data_path: str | None = flag(
        None,
        "Folder of the data (a saved datasets directory, GLUE TSV files, SQuAD JSON or text files), or hub.",
        name="data_dir",
        reads=Reading(words=("hub",)),
    )
    model_config: str | None = flag(
        None, "The backbone: a Hugging Face id or directory, or a ModelCenter directory.", reads=MODEL
    )
    mode: Literal["train", "valid"] = flag("train", "Train, or evaluate at every ratio and report the costs.")
    checkpoint: Path | None = flag(
        None,
        "Weights to start from: a Hugging Face directory, a LoRA directory or an original .pt checkpoint.",
        reads=PLACE,
    )
    costs: bool = flag(True, "Measure MACs, latency and memory in --mode valid (--no_costs: metrics only).")
    max_input_length: int = flag(
        512,
        "Longest encoder input in tokens; longer contexts are cut, the answer slot stays.",
        name="max_seq_length",
        least=1,
    )
    decoder_start: int | None = flag(
        None,
        "Token that starts the decoder in tasks: 0 (<pad>, as T5 was pre-trained) or 2 (<unk>, as the original "
        "fine-tuned its classifiers). Default: what the checkpoint was trained with, 2 for an original .pt (0 in "
        "squad), else 0.",
    )
    dropout: float = flag(
        0.0, "Dropout while the T5 itself is trained (--distil no); the original has none.", least=0, below=1
    )
    logit_scale: Literal["hf", "original"] = flag(
        "hf",
        "Temperature of the task loss: hf, or the original's raw logits (times sqrt(d)/100 for tied T5).",
    )


@dataclass
class PluginArguments:
    """Compression plugins and distillation."""

    _argument_group_name = "plugins"

    distil: Literal["hidden", "task-hidden", "task", "no"] = flag(
        "no",
        "What plugins learn from: hidden states of the model without plugins, the task, or both; no trains the T5.",
    )
    mux_num: list[int] = flag(
        [], "Ratios k of the plugins (default with --distil or --plugin_path: what the file has, or 4).", least=1
    )
    plugin_path: str | None = flag(
        None,
        "Plugins to start from: a run's best/ directory, a published .pkl, or none for untrained ones.",
        reads=Reading(words=("none",)),
    )
    task_ratio: float = flag(1.0, "Weight of the task loss in --distil task-hidden.", least=0)
    delta_tuning: bool = flag(False, "LoRA (r=16, alpha=32) on q and v of self-attention instead of the whole T5.")
    compat: Literal["native", "grouping", "original"] | None = flag(
        None,
        "How plugins treat padding: native leaves it out of the groups, grouping mixes it in as the original does, "
        "original also copies its padded rows and layer-norm epsilon. Default: native, grouping for published files.",
    )
    residual_scale: float | None = flag(
        None,
        "Units of new plugins: 100 as published (default), less for a T5 with a smaller residual stream.",
        above=0,
    )


def parse_arguments(
    arguments: list[str] | None = None,
) -> tuple[TaskArguments, PluginArguments, OptimisationArguments, EvaluationArguments, RunArguments]:
    """Parse and check; all problems are told at once.

    Raises:
        UserError: with every problem found.
    """
    types = (TaskArguments, PluginArguments, OptimisationArguments, EvaluationArguments, RunArguments)
    description = "Fine-tune, pre-train, adapt and validate a T5 with compression plugins."
    parsed = parse(types, description, arguments, IGNORED)
    task, plugin, *_, run = parsed
    problems = [
        f"{name} is required"
        for name, value in (
            ("--task_name", task.dataset),
            ("--data_dir", task.data_path),
            ("--model_config", task.model_config),
            ("--output_dir", run.output_path),
        )
        if value is None
    ]
    if task.mode == "train" and plugin.distil == "no" and wants_plugins(plugin):
        problems.append(
            "--distil no trains the T5 without plugins, so --mux_num and --plugin_path would be ignored: "
            "name a loss (--distil hidden), or use --mode valid"
        )
    problems += _without_effect(task, plugin) + _out_of_range(plugin, *parsed)
    if task.mode == "valid":
        problems += for_training_only(run, "--mode valid")
    if problems:
        raise UserError("; ".join(problems) + ".")
    return parsed


def _without_effect(task: TaskArguments, plugin: PluginArguments) -> list[str]:
    """Settings that would be ignored."""
    problems = []
    if task.dropout and plugin.distil != "no":
        problems.append("--dropout is for training the T5 (--distil no): a teacher needs its exact hidden states")
    if task.mode == "train" and plugin.distil != "no" and plugin.mux_num == [1]:
        problems.append("--mux_num 1 leaves no plugin to train: name a ratio of at least 2")
    if task.dataset == "wiki" and task.decoder_start not in (None, 0):
        problems.append("--decoder_start is for tasks: span corruption (--task_name wiki) always starts with 0")
    if task.dataset == "wiki" and task.logit_scale != "hf":
        problems.append(f"--logit_scale {task.logit_scale} is for tasks and has no effect with --task_name wiki")
    if plugin.task_ratio != 1.0 and plugin.distil != "task-hidden":
        problems.append(f"--task_ratio has no effect with --distil {plugin.distil}, only with task-hidden")
    if plugin.plugin_path not in (None, "none") and plugin.residual_scale is not None:
        problems.append("--residual_scale is for new plugins: those of --plugin_path bring their own")
    return problems


def _out_of_range(plugin: PluginArguments, *groups: object) -> list[str]:
    """Numbers that cannot work, each with what was found."""
    problems = out_of_range(groups)
    if len(set(plugin.mux_num)) < len(plugin.mux_num):
        problems.append(f"--mux_num takes each ratio once, found {' '.join(map(str, plugin.mux_num))}")
    return problems


def choose_decoder_start(task: TaskArguments, trained_with: int | None) -> int:
    """`--decoder_start`, or else what the checkpoint was trained with; the original started SQuAD's answers with 0."""
    if task.decoder_start is not None:
        return task.decoder_start
    original = task.checkpoint is not None and task.checkpoint.is_file()
    return 0 if task.dataset == "squad" and original else trained_with or 0


def wants_plugins(plugin: PluginArguments) -> bool:
    """Whether the model gets plugins: decided by these flags alone, never by the loss in evaluation."""
    return bool(plugin.plugin_path) or any(k > 1 for k in plugin.mux_num) or plugin.distil != "no"
