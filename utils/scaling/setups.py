"""The three trainings that docs/scaling.md works out, on the meta device.

Shapes: B rows of a GPU's micro-batch, L input tokens, T target tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

from model import PluginConfig, PruningConfig, SparsityAxis, apply_edit, committed
from model.backbone import spec_for
from model.heads import Seq2SeqHead
from model.plugin.objective import PluginObjective, freeze_for
from model.pruning import places_of
from model.pruning.surgery import attach_order
from model.pruning.widths import removal_ranks
from model.schedule import Sandwich
from model.variants import VariantDistillation
from notation import get_model_type

#: MiniDisc's default sparsities from the default --trunc_sparsity on.
GRID = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
_T5: Mapping[str, Mapping[str, int]] = {
    "t5-large": {"d_model": 1024, "d_ff": 4096, "d_kv": 64, "num_heads": 16},
    "t5-3b": {"d_model": 1024, "d_ff": 16384, "d_kv": 128, "num_heads": 32},
}
_BERT_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}


@dataclass(frozen=True)
class Setup:
    """A training.

    Attributes:
        what: in words.
        layers: of the model; a T5 has as many in its decoder.
        shape: (B, L) of one GPU.
        targets: T, 0 without a decoder.
        objective: gives it with another number of layers.
    """

    what: str
    layers: int
    shape: tuple[int, int]
    targets: int
    objective: Callable[[int], nn.Module]

    @property
    def tokens(self) -> int:
        """Input tokens of a GPU's step."""
        return self.shape[0] * self.shape[1]

    def batch(self) -> dict[str, Tensor]:
        """Full rows, without numbers."""
        rows = self.shape[0]
        with torch.device("meta"):
            ids = torch.empty(self.shape, dtype=torch.long)
            if not self.targets:
                return {"input_ids": ids, "attention_mask": ids, "labels": torch.empty(rows, dtype=torch.long)}
            words = torch.empty(rows, self.targets, dtype=torch.long)
        target = dict.fromkeys(("decoder_input_ids", "decoder_attention_mask", "labels"), words)
        return {"input_ids": ids, "attention_mask": ids, **target}


def plugin_training(sizes: Mapping[str, int], layers: int, ratio: int = 4) -> nn.Module:
    """Variator's pre-training: plugins learn the hidden states of the frozen T5 around them."""
    with torch.device("meta"):
        depth: dict[str, Any] = {"num_layers": layers, "num_decoder_layers": layers, "dropout_rate": 0.0}
        model = T5ForConditionalGeneration(T5Config(**sizes, **depth))
        apply_edit(model, PluginConfig(ratios=(ratio,)))
    freeze_for(model, "hidden", False, (ratio,))
    return PluginObjective(model, Seq2SeqHead(), "hidden", (ratio,))


def minidisc_step(sizes: Mapping[str, int], layers: int, grid: tuple[float, ...] = GRID) -> nn.Module:
    """MiniDisc's first iteration: a fine-tuned BERT teaches its pruned versions, all at once.

    All layers lose the same share of heads and neurons. Attention without dropout, whose mask no fused kernel keeps.
    """
    with torch.device("meta"):
        depth = {"num_hidden_layers": layers, "attention_probs_dropout_prob": 0.0}
        teacher = BertForSequenceClassification(BertConfig(**sizes, **depth))
        apply_edit(teacher, PruningConfig())
    _even_order(teacher)
    student = committed(teacher, grid[0])
    axis = SparsityAxis(student, grid)
    for scale in grid:  # worked out now, as long as the order has numbers
        axis.select(scale)
    return Sandwich(VariantDistillation(teacher, student, get_model_type("sparsebert_cls")), axis, grid, 0.2, grid[-1])


def _even_order(model: Any) -> None:
    """Let the n-th least important unit of every layer go before the (n + 1)-th of any."""
    places = places_of(model)
    ranks = [
        removal_ranks([-torch.arange(unit.count, device="cpu") / unit.count for unit in units])
        for units in (places.heads, places.neurons)
    ]
    encoder: Any = spec_for(model).encoder(model)
    attach_order(model, *ranks)
    for kind, rows in zip(("heads", "neurons"), ranks, strict=True):
        for i, rank in enumerate(rows):
            encoder.pruning_order._buffers[f"{kind}_{i}"] = rank


SETUPS: Mapping[str, Setup] = MappingProxyType(
    {
        **{
            name: Setup(
                f"plugins (k = 4) of {name}, --distil hidden on text",
                24,
                (8, 512),
                114,
                lambda layers, sizes=sizes: plugin_training(sizes, layers),  # type: ignore[misc]
            )
            for name, sizes in _T5.items()
        },
        "bert-large": Setup(
            "MiniDisc's first iteration on BERT-large, sparsities 50 to 95 %",
            24,
            (32, 128),
            0,
            lambda layers: minidisc_step(_BERT_LARGE, layers),
        ),
    }
)
