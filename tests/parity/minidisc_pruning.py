"""Parity of the pruning of BERT with the original's golden arrays: importances, order, map, logits, shapes, reload."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from model.pruning import Importance, NestedWidths, committed, places_of, sparsify, sparsity_of
from model.pruning.importance import mask_gradients
from model.pruning.places import Places, Units
from model.pruning.widths import removal_ranks, widths_of_ranks
from tests.helpers_close import same_logits
from tests.parity.cases import close, load, part
from tests.parity.tucker_bert import PRECISIONS, bert_config

#: The original's classifiers: two linear layers on the first position, or one on every position.
_RENAMED = {"cls.0": "bert.pooler.dense", "cls.1": "classifier", "cls.3": "classifier"}
_SHAPED = ("attention.self", "attention.output.dense", "intermediate.dense", "output.dense")


class _Case:
    """A golden case as Hugging Face has it: the model, its batches, and which of its logits the arrays hold."""

    def __init__(self, case: dict[str, Any], arrays: dict[str, Tensor]) -> None:
        self.description, self.arrays, self.inputs = case, arrays, part(arrays, "in")
        self.token = "label_mask" in self.inputs
        self.auto: Any = AutoModelForTokenClassification if self.token else AutoModelForSequenceClassification
        self.selected = self.inputs["label_mask"] if self.token else slice(None)

    def teacher(self) -> Any:
        """The float64 model before sparsification."""
        sizes = self.description["config"]
        head: Any = BertForTokenClassification if self.token else BertForSequenceClassification
        model = head(bert_config(sizes, num_labels=sizes["num_labels"])).double().eval()
        weights = part(self.arrays, "teacher")
        unused = [key for key in weights if "position_ids" in key or "pooler" in key]
        model.load_state_dict({_renamed(key): value for key, value in weights.items() if key not in unused})
        return model

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """The dev set in batches of the original's size, the last one smaller."""
        size, rows = self.description["batch_size"], len(self.inputs["text_indices"])
        for start in range(0, rows, size):
            yield {key: value[start : start + size] for key, value in self.inputs.items()}

    def loss(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """The task's loss, the mean of a batch."""
        logits = self.forward(model, batch).logits
        if self.token:
            return F.cross_entropy(logits[batch["label_mask"]], batch["labels"][batch["label_mask"]])
        if self.description["num_labels"] == 1:
            return F.mse_loss(logits.squeeze(-1), batch["label"].to(logits.dtype))
        return F.cross_entropy(logits, batch["label"])

    def forward(self, model: Any, batch: dict[str, Tensor]) -> Any:
        return model(
            input_ids=batch["text_indices"],
            attention_mask=batch["text_mask"].long(),
            token_type_ids=batch["text_segments"],
            output_hidden_states=True,
        )

    @torch.no_grad()
    def logits(self, model: Any) -> Tensor:
        """Those of the dev set that the arrays hold."""
        return self.forward(model, self.inputs).logits[self.selected]

    @torch.no_grad()
    def hidden(self, model: Any) -> Tensor:
        """Hidden states of the first batch: every skip-th layer from the embeddings on, without padding."""
        batch = next(self.batches())
        hidden = self.forward(model, batch).hidden_states
        stacked = torch.stack(hidden[:: self.description["layer_skip"]], dim=1)
        return stacked[batch["text_mask"][:, None].expand(stacked.shape[:-1])]


def _renamed(key: str) -> str:
    return next((new + key.removeprefix(old) for old, new in _RENAMED.items() if key.startswith(old)), key)


def check(directory: Path, name: str) -> None:
    """M1: in float64 from our importances on, in float32 from the original's (so that nothing hangs on near ties)."""
    description, arrays = load(directory, name)
    case = _Case(description, arrays)
    measured = _check_importance(case)
    golden = _importance(arrays, "")
    _check_map(case, places_of(case.teacher()), measured)
    for dtype, tolerance in PRECISIONS.items():
        model = case.teacher()
        before = case.logits(model)
        sparsify(model, measured if dtype == torch.float64 else golden)
        _check_order(case, model)
        model.to(dtype)
        close(case.logits(model), before, f"{dtype} reordered against dense", tolerance)
        close(case.hidden(model), arrays["s0/hidden_first_batch"], f"{dtype} hidden states", tolerance)
        _check_sparsities(case, model, tolerance, f"{dtype}")


def _importance(arrays: dict[str, Tensor], suffix: str) -> Importance:
    return Importance(
        tuple(arrays[f"out/head_importance{suffix}"].unbind()), tuple(arrays[f"out/neuron_importance{suffix}"].unbind())
    )


def _check_importance(case: _Case) -> Importance:
    """Raw and normalised, in both precisions; gives ours in float64."""
    for dtype, tolerance in reversed(PRECISIONS.items()):
        raw = mask_gradients(case.teacher().to(dtype), case.batches(), case.loss)
        for suffix, found in (("_raw", raw), ("", raw.normalized())):
            golden = _importance(case.arrays, suffix)
            close(torch.stack(found.heads), torch.stack(golden.heads), f"{dtype} heads{suffix}", tolerance)
            close(torch.stack(found.neurons), torch.stack(golden.neurons), f"{dtype} neurons{suffix}", tolerance)
    return raw.normalized()


def _check_map(case: _Case, places: Places, importance: Importance) -> None:
    """How many heads and neurons of each layer go at each sparsity, before rounding."""
    for sparsity, counts in case.description["sparsity_map"].items():
        for rows, units, what in (
            (importance.heads, places.heads, "head"),
            (importance.neurons, places.neurons, "neuron"),
        ):
            single = [Units(unit.group, unit.count, 1) for unit in units]  # rows of one: nothing is rounded
            kept = widths_of_ranks(removal_ranks(rows), single, int(sparsity) / 100, round_to=1)
            gone = {str(i): unit.count - kept[i] for i, unit in enumerate(units) if kept[i] < unit.count}
            assert gone == counts[what], f"{what}s at {sparsity}: {gone}, expected {counts[what]}"


def _check_order(case: _Case, model: Any) -> None:
    """Sorted weights bit for bit, where no two importances of the layer are equal."""
    state = model.state_dict()
    for key, expected in part(case.arrays, "reordered").items():
        layer = int(key.split(".layer.")[1].split(".")[0])
        kind = "head" if "attention" in key else "neuron"
        row = case.arrays[f"out/{kind}_importance"][layer]
        if len(row.unique()) == len(row):
            assert torch.equal(state[_renamed(key)].double(), expected), f"reordered {key}"


def _check_sparsities(case: _Case, model: Any, tolerance: float, what: str) -> None:
    """At every sparsity: views, the real size, its shapes, and the reloaded one cut to the highest."""
    places, arrays = places_of(model), case.arrays
    nested = NestedWidths(model)
    for name, record in case.description["per_sparsity"].items():
        sparsity, label = int(name) / 100, f"{what} {name} %"
        nested.select(sparsity)
        small = committed(model, sparsity)
        assert sparsity_of(small) == sparsity
        views, real = case.logits(model), case.logits(small)
        close(views, real, f"{label}: views against the real size", tolerance)
        for key, found in ((f"s{name}/logits_sparsified", views), (f"s{name}/logits_densified", real)):
            if key in arrays:  # where the original crashed there are none
                close(found, arrays[key], f"{label} {key}", tolerance)
        if f"s{name}/hidden_sparsified" in arrays:
            close(case.hidden(small), arrays[f"s{name}/hidden_sparsified"], f"{label} hidden states", tolerance)
        if "state_dict_shapes" in record:
            _check_shapes(case, small, places, name)
        if small.dtype == torch.float64:
            _check_reload(case, small, name, tolerance, label)
    nested.close()


def _check_shapes(case: _Case, small: Any, places: Places, name: str) -> None:
    """Every matrix has the original's shape, and what the original skips is gone, its leftover rows too."""
    counts = case.description["sparsity_map"][name]
    expected = {}
    for key, shape in case.description["per_sparsity"][name]["state_dict_shapes"].items():
        if not any(part in key for part in _SHAPED):
            continue
        layer, attention = int(key.split(".layer.")[1].split(".")[0]), "attention" in key
        units = (places.heads if attention else places.neurons)[layer]
        gone = counts["head" if attention else "neuron"].get(str(layer), 0) * units.size
        if units.count * units.size - 8 * round(gone / 8) >= 8:
            expected[key] = tuple(shape)
    state = small.state_dict()
    assert {k: tuple(v.shape) for k, v in state.items() if any(part in k for part in _SHAPED)} == expected, name


def _check_reload(case: _Case, small: Any, name: str, tolerance: float, label: str) -> None:
    """Bit-equal after a round trip, and cut further from there."""
    with tempfile.TemporaryDirectory() as directory:
        small.save_pretrained(directory)
        loaded = case.auto.from_pretrained(directory, dtype=small.dtype).eval()
    assert same_logits(case.logits(loaded), case.logits(small)), f"{label}: reloaded"
    further = case.description["per_sparsity"][name].get("reloaded_then_sparsified_to")
    key = f"s{name}/reload_then_{further}_logits"
    if key in case.arrays:
        close(case.logits(committed(loaded, int(further) / 100)), case.arrays[key], f"{label} {key}", tolerance)
