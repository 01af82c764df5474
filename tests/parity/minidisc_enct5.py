"""Parity of EncT5 and its pruning with the original: logits, importances, order, maps, shapes, every sparsity.

Where the original crashes, the cut model is compared with the whole one whose removed parts are masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, T5Config
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from model.enct5 import enct5_from_original
from model.pruning import Importance, NestedWidths, committed, places_of, sparsify
from model.pruning.commit import pruning_of
from model.pruning.importance import mask_gradients
from model.pruning.places import Places
from model.pruning.widths import removal_ranks
from tests.parity.cases import close, load, part

#: In float64 but for the original's casts to float32, which are copied here; without them it would be 1e-5.
_TOLERANCE = 1e-6
#: Below this many rows the original skips a sub-layer, whatever its state dict holds.
_ROUND_TO = 8


def check(directory: Path, name: str) -> None:
    """M2: everything that the case records."""
    case, arrays = load(directory, name)
    model = _enct5(case["config"], part(arrays, "teacher"))
    batches = _batches(arrays, case["batch_size"])
    close(_logits(model, batches), arrays["out/ftenct5_logits"], "logits", _TOLERANCE)
    dense = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    raw = mask_gradients(model, batches, _loss)
    importance = raw.normalized()
    _check_importance(raw, importance, arrays)
    _check_maps(case, importance, places_of(model))
    sparsify(model, importance)
    _check_order(model, dense, importance, arrays)
    for key, sparsity in ((key, int(key) / 100) for key in case["sparsity_map"]):
        _check_sparsity(model, batches, case, arrays, key, sparsity)
    # any sparsity in between, and beyond the original's twelve
    for sparsity in (0.03, 0.33, 0.77, 0.99):
        _check_exact(model, batches, sparsity)


def original_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float = 1.0,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """T5's attention, whose softmax the original computes in float32."""
    scores = query @ key.mT * scaling
    for term in (position_bias, attention_mask):
        scores = scores if term is None else scores + term
    weights = scores.float().softmax(-1).type_as(scores)
    return (weights @ value).transpose(1, 2), None


def _enct5(config: dict[str, Any], state: dict[str, Tensor]) -> Any:
    known = {k: v for k, v in config.items() if k not in ("num_labels", "n_positions", "decoder_start_token_id")}
    model = enct5_from_original(state, T5Config(**known)).double()
    AttentionInterface.register("original_t5", original_attention)
    AttentionMaskInterface.register("original_t5", eager_mask)
    model.set_attn_implementation("original_t5")
    return model


def _batches(arrays: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    rows = {
        "input_ids": arrays["in/text_indices"],
        "attention_mask": arrays["in/text_mask"].long(),
        "labels": arrays["in/label"],
    }
    columns = {name: tensor.split(size) for name, tensor in rows.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    if logits.shape[1] == 1:
        return F.mse_loss(logits[:, 0], batch["labels"].to(logits.dtype))
    return F.cross_entropy(logits, batch["labels"])


@torch.no_grad()
def _logits(model: Any, batches: list[dict[str, Tensor]]) -> Tensor:
    logits: Tensor = model(
        **{name: torch.cat([batch[name] for batch in batches]) for name in ("input_ids", "attention_mask")}
    ).logits
    return logits


@torch.no_grad()
def _hidden(model: Any, batch: dict[str, Tensor], skip: int) -> Tensor:
    """The first batch's hidden states of the layers 0, skip, …, its real positions only."""
    mask = batch["attention_mask"]
    out = model(input_ids=batch["input_ids"], attention_mask=mask, output_hidden_states=True)
    states = torch.stack(out.hidden_states[::skip], dim=1)
    selected: Tensor = states[mask.bool()[:, None].expand(states.shape[:-1])]
    return selected


def _check_importance(raw: Importance, importance: Importance, arrays: dict[str, Tensor]) -> None:
    for found, suffix in ((raw, "_raw"), (importance, "")):
        close(torch.stack(found.heads), arrays[f"out/head_importance{suffix}"], f"heads{suffix}", _TOLERANCE)
        close(torch.stack(found.neurons), arrays[f"out/neuron_importance{suffix}"], f"neurons{suffix}", _TOLERANCE)


def _check_maps(case: dict[str, Any], importance: Importance, places: Places) -> None:
    """How many heads and neurons go from each place, before rounding; the decoder's places are apart."""
    for units, rows, what in (
        (places.heads, importance.heads, "head"),
        (places.neurons, importance.neurons, "neuron"),
    ):
        ranks = removal_ranks(rows)
        total = sum(len(rank) for rank in ranks)
        for key in case["sparsity_map"]:
            gone = [int((rank < round(int(key) / 100 * total)).sum()) for rank in ranks]
            for group, table, entry in (
                ("encoder", "sparsity_map", what),
                ("decoder", "dec_sparsity_map", what),
                ("cross", "dec_sparsity_map", f"cross_{what}"),
            ):
                counts = [count for unit, count in zip(units, gone, strict=True) if unit.group == group]
                expected = case[table][key].get(entry, {})
                assert {str(i): n for i, n in enumerate(counts) if n} == expected, f"{group} {what} at {key}"


def _check_order(model: Any, dense: dict[str, Tensor], importance: Importance, arrays: dict[str, Tensor]) -> None:
    """The order of heads and neurons, and the weights in that order; equals may change places."""
    edit, reordered = pruning_of(model), part(arrays, "reordered")
    assert edit is not None
    heads = [list(row) for row in edit.heads]
    neurons = [row.argsort(descending=True, stable=True).tolist() for row in importance.neurons]
    for found, rows, key in ((heads, importance.heads, "head"), (neurons, importance.neurons, "neuron")):
        for ours, row, theirs in zip(found, rows, arrays[f"out/{key}_indices"].tolist(), strict=True):
            close(row[theirs], row[ours], f"order of {key}s", _TOLERANCE)
    state = model.state_dict()
    tied = [
        torch.tensor(ours) != theirs for ours, theirs in zip(neurons, arrays["out/neuron_indices"].long(), strict=True)
    ]
    for name, expected in reordered.items():
        if name.endswith("head_indices.indices"):
            found = state[name.replace("head_indices.indices", "head_ids")]
            assert torch.equal(found, expected.long()), name
            continue
        weight = state[name]
        if "DenseReluDense" in name:
            stack, _, i = name.split(".")[:3]
            same = ~tied[int(i) if stack == "encoder" else -1]
            weight, expected = (x[:, same] if ".wo." in name else x[same] for x in (weight, expected))
        assert torch.equal(weight, expected), name
    assert dense.keys() <= state.keys()


def _check_sparsity(
    model: Any,
    batches: list[dict[str, Tensor]],
    case: dict[str, Any],
    arrays: dict[str, Tensor],
    key: str,
    sparsity: float,
) -> None:
    small, logits = _check_exact(model, batches, sparsity)
    for kind in ("per_sparsity", "per_sparsity_decoder_use_cache_False"):
        if shapes := case.get(kind, {}).get(key, {}).get("state_dict_shapes"):  # absent where the original crashed
            _check_shapes(small, shapes, f"{key} %")
    for prefix in (f"s{key}", f"nocache_s{key}"):
        for name, expected in part(arrays, prefix).items():
            what = f"{prefix} {name}"
            if name.startswith("logits"):
                close(logits, expected, what, _TOLERANCE)
            elif name.startswith("hidden"):
                close(_hidden(small, batches[0], case["layer_skip"]), expected, what, _TOLERANCE)
            elif name == "reload_then_95_logits":
                close(_logits(committed(small, 0.95), batches), expected, what, _TOLERANCE)
            else:
                raise AssertionError(f"no check knows the array {what}")


def _check_shapes(model: Any, shapes: dict[str, list[int]], what: str) -> None:
    places = places_of(model)
    names = {id(module): name for name, module in model.named_modules()}
    for attention in places.attentions:
        rows = shapes[f"{names[id(attention.slots.block.module)]}.q.weight"][0]
        kept = attention.kept * attention.units.size
        assert kept == (rows if rows >= _ROUND_TO else 0), f"{what}: rows of {names[id(attention.slots.block.module)]}"
    for ffn in places.ffns:
        name = names[id(ffn.ffn_out.module)]
        columns = shapes[f"{name}.weight"][1]
        assert ffn.kept == (columns if columns >= _ROUND_TO else 0), f"{what}: columns of {name}"


def _check_exact(model: Any, batches: list[dict[str, Tensor]], sparsity: float) -> tuple[Any, Tensor]:
    """The cut model, the nested widths and the masked whole model compute the same; gives the cut one, its logits."""
    small = committed(model, sparsity)
    found = _logits(small, batches)
    with NestedWidths(model) as widths:
        widths.select(sparsity)
        close(_logits(model, batches), found, f"nested at {sparsity}", _TOLERANCE)
    with masked(places_of(model), places_of(small)):
        close(_logits(model, batches), found, f"masked at {sparsity}", _TOLERANCE)
    return small, found


@contextmanager
def masked(whole: Places, small: Places) -> Iterator[None]:
    """Sets to 0 what `small` has lost in front of each output projection of the whole model."""
    handles = []
    outputs = [
        *((a.slots.output, b.kept * b.units.size) for a, b in zip(whole.attentions, small.attentions, strict=True)),
        *((a.ffn_out, b.kept) for a, b in zip(whole.ffns, small.ffns, strict=True)),
    ]
    for slot, count in outputs:

        def zero(module: Any, args: tuple[Tensor, ...], count: int = count) -> tuple[Tensor, ...]:
            return (torch.where(torch.arange(args[0].shape[-1]) < count, args[0], 0.0),)

        handles.append(slot.module.register_forward_pre_hook(zero))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
