"""Parity of MiniDisc's losses, sandwich and lambda-tradeoff with the original's golden values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertForSequenceClassification

from model import ModelError
from model.enct5 import EncT5Config, EncT5ForSequenceClassification, EncT5ForTokenClassification
from model.inputs import model_inputs
from model.losses import IGNORE
from model.pruning import Importance, Places, SparsityAxis, places_of, sparsify
from model.schedule import Sandwich, choose
from model.variants import VariantDistillation, compared_layers
from notation import MODEL_TYPES, get_model_type, parse_path
from tests.parity.cases import close, load, part
from tests.parity.tucker_bert import bert_config

#: Of a re-run in float64.
EXACT = 1e-10


class _Recorded(nn.Module):
    """A model that gives recorded class scores and hidden states; what is not to count is put beside them."""

    def __init__(self, logits: Tensor, hidden: Tensor | None, beside: float) -> None:
        super().__init__()
        self.beside = beside
        self.logits = nn.Parameter(logits.clone())
        self.hidden: nn.Parameter | None = None if hidden is None else nn.Parameter(hidden.clone())
        classes = logits.shape[-1]
        names = {i: str(i) for i in range(classes)}
        self.config = SimpleNamespace(num_labels=classes, id2label=names, hidden_size=8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, output_hidden_states: bool = False) -> Any:
        """Scores, and one layer of hidden states with a padded position at its end."""
        logits: Tensor = self.logits
        if len(input_ids) == 1:  # tokens
            logits = F.pad(logits, (0, 0, 1, 0), value=self.beside).unsqueeze(0)
        hidden = None
        if output_hidden_states:
            assert self.hidden is not None
            hidden = (F.pad(self.hidden, (0, 0, 0, 1), value=self.beside).unsqueeze(0),)
        return SimpleNamespace(logits=logits, hidden_states=hidden)


def check_losses(directory: Path, name: str) -> None:
    """M3: the loss of every recorded class, at every temperature, and its gradients."""
    _, arrays = load(directory, name)
    groups = sorted({"/".join(key.split("/")[:2]) for key in arrays})
    assert groups
    for group in groups:
        values = part(arrays, group)
        match = re.fullmatch(r"(\w+)(Cls|Ner)", group.split("/")[0])
        assert match is not None, group
        kind = get_model_type(f"{match[1].lower()}_{match[2].lower()}")
        for key, expected in values.items():
            if key.startswith("loss"):
                temperature = float(key.partition("_T")[2] or 1)
                _check_loss(kind, values, temperature, key.removeprefix("loss"), expected, group)


def _check_loss(
    kind: Any, values: Mapping[str, Tensor], temperature: float, suffix: str, expected: Tensor, group: str
) -> None:
    token = kind.level == "token"
    plural = "s" if token else ""
    needs_hidden = kind.hidden is not None
    teacher, student = (
        _Recorded(values[f"{side}_logit{plural}"], values[f"{side}_hidden"] if needs_hidden else None, beside)
        for side, beside in (("t", 5.0), ("s", -7.0))
    )
    labels = values[f"label{plural}"]
    if token:
        labels = F.pad(labels, (1, 0), value=IGNORE).unsqueeze(0)
    rows = 1 if token else len(labels)
    tokens = len(values["t_hidden"]) if needs_hidden else 3
    mask = F.pad(torch.ones(1, tokens), (0, 1)).expand(rows if not needs_hidden else 1, -1)
    batch = {"input_ids": torch.zeros(rows, tokens + 1), "attention_mask": mask, "labels": labels}
    objective = VariantDistillation(teacher, student, kind, temperature)
    loss, parts = objective(batch)
    what = f"{group} loss{suffix}"
    close(loss, expected, what, EXACT)
    assert len(parts) == sum((kind.hard, kind.soft, needs_hidden)), what
    loss.backward()
    for leaf, grad in ((student.logits, f"grad_logit{plural}{suffix}"), (student.hidden, f"grad_hidden{suffix}")):
        if grad in values:
            assert leaf is not None and leaf.grad is not None
            close(leaf.grad, values[grad], f"{group} {grad}", EXACT)
    assert teacher.logits.grad is None


def check_tradeoff(directory: Path, name: str) -> None:
    """M4: choice, score and every tradeoff; where the original compares texts, the rule with numbers instead."""
    case = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
    assert case["cases"]
    for row in case["cases"]:
        best = {float(scale) / 100: row["table"][scale] for scale in row["table_order"]}
        target, teacher = float(row["target"]) / 100, float(row["t_sparsity"]) / 100
        last, what = row["iteration"] == row["target_iteration"], f"{row['case']} at lambda {row['lam']}"
        if "error" in row:
            with pytest.raises(ModelError, match="target"):
                choose(best, row["lam"], target, teacher, last)
            continue
        found = choose(best, row["lam"], target, teacher, last, drop_clamped_term=True)
        values = {scale: value for scale, (_, value) in found.table.items()}
        recorded = {float(scale) / 100: value for scale, value in (row["tradeoff_values"] or {}).items()}
        for scale, value in recorded.items():
            close(values[scale], value, f"{what}: tradeoff of {scale}", EXACT)
        if last or _texts_compare_as_numbers(values, row["target"], teacher):
            close(found.scale, float(row["dev_sparsity"]) / 100, f"{what}: scale", EXACT)
            close(found.score, row["dev_metric"], f"{what}: score", EXACT)
        else:  # M-11
            winner = max((s for s in values if s >= teacher), key=lambda scale: found.table[scale][1])
            assert found.scale == min(winner, target), what
        fixed = choose(best, row["lam"], target, teacher, last)
        assert fixed.scale == found.scale, what
        assert last or fixed.score == found.table[found.scale][1], what


def _texts_compare_as_numbers(values: Mapping[float, float], target: str, teacher: float) -> bool:
    """Whether `winner > target` is the same of the two as texts and as numbers."""
    winner = max((scale for scale in values if scale >= teacher), key=values.__getitem__)
    return (f"{100 * winner:g}" > target) == (100 * winner > float(target) + 1e-7)


def check_sandwich(directory: Path, name: str) -> None:
    """M3: losses and scores at every sparsity, their mean and its gradient, as a whole and piece by piece."""
    case, arrays = load(directory, name)
    inputs = part(arrays, "in")
    batch = {
        "input_ids": inputs["text_indices"],
        "attention_mask": inputs["text_mask"].long(),
        "token_type_ids": inputs["text_segments"],
        "labels": inputs["label"],
    }
    teacher, student = (_classifier(case["config"], part(arrays, side)) for side in ("teacher", "student"))
    sparsify(student, _importance(case["sparsity_map"], places_of(student)))
    grid = sorted(float(sparsity) / 100 for sparsity in case["sparsities"])
    axis, out = SparsityAxis(student, grid), part(arrays, "out")
    objective = VariantDistillation(teacher, student, MODEL_TYPES["sparsebert_cls"])
    targets = objective.targets(batch)
    assert targets.logits is not None
    close(targets.logits, out["teacher_logits"], "teacher's logits", EXACT)
    sandwich = Sandwich(objective, axis, grid, lam=0.2, target=grid[-1])
    loss, parts = sandwich(batch)
    close(loss, out["loss_item"], "mean loss", EXACT)
    for scale in grid:
        close(parts[f"loss@{100 * scale:g}"], out[f"loss_{100 * scale:g}"], f"loss at {scale}", EXACT)
        axis.select(scale)
        logits = student(**model_inputs(student, batch)).logits
        close(logits, out[f"student_logits_{100 * scale:g}"], f"logits at {scale}", EXACT)
    for go_backwards in (loss.backward, lambda: _backward_by_pieces(sandwich, batch)):
        student.zero_grad()
        go_backwards()
        grads = {key: p.grad for key, p in student.named_parameters() if p.grad is not None}
        norm = torch.stack([grad.square().sum() for grad in grads.values()]).sum().sqrt()
        close(norm, arrays["grad/global_norm"], "norm of the gradient", EXACT)
        plain = {key.replace(".base_layer.", "."): grad for key, grad in grads.items()}
        expected = _as_hugging_face(part(arrays, "grad"))
        for key in expected.keys() - {"global_norm"}:
            close(plain[key], expected[key], f"gradient of {key}", EXACT)


def _backward_by_pieces(sandwich: Sandwich, batch: dict[str, Tensor]) -> None:
    for piece in range(sandwich.pieces):
        sandwich(batch, piece)[0].backward()


def _classifier(config: dict[str, Any], weights: dict[str, Tensor]) -> Any:
    """A float64 classifier; the original's head of two layers is Hugging Face's pooler and classifier."""
    model: Any = BertForSequenceClassification(bert_config(config, num_labels=config["num_labels"])).double().eval()
    missing, superfluous = model.load_state_dict(_as_hugging_face(weights), strict=False)
    assert not missing and all("position_ids" in key for key in superfluous), (missing, superfluous)
    return model


def _as_hugging_face(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.replace("cls.0.", "bert.pooler.dense.").replace("cls.3.", "classifier."): value
        for key, value in named.items()
        if not key.startswith("bert.pooler.")  # the original's pooler has no part in anything
    }


def _importance(removed: Mapping[str, Mapping[str, Mapping[str, int]]], places: Places) -> Importance:
    """Importances, falling in each place, that remove what the original's map of sparsities does."""
    levels = sorted(removed, key=float)
    rows: dict[str, tuple[Tensor, ...]] = {}
    for kind, units in (("head", places.heads), ("neuron", places.neurons)):
        made = []
        for i, unit in enumerate(units):
            counts = torch.tensor([removed[level][kind].get(str(i), 0) for level in levels])
            from_the_end = torch.arange(unit.count, 0, -1)
            survived = (counts[None] < from_the_end[:, None]).sum(1)  # levels that leave the head or neuron in
            made.append((survived * (unit.count + 1) + from_the_end).double())
        rows[kind] = tuple(made)
    return Importance(rows["head"], rows["neuron"])


def check_behaviours(directory: Path, name: str) -> None:
    """M0: what stopped the original works here, or is refused in a sentence."""
    results = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))["results"]
    checked = 0
    for what, result in results.items():
        if match := re.match(r"SparseBertCls forward with (\d+) layers", what):
            _check_depth(int(match[1]), str(result))
        elif match := re.match(r"(\w+EncT5)(Cls|Ner) forward", what):
            _check_enct5(f"{match[1].lower()}_{match[2].lower()}")
        elif match := re.match(r"run_maxidisc_cls, path ([\d,]+[SL])", what):
            assert len(parse_path(match[1])) == len(match[1].split(","))
        elif match := re.search(r"target sparsity (\d+) \(not in the map\)", what):
            with pytest.raises(ModelError, match="target"):
                choose({0.5: 0.8, 0.9: 0.7}, 0.2, float(match[1]) / 100, last=True)
        elif what.startswith("run_minidisc_cls, no evaluation"):
            with pytest.raises(ModelError, match="evaluated"):
                choose({0.5: math.nan, 0.9: math.nan}, 0.2, 0.9)
        elif isinstance(result, dict) and "per_sparsity" in result:
            best = {float(scale) / 100: values["acc_and_f1"] for scale, values in result["per_sparsity"].items()}
            found = choose(best, 0.2, float(result["best_dev_sparsity"]) / 100, last=True)
            close(found.score, result["best_dev_metric"], what, EXACT)
        else:
            continue
        checked += 1
    assert checked, "no behaviour that belongs here"


def _check_depth(depth: int, result: str) -> None:
    """The hidden states that are compared are the original's and the last; below six layers it works as well."""
    found = [layer for layer, _ in compared_layers(depth, depth)]
    if match := re.search(r"layers in hidden_states: (\[[\d, ]+\])", result):
        recorded = json.loads(match[1])
        assert found == (recorded if recorded[-1] == depth else [*recorded, depth]), depth
    else:
        assert found == list(range(depth + 1)), depth
    config = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": depth, "num_attention_heads": 2}
    sizes = bert_config({**config, "intermediate_size": 16, "max_position_embeddings": 8}, num_labels=2)
    teacher, student = (BertForSequenceClassification(sizes) for _ in range(2))
    _trains(VariantDistillation(teacher, student, MODEL_TYPES["sparsebert_cls"]), torch.tensor([0, 1]))


def _check_enct5(name: str) -> None:
    """Those that are recorded as crashes too."""
    kind = get_model_type(name)
    sizes = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2, "num_labels": 3}
    cls: Any = EncT5ForSequenceClassification if kind.level == "sequence" else EncT5ForTokenClassification
    teacher, student = (cls(EncT5Config(**sizes)) for _ in range(2))
    tokens = torch.tensor([[0, 1, 2, IGNORE], [IGNORE, 2, IGNORE, IGNORE]])
    _trains(VariantDistillation(teacher, student, kind), tokens if kind.level == "token" else torch.tensor([0, 2]))


def _trains(objective: VariantDistillation, labels: Tensor) -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    ids = torch.arange(2, 10).view(2, 4) * mask
    loss, _ = objective({"input_ids": ids, "attention_mask": mask, "token_type_ids": mask, "labels": labels})
    loss.backward()
    assert math.isfinite(loss.item())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.student.parameters())
