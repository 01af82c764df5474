"""A BERT of a few thousand numbers, inputs for it, and decompositions of every kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from model import DecompositionConfig, apply_edit
from model.decomposition.config import Ops
from model.decomposition.surgery import matrix_bank

WIDTH, LAYERS, CHUNKS, VOCABULARY = 12, 2, 3, 40
#: D x D blocks of all layers.
BLOCKS: dict[Ops, int] = {"san": 4 * LAYERS, "ffn": 2 * CHUNKS * LAYERS, "san_ffn": (4 + 2 * CHUNKS) * LAYERS}


def tiny_config(**changes: Any) -> BertConfig:
    """Two layers of width 12, FFN width 36, no dropout, unless `changes` say otherwise."""
    values: dict[str, Any] = {
        **{"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 3},
        **{"intermediate_size": CHUNKS * WIDTH, "max_position_embeddings": 16, "initializer_range": 0.2},
        **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    }
    return BertConfig(**(values | changes))


def tiny_bert(head: Any = BertForSequenceClassification, seed: int = 0, **changes: Any) -> Any:
    """A random BERT with biases that are not zero, in evaluation mode; the same seed gives the same bits."""
    torch.manual_seed(seed)
    model = head(tiny_config(**changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model


def tiny_inputs() -> dict[str, Tensor]:
    """Two rows of unlike length."""
    ids = torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": (ids % 2) * mask}


@torch.no_grad()
def tiny_logits(model: Any) -> Tensor:
    """The first output of `tiny_inputs`: logits, or hidden states of a model without a head."""
    return model(**tiny_inputs())[0].clone()


def bank_of(model: Any) -> Any:
    """The model's bank, whatever its kind."""
    return matrix_bank(model)


def decompositions(ops: Ops = "san_ffn") -> dict[str, DecompositionConfig]:
    """One of each kind, with two unlike ranks wherever there are two."""
    expanded = {"is_expand": True, "rank_left_expdim": 2, "rank_right_expdim": 3}
    return {
        "II": DecompositionConfig("II", ops, rank_dim=5),
        "III": DecompositionConfig("III", ops, rank_condim=7, rank_dim=4),
        "IV": DecompositionConfig("IV", ops, rank_layer=3, rank_condim=4, rank_dim=7),
        "expanded": DecompositionConfig("IV", ops, BLOCKS[ops], 7, 4, **expanded),  # type: ignore[arg-type]
    }


def full_rank(protocol: str, ops: Ops) -> DecompositionConfig:
    """The setting that changes nothing."""
    ranks = {"II": {"rank_dim": WIDTH}, "III": {"rank_condim": WIDTH, "rank_dim": WIDTH}}
    ranks["IV"] = {**ranks["III"], "rank_layer": BLOCKS[ops]}
    return DecompositionConfig(protocol, ops, **ranks[protocol])  # type: ignore[arg-type]


def decomposed(edit: DecompositionConfig, head: Any = BertForSequenceClassification, **changes: Any) -> Any:
    """A tiny BERT with the edit."""
    model = tiny_bert(head, **changes)
    apply_edit(model, edit)
    return model
