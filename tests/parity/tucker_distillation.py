"""Parity of distillation losses, BertAdam and the task processors with the original's arrays (X4, X7, X8, X10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertForSequenceClassification, BertModel, BertTokenizerFast

from dataset import get_task, read_glue
from dataset.classification import PairCollator, PairFeature, encode_pairs
from dataset.collate import Collator
from dataset.glue import GlueExample
from dataset.tasks import Task
from model import apply_edit
from model.attention_scores import Traced, trace, use_attention_scores
from model.backbone import BERT
from model.decomposition.originals import convert_names, edit_from_tensors, load_tensors
from model.decomposition.stacking import StackOrder, stack_biases
from model.decomposition.surgery import matrix_bank, role_slots
from model.distillation import IntermediateDistillation, PredictionDistillation, classify
from model.losses import hidden_mse, score_mse, soft_cross_entropy, task_loss
from tests.parity.cases import close, load, part
from tests.parity.tucker_bert import bert_config
from utils.engine.optimisation import build_optimizer, schedule_factor
from utils.tucker.defaults import TASK_DEFAULTS

#: For a float64 re-run, as the cases are recorded.
EXACT = 1e-10


def check_losses(directory: Path, name: str) -> None:
    """X4 on given hidden states and scores: the two losses and their gradients."""
    _, arrays = load(directory, name)
    hidden = arrays["in/student_reps"][-1].requires_grad_()
    scores = arrays["in/student_atts"][-1].requires_grad_()
    batch = hidden.shape[0]
    attention_loss = score_mse(arrays["in/teacher_atts"][-1], scores) * batch
    hidden_loss = hidden_mse(arrays["in/teacher_reps"][-1], hidden) * batch
    close(attention_loss, arrays["out/att_loss"], "attention loss", EXACT)
    close(hidden_loss, arrays["out/rep_loss"], "hidden loss", EXACT)
    close(attention_loss + hidden_loss, arrays["out/loss"], "loss", EXACT)
    (attention_loss + hidden_loss).backward()
    for tensor, key in ((scores, "grad/student_att_last"), (hidden, "grad/student_rep_last")):
        assert tensor.grad is not None
        close(tensor.grad, arrays[key], key, EXACT)


def check_general(directory: Path, name: str) -> None:
    """X4 with a dense teacher and a decomposed student: what they show, the losses, the gradients of the factors."""
    case, arrays = load(directory, name)
    teacher = _dense(BertModel, case.get("teacher_config", case["student_config"]), part(arrays, "teacher"))
    student = _compressed(BertModel, case["student_config"], part(arrays, "student"))
    batch = _inputs(arrays)
    objective = IntermediateDistillation(teacher, student)
    for side, model in (("teacher", teacher), ("student", student)):
        _compare_traced(trace(model, batch, range(model.config.num_hidden_layers)), arrays, side)
    loss, parts = objective(batch)
    close(parts["attention_loss"], arrays["out/att_loss"], "attention loss", EXACT)
    close(parts["hidden_loss"], arrays["out/rep_loss"], "hidden loss", EXACT)
    close(loss, arrays["out/loss"], "loss", EXACT)
    loss.backward()
    found = _factor_gradients(student, case["student_config"]["ops"])
    for key, expected in part(arrays, "grad").items():
        close(found[key], expected, f"gradient of {key}", EXACT)


def _factor_gradients(model: Any, ops: str) -> dict[str, Any]:
    order = StackOrder.of(ops, model.config.hidden_size, model.config.intermediate_size)
    slots = [role_slots(layer) for layer in BERT.encoder_layers(model)]
    biases = [{role: layer[role].module.get_parameter("bias").grad for role in order.roles} for layer in slots]
    factors = {name: parameter.grad for name, parameter in matrix_bank(model).named_parameters()}
    return {**factors, "bias": stack_biases(order, biases)}  # type: ignore[arg-type]  # all have gradients


def _compare_traced(found: Traced, arrays: dict[str, Tensor], side: str) -> None:
    close(torch.stack(found.hidden), arrays[f"in/{side}_reps"][1:], f"{side}'s hidden states", EXACT)
    close(torch.stack(found.scores), arrays[f"in/{side}_atts"], f"{side}'s attention scores", EXACT)


def check_soft_cross_entropy(directory: Path, name: str) -> None:
    """X7's table: mean over batch and classes."""
    _, arrays = load(directory, name)
    numbers = sorted({key.split("/")[0] for key in arrays})
    assert numbers
    for number in numbers:
        row = part(arrays, number)
        close(soft_cross_entropy(row["student"], row["teacher"]), row["loss"], f"row {number}", EXACT)


def check_task(directory: Path, name: str) -> None:
    """X7 with models: logits, both stages' losses, temperatures, the supervised loss."""
    case, arrays = load(directory, name)
    classes, out = case["num_labels"], part(arrays, "out")
    teacher = _dense(BertForSequenceClassification, case["teacher_config"], part(arrays, "teacher"), classes)
    student = _compressed(BertForSequenceClassification, case["student_config"], part(arrays, "student"), classes)
    labels = arrays["in/label"].double() if case["output_mode"] == "regression" else arrays["in/label"].long()
    batch = {**_inputs(arrays), "labels": labels.flatten()}
    logits = classify(student, batch)
    close(classify(teacher, batch), out["teacher_logits"], "teacher's logits", EXACT)
    close(logits, out["student_logits"], "student's logits", EXACT)
    close(task_loss(logits, batch["labels"]), out["supervised_loss"], "supervised loss", EXACT)
    for key, expected in out.items():
        if key.startswith("soft_ce_T"):
            loss, _ = PredictionDistillation(teacher, student, float(key.removeprefix("soft_ce_T")))(batch)
            close(loss, expected, key, EXACT)
        elif key.startswith("grad_soft_ce_T"):
            leaf = out["student_logits"].clone().requires_grad_()
            temperature = float(key.removeprefix("grad_soft_ce_T").removesuffix("_wrt_logits"))
            soft_cross_entropy(leaf, out["teacher_logits"], temperature).backward()
            assert leaf.grad is not None
            close(leaf.grad, expected, key, EXACT)
        elif key == "regression_loss":
            close(PredictionDistillation(teacher, student)(batch)[0], expected, key, EXACT)
    loss, parts = IntermediateDistillation(teacher, student)(batch)
    close(parts["attention_loss"], out["att_loss"], "stage 1 attention loss", EXACT)
    close(parts["hidden_loss"], out["rep_loss"], "stage 1 hidden loss", EXACT)
    close(loss, out["stage1_loss"], "stage 1 loss", EXACT)


def check_bertadam(directory: Path, name: str) -> None:
    """X8: every parameter after every step, with warm-up and without a schedule."""
    case, arrays = load(directory, name)
    hyper = case["hyper"]
    for schedule in sorted({key.split("/")[0] for key in arrays}):
        run = part(arrays, schedule)
        parameters = [torch.nn.Parameter(run[f"p{i}_init"].clone()) for i in (1, 2)]
        optimizer = build_optimizer(torch.nn.ParameterList(parameters), hyper["lr"], 0.01, "bertadam")
        for group in optimizer.param_groups:
            assert group["betas"] == (hyper["b1"], hyper["b2"]) and group["eps"] == hyper["e"]
        total = hyper["t_total"]
        factor = schedule_factor("linear", hyper["warmup"] * total, total) if schedule == "warmup_linear" else None
        for step in range(hyper["steps"]):
            for group in optimizer.param_groups:
                group["lr"] = hyper["lr"] * (1.0 if factor is None else factor(step))
            for i, parameter in enumerate(parameters, 1):
                parameter.grad = run[f"g{i}_{step}"].clone()
            optimizer.step()
            for i, parameter in enumerate(parameters, 1):
                close(parameter, run[f"p{i}_{step}"], f"{schedule}: p{i} after step {step}", EXACT)


def check_processors(directory: Path, name: str) -> None:
    """X10: examples, features, label order and default settings of all nine GLUE tasks and mnli-mm."""
    case = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
    _, arrays = load(directory, name)
    files = directory / "M5_files"
    tokenizer = BertTokenizerFast(vocab=str(files / "vocab.txt"), do_lower_case=True)
    for task_name, golden in case["tasks"].items():
        task = get_task(task_name)
        if isinstance(golden["default_params"], dict):
            found = TASK_DEFAULTS[task.name]
            epochs, length = golden["default_params"]["num_train_epochs"], golden["default_params"]["max_seq_length"]
            assert (found.intermediate_epochs, found.max_seq_length) == (epochs, length), task.name
        for split, key in (("train", "train"), ("valid", "dev")):
            examples = read_glue(task, files / "datasets", split)
            _compare_examples(task, examples, golden[key])
            expected = part(arrays, f"{task_name}/{key}")
            length = expected["input_ids"].shape[1]
            features = list(encode_pairs(examples, tokenizer, length))
            _compare_features(task, features, expected, golden["label_list"], tokenizer.pad_token_id)


def _compare_examples(task: Task, examples: list[GlueExample], golden: list[dict[str, Any]]) -> None:
    assert len(examples) == len(golden), task.name
    for example, expected in zip(examples, golden, strict=True):
        assert (example.text_a, example.text_b) == (expected["text_a"], expected["text_b"]), expected["guid"]
        assert example.label is not None
        label = float(expected["label"]) if task.kind == "regression" else task.file_labels.index(expected["label"])
        assert example.label == label, expected["guid"]


def _compare_features(
    task: Task, features: list[PairFeature], expected: dict[str, Tensor], label_list: list[Any], pad_id: int
) -> None:
    length = expected["input_ids"].shape[1]
    longest = PairFeature(-1, [0] * length)
    batch = PairCollator(Collator(pad_id))(features, [longest])
    for ours, theirs in (
        ("input_ids", "input_ids"),
        ("attention_mask", "input_mask"),
        ("token_type_ids", "segment_ids"),
    ):
        assert batch[ours].tolist() == expected[theirs].tolist(), f"{task.name} {ours}"
    assert batch["attention_mask"].sum(1).tolist() == expected["seq_lengths"].tolist()
    if task.kind == "regression":
        close(batch["labels"], expected["label_ids"], f"{task.name} labels", 1e-6)
    else:  # orders differ; names say which class is meant
        names = [task.file_labels[label] for label in batch["labels"].tolist()]
        assert names == [label_list[label] for label in expected["label_ids"].tolist()], f"{task.name} labels"


def _dense(cls: Any, config: dict[str, Any], weights: dict[str, Tensor], num_labels: int = 2) -> Any:
    """A float64 Hugging Face BERT with the case's weights."""
    model = cls(bert_config(config, num_labels=num_labels)).double()
    model.load_state_dict(weights)
    use_attention_scores(model)
    return model.eval()


def _compressed(cls: Any, config: dict[str, Any], weights: dict[str, Tensor], num_labels: int = 2) -> Any:
    """The same with the case's factors."""
    model, state = cls(bert_config(config, num_labels=num_labels)).eval(), convert_names(weights)
    edit = edit_from_tensors(state, config["ops"], "the golden case")
    apply_edit(model, edit, from_scratch=True)
    model.double()
    load_tensors(model, edit, state, "the golden case")
    use_attention_scores(model)
    return model


def _inputs(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: arrays[f"in/{key}"].long() for key in ("input_ids", "attention_mask", "token_type_ids")}
