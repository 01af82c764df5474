"""A Hugging Face BERT with a golden case's weights, dense or with the original's factors, and what it computes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from model import apply_edit
from model.backbone import BERT
from model.decomposition.config import DecompositionConfig
from model.decomposition.originals import convert_names, edit_from_tensors, load_tensors

#: dtype -> tolerance of the re-run.
PRECISIONS = {torch.float64: 1e-10, torch.float32: 4e-4}


def bert_config(config: dict[str, Any], **changes: Any) -> BertConfig:
    """The case's sizes, without dropout."""
    names = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act"]
    names += ["intermediate_size", "max_position_embeddings", "type_vocab_size", "initializer_range"]
    known = {name: config[name] for name in names if name in config}
    return BertConfig(**{**known, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **changes})


def dense_bert(config: dict[str, Any], weights: dict[str, Tensor]) -> Any:
    """A float64 BERT with the case's dense weights."""
    model = BertModel(bert_config(config)).double().eval()
    missing, superfluous = model.load_state_dict(convert_names(weights), strict=False)
    assert not missing and all("position_ids" in name for name in superfluous), (missing, superfluous)
    return model


def compressed_bert(config: dict[str, Any], weights: dict[str, Tensor]) -> tuple[Any, DecompositionConfig]:
    """A float64 BERT with the case's factors, and the edit that their shapes and the config give."""
    model, state = BertModel(bert_config(config)).eval(), convert_names(weights)
    edit = edit_from_tensors(state, config.get("ops"), "the golden case")
    apply_edit(model, edit, from_scratch=True)
    model.double()
    load_tensors(model, edit, state, "the golden case")
    return model, edit


@contextmanager
def attention_scores(model: Any, mask: Tensor) -> Iterator[list[Tensor]]:
    """Collects every layer's q k^T / sqrt(head size) plus -10000 at masked keys, (B, H, T, T) each."""
    found: list[Tensor] = []
    queries: dict[int, Tensor] = {}
    heads = model.config.num_attention_heads

    def keep_query(module: Any, args: Any, output: Tensor) -> None:
        queries[0] = output

    def score(module: Any, args: Any, output: Tensor) -> None:
        q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries.pop(0), output))
        masked = (1 - mask)[:, None, None, :].to(q.dtype) * -10000.0
        found.append(q @ k.mT / math.sqrt(q.shape[-1]) + masked)

    handles = []
    for layer in BERT.encoder_layers(model):
        handles.append(layer.attention.query.module.register_forward_hook(keep_query))
        handles.append(layer.attention.key.module.register_forward_hook(score))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def outputs(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hidden states (L + 1, B, T, D), attention scores (L, B, H, T, T) and pooled output (B, D)."""
    ids = {name: inputs[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.no_grad(), attention_scores(model, inputs["attention_mask"]) as scores:
        out = model(**ids, output_hidden_states=True)
    return {
        "hidden_states": torch.stack(out.hidden_states),
        "att_scores": torch.stack(scores),
        "pooled": out.pooler_output,
    }


def projections(model: Any, layer: int, h: Tensor, h4: Tensor) -> dict[str, Tensor]:
    """What the six projections of a layer make of probes of width D and of the FFN's width, biases included."""
    slots = BERT.encoder_layers(model)[layer]
    attention = slots.attention
    named = {"q": attention.query, "k": attention.key, "v": attention.value, "o": attention.output}
    with torch.no_grad():
        found = {name: slot.module(h) for name, slot in named.items()}
        return {**found, "ffn_inner": slots.ffn_in[0].module(h), "ffn_output": slots.ffn_out.module(h4)}
