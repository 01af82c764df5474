"""Run directories as the entry scripts leave them, without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VERSIONS = {"torch": "2.0", "transformers": "5.0"}


def write(file: Path, values: Any) -> Path:
    """A JSON file; gives its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values), encoding="utf-8")
    return file.parent


def arguments(folder: Path, seed: int, values: dict[str, Any]) -> None:
    """arguments.json of a run in `folder`."""
    given = {**values, "output_path": str(folder), "random_seed": seed}
    write(folder / "arguments.json", {"arguments": given, "python": "3.11", "versions": VERSIONS, "seed": seed})


def teacher(root: Path, accuracy: float = 0.9, task: str = "sst2") -> Path:
    """A fine-tuned BERT with its costs measured."""
    folder = root / "teacher"
    arguments(folder, 1, {"task_name": task, "stage": "finetune", "teacher_model": "bert", "lr": 3e-5})
    write(
        folder / "result.json",
        {"mode": "finetune", "task": task, "metric": "accuracy", "best_value": accuracy, "tokens": 7000}
        | {"train_seconds": 120.0, "steps": 4},
    )
    return write(folder / "evaluation.json", evaluation(task, "dense", accuracy, 4e6, 400.0))


def evaluation(task: str, edits: str, accuracy: float, macs: float | None, params: float) -> dict[str, Any]:
    """evaluation.json; without costs where `macs` is None."""
    costs = {"num_params": params, "encoder_params": params / 2, "macs": macs, "latency_ms": (macs or 0) / 1e6}
    shape = {"latency_batch": 8, "latency_length": 128}
    metrics = {"accuracy": accuracy, "loss": 0.5}
    return {"task": task, "model": "m", "edits": edits, "metrics": metrics, **({**costs, **shape} if macs else {})}


def student(
    root: Path, seed: int, accuracy: float, task: str = "sst2", name: str = "student", lr: float = 1e-4
) -> Path:
    """A pruned student of that teacher; seed 1 has its costs measured, in a folder of their own."""
    folder = root / f"{task}-{seed}" / name
    asked = {"task_name": task, "stage": "schedule", "mode": "distill", "lr": lr, "layer_or_sparsity": "90S"}
    arguments(folder, seed, {**asked, "teacher_model": str(root / "teacher")})
    write(
        folder / "result.json",
        {"mode": "distill", "task": task, "metric": "accuracy", "best_value": accuracy, "tokens": 1000 * seed}
        | {"train_seconds": 60.0 * seed, "num_params": 100, "encoder_params": 40},
    )
    write(folder / "best" / "config.json", {"compression": [{"kind": "pruning", "sparsity": 0.9}]})
    if seed == 1:
        write(folder / "costs" / "evaluation.json", evaluation(task, "pruning", accuracy, 1e6, 100))
    return folder


def adapted(folder: Path, edits: str, source: Path, accuracies: dict[int, float], seed: int = 1) -> Path:
    """Plugins on a student: what `--mode adapt` leaves, with costs in a folder of their own."""
    asked = {"task_name": "sst2", "stage": "adapt", "student_model": str(source / "best"), "mux_num": [2, 4]}
    arguments(folder, seed, {**asked, "distil": "hidden", "lr": 1e-3})
    result = {"mode": "adapt", "task": "sst2", "metric": "accuracy", "best_value": 0.1, "tokens": 300, "steps": 9}
    write(folder / "result.json", {**result, "train_seconds": 60.0})
    kinds = [{"kind": kind} for kind in edits.split(" + ")[:-1]]
    write(folder / "best" / "config.json", {"compression": [*kinds, {"kind": "plugin", "ratios": [2, 4]}]})
    evaluated(folder, str(folder / "best"), edits, accuracies)
    return folder


def evaluated(folder: Path, model: str, edits: str, accuracies: dict[int, float]) -> None:
    """`evaluation` and `costs` of a model with plugins, as `--do_eval` writes them."""
    for name, macs in (("evaluation", None), ("costs", 4e6)):
        found = {k: evaluation("sst2", edits, value, macs and macs / k, 100) for k, value in accuracies.items()}
        values = {
            str(k): {n: v for n, v in one.items() if n not in ("task", "model", "edits")} for k, one in found.items()
        }
        write(folder / name / "evaluation.json", {**found[1], "model": model, "ratios": values})


def ratios(root: Path, dense: float, at_four: float) -> Path:
    """What `train_t5.py --mode valid` leaves, and the training of the plugins that it evaluates."""
    plugins = root / "adapted"
    arguments(plugins, 1, {"dataset": "mrpc", "model_config": "t5", "distil": "hidden", "mux_num": [4]})
    write(
        plugins / "result.json",
        {"mode": "train", "dataset": "mrpc", "metric": "f1", "best_value": at_four, "tokens": 500, "train_seconds": 30},
    )
    folder = root / "valid"
    asked = {"dataset": "mrpc", "model_config": "t5", "mode": "valid", "distil": "no", "mux_num": [4]}
    arguments(folder, 1, {**asked, "plugin_path": str(plugins / "best")})
    costs = {"latency_batch": 8, "latency_length": 128, "peak_memory_bytes": 5_000_000}
    rows = [
        {"name": "dense", "ratio": 1, "f1": dense, "macs": 3e6, "latency_ms": 3.0, "num_params": 50, **costs},
        {"name": "k=4", "ratio": 4, "f1": at_four, "macs": 2e6, "latency_ms": 2.5, "num_params": 51, **costs},
    ]
    return write(folder / "result.json", {"mode": "valid", "dataset": "mrpc", "metric": "f1", "rows": rows})


def committed(folder: Path, model: str) -> Path:
    """What `utils.plan --commit` leaves of a cut."""
    metric = {"name": "accuracy", "value": 0.5, "origin": "now"}
    costs = {"params": 10.0, "latency_ms": 2.0, "macs": 5.0}
    point = {
        "name": "p",
        "model": model,
        "step": "50S",
        "is_cut": True,
        "task": "sst2",
        "metric": metric,
        "costs": costs,
    }
    known = {"batch": 8, "length": 128, "machine": "m", "precision": "fp32", "threads": 2}
    plan = {
        "chosen": "p",
        "points": [point],
        "measured_as": known,
        "command": ["--model", model, "--commit", str(folder)],
    }
    write(folder / "config.json", {"compression": [{"kind": "pruning", "sparsity": 0.5}]})
    return write(folder / "plan.json", plan)
