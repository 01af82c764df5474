"""One spelling of each flag is shown, and the others that users know from elsewhere are understood."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

#: Flag as `--help` shows it -> what it is called elsewhere: in the original releases, in Transformers, by habit.
#: A script that has a flag of such a name takes it for that one.
ALIASES: Mapping[str, Sequence[str]] = {
    "output_dir": ("output_path", "output"),
    "output": ("output_dir", "output_path"),
    "data_dir": ("data_path", "data"),
    "task_name": ("dataset", "task"),
    "tasks": ("task_names", "datasets"),
    "max_seq_length": ("max_seq_len", "max_input_length", "max_length", "length"),
    "length": ("max_seq_length", "max_length"),
    "seed": ("random_seed",),
    "num_train_epochs": ("epochs",),
    "learning_rate": ("lr",),
    "train_batch_size": ("batch_size", "per_device_train_batch_size", "per_gpu_train_batch_size"),
    "batch_size": ("train_batch_size", "per_device_train_batch_size"),
    "batch": ("batch_size", "train_batch_size", "per_device_train_batch_size"),
    "eval_batch_size": ("per_device_eval_batch_size", "per_gpu_eval_batch_size"),
    "gradient_accumulation_steps": ("grad_accumulation", "num_grad_accum_steps"),
    "max_steps": ("training_step", "training_steps"),
    "warmup_step": ("warmup_steps",),
    "clip_grad": ("max_grad_norm",),
    "inspect_step": ("logging_steps",),
    "valid_step": ("eval_step", "eval_steps", "eval_stlsep", "log_interval"),
    "save_step": ("save_steps",),
    "keep_checkpoints": ("save_total_limit",),
    "resume": ("continue_train",),
    "model": ("model_name_or_path", "model_path"),
    "model_config": ("model_name_or_path", "model_path"),
    "overwrite": ("overwrite_output_dir",),
    "weight_decay": ("wd",),
    "schedule": ("lr_scheduler_type",),
    "fp16": ("use_fp16",),
    "no_cuda": ("use_cpu",),
    "teacher_model": ("teacher_model_path",),
    "student_model": ("model_name_or_path", "student_model_path"),
    "do_predict": ("do_infer",),
    "patience_epochs": ("num_patience_epochs",),
}

#: What a mistaken flag may be meant to be, most likely first; the first that the script has is proposed.
_MEANT: Mapping[str, Sequence[str]] = {
    "bs": ("train_batch_size", "batch_size", "batch"),
    "batch": ("train_batch_size", "batch_size", "max_batch"),
    "batchsize": ("train_batch_size", "batch_size", "batch"),
    "epoch": ("num_train_epochs", "epochs_to_generate"),
    "num_epochs": ("num_train_epochs", "epochs_to_generate"),
    "max_epochs": ("num_train_epochs",),
    "n_epochs": ("num_train_epochs",),
    "rate": ("learning_rate",),
    "learningrate": ("learning_rate",),
    "steps": ("max_steps",),
    "num_steps": ("max_steps",),
    "train_steps": ("max_steps",),
    "out": ("output_dir", "output"),
    "out_dir": ("output_dir", "output"),
    "outdir": ("output_dir", "output"),
    "o": ("output_dir", "output"),
    "save_dir": ("output_dir", "output"),
    "save_path": ("output_dir", "output"),
    "output_file": ("output",),
    "data_folder": ("data_dir",),
    "glue_dir": ("data_dir",),
    "input": ("data_dir", "train_corpus", "model"),
    "task": ("task_name",),
    "tasks": ("tasks", "task_name"),
    "dataset_name": ("task_name",),
    "model": ("model", "model_config", "teacher_model", "bert_model", "pretrained_bert_model", "backbone"),
    "model_name": ("model", "model_config", "teacher_model", "bert_model", "pretrained_bert_model", "backbone"),
    "pretrained_model": ("model", "model_config", "teacher_model", "bert_model", "pretrained_bert_model", "backbone"),
    "model_name_or_path": ("model", "model_config", "teacher_model", "bert_model", "pretrained_bert_model"),
    "bert_model": ("teacher_model", "model"),
    "teacher": ("teacher_model", "teachers"),
    "student": ("student_model",),
    "plugin": ("plugin_path", "plugins"),
    "plugins": ("plugins", "plugin_path"),
    "ratio": ("mux_num", "ratios", "ratio"),
    "ratios": ("mux_num", "ratios", "ratio"),
    "k": ("mux_num", "ratios", "ratio"),
    "sparsity": ("target_sparsity", "layer_or_sparsity", "grid"),
    "layers": ("layer_or_sparsity",),
    "rank": ("rank_dim", "grid"),
    "fp16": ("precision",),
    "bf16": ("precision",),
    "fp32": ("precision",),
    "amp": ("precision",),
    "half": ("precision",),
    "dtype": ("precision",),
    "mixed_precision": ("precision",),
    "cpu": ("no_cuda", "device"),
    "cuda": ("device",),
    "gpu": ("device",),
    "gpus": ("device",),
    "threads": ("threads", "num_workers"),
    "workers": ("num_workers", "threads"),
    "force": ("overwrite",),
    "clobber": ("overwrite",),
    "continue": ("resume",),
    "restart": ("resume",),
    "resume_from_checkpoint": ("resume",),
    "warmup": ("warmup_proportion", "warmup_step"),
    "warmup_ratio": ("warmup_proportion", "warmup_step"),
    "early_stopping": ("patience",),
    "eval": ("do_eval", "mode"),
    "predict": ("do_predict", "mode"),
    "do_train": ("mode",),
    "train": ("mode",),
    "lower_case": ("do_lower_case",),
    "lowercase": ("do_lower_case",),
    "verbose": ("debug",),
}
#: Flags that no script has, as something else does what they are for.
_GPUS = frozenset(
    ("gpu", "gpus", "num_gpus", "n_gpu", "ngpus", "devices", "num_processes", "nproc", "nproc_per_node", "world_size")
)
_OF_GPUS = "torchrun starts a process for each GPU, and CUDA_VISIBLE_DEVICES says which (docs/distributed.md)."


def key(word: str) -> str:
    """What tells flags apart: the word without its dashes in front, and with underscores."""
    return word.lstrip("-").replace("-", "_")


def flag_named(field: str) -> str:
    """The flag of the entry scripts whose value run directories record under this name: `--output_dir`."""
    of_tools = ("output", "length", "batch_size", "batch")
    for shown, others in ALIASES.items():
        if shown not in of_tools and field in (shown, *others):
            return f"--{shown}"
    return f"--{field}"


def meant(word: str, known: Iterable[str]) -> str:
    """What to do about a flag that a script does not have: `did you mean --task_name?`, or where to look.

    Args:
        known: its flags as `--help` shows them, without dashes.
    """
    name, flags = key(word.partition("=")[0]), list(known)
    asked = name.lower()
    by_meaning = [flag for flag in _MEANT.get(asked, ()) if flag in flags]
    aliases = {alias: flag for flag in flags for alias in (flag, *ALIASES.get(flag, ()))}
    if not by_meaning and asked in _GPUS and asked not in aliases:
        return _OF_GPUS
    if by_meaning or asked in aliases:
        return f"did you mean --{by_meaning[0] if by_meaning else aliases[asked]}?"
    near = difflib.get_close_matches(asked, [*aliases, *_MEANT], n=3)
    for one in near:
        found = [aliases[one]] if one in aliases else [flag for flag in _MEANT[one] if flag in flags]
        if found:
            return f"did you mean --{found[0]}?"
    return "--help lists all flags."
