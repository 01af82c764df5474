"""Whether a run that is resumed is the one that was begun: which flags may differ, and which paths mean the same."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dataset.fingerprint import of_files
from utils.arguments.spellings import flag_named
from utils.opening.places import found_on_hub

#: free: changes nothing that is trained. told: may differ, as a run whose loss became infinite or whose memory was not
#: enough goes on with others; the user is told. data: a place whose contents data.json compares. model: a place whose
#: contents are compared here. fixed: decides what is trained.
Rule = Literal["free", "told", "data", "model", "fixed"]

_NAMES: Mapping[Rule, tuple[str, ...]] = {
    "free": (
        *("output_path", "resume", "overwrite", "debug", "allow_changed_data", "rank_timeout", "num_workers"),
        *("engine", "cpu_offload", "gradient_checkpointing", "inspect_step", "keep_checkpoints", "save_step"),
        *("epochs", "training_step", "max_bad_steps", "costs", "predictions_dir", "reduce_memory", "local_rank"),
        *("do_train", "do_eval", "do_predict", "pred_distill", "data_type"),
    ),
    "told": ("lr", "clip_grad", "precision", "eval_batch_size", "valid_step", "patience", "patience_epochs", "no_cuda"),
    "data": ("data_dir", "data_path", "pregenerated_data", "valid_data"),
    "model": (
        *("teacher_model", "student_model", "model_config", "checkpoint", "plugin_path", "layer_or_sparsity_path"),
        *("teacher", "start"),  # those of a schedule's stages
    ),
    "fixed": (
        *("random_seed", "batch_size", "grad_accumulation", "weight_decay", "schedule", "warmup_step", "optimizer"),
        *("valid_batches", "task_name", "dataset", "mode", "stage", "aug_train", "temperature", "max_seq_length"),
        *("do_lower_case", "warmup_proportion", "distill_layers", "loss_reduction", "fp16", "model_type", "axis"),
        *("layer_or_sparsity", "target", "trunc", "target_sparsity", "target_iteration", "lam", "trunc_sparsity"),
        *("grid", "selection_metric", "num_relation_heads", "round_to", "mux_num", "distil", "task_ratio"),
        *("init_from_teacher", "delta_tuning", "compat", "residual_scale", "max_input_length", "decoder_start"),
        *("dropout", "logit_scale", "use_swap", "protocol", "ops", "rank_layer", "rank_condim", "rank_dim"),
        *("embedding_type", "embedding_order", "embedding_rank", "from_scratch"),
    ),
}
#: Name of an argument -> its rule. An argument that is not named here is fixed.
RULES: Mapping[str, Rule] = {name: rule for rule, names in _NAMES.items() for name in names}
#: Those whose value may differ without a word.
MAY_CHANGE = frozenset(_NAMES["free"])
#: Weights, and what says how they are put together.
_PARTS = ("config.json", "*.safetensors", "pytorch_model*.bin", "*.pt", "plugin*.json", "lora*.json")


class Difference(NamedTuple):
    """A flag that is not as it was.

    Attributes:
        may_be: whether the run goes on all the same.
        contents: whether the flag names another model in the same words, or the same place with other weights.
    """

    text: str
    may_be: bool
    contents: bool = False


def models_in(arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Where the models of a run lie, and what is in them; of those of the hub that were opened, their commits."""
    found: dict[str, dict[str, Any]] = {}
    for name in _NAMES["model"]:
        if not (value := arguments.get(name)):
            continue
        if os.path.exists(place := os.path.expanduser(str(value))):
            found[name] = {"path": os.path.realpath(place), "contents": _contents(Path(place))}
        elif (on_hub := found_on_hub(str(value))) is not None:
            folder, commit = on_hub
            found[name] = {"path": folder, "contents": _contents(Path(folder)), "revision": commit}
    return found


def differences(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    models_before: Mapping[str, Any],
    models_now: Mapping[str, Any],
    has_fingerprints: bool,
) -> Iterator[Difference]:
    """What differs between the arguments that a run began with and those that it is to go on with.

    Args:
        models_before, models_now: of `models_in`.
        has_fingerprints: whether data.json tells the contents of the data.
    """
    for name, value in now.items():
        rule, old = RULES.get(name, "fixed"), before.get(name, value)
        if rule == "free" or (rule == "data" and has_fingerprints):
            continue
        text = f"{flag_named(name)} {value!r} (was {old!r})"
        if rule == "model":
            one, other = models_before.get(name), models_now.get(name)
            if isinstance(one, dict) and isinstance(other, dict):
                if one.get("contents") != other["contents"]:
                    text = text if value != old else f"{flag_named(name)} {value!r}, which holds other weights now"
                    yield Difference(text, False, True)
                continue
        is_spelling = _is_same_place(value, old) if rule in ("data", "model") else _is_same_task(name, value, old)
        if value != old and not is_spelling:
            yield Difference(text, rule == "told")


def _is_same_place(one: Any, other: Any) -> bool:
    """Whether two texts are spellings of one path."""
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    return os.path.realpath(os.path.expanduser(one)) == os.path.realpath(os.path.expanduser(other))


def _is_same_task(name: str, one: Any, other: Any) -> bool:
    """Whether two texts are spellings of one task: `SST-2` and `sst2`."""
    if name not in ("task_name", "dataset") or not isinstance(one, str) or not isinstance(other, str):
        return False
    return _letters(one) == _letters(other)


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def _contents(place: Path) -> str:
    """What tells the weights in a file, a model's folder or a run's from others."""
    if place.is_file():
        return of_files([place])[place.name]
    folders = [folder for folder in (place, place / "best") if folder.is_dir()]
    files = next((found for folder in folders if (found := _parts(folder))), [])
    return "; ".join(f"{name} {told}" for name, told in of_files(files).items())


def _parts(folder: Path) -> list[Path]:
    return sorted({path for pattern in _PARTS for path in folder.glob(pattern) if path.is_file()})
