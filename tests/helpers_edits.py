"""The edits and backbones on which the contract of every edit is tested. A new edit joins by an entry in `CASES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from model import (
    LayerDropConfig,
    LoraConfig,
    PluginConfig,
    PruningConfig,
    apply_edit,
    find_edit,
    first_layers,
    use_ratio,
)
from model.backbone import spec_for
from model.compression import EditConfig
from model.plugin.objective import freeze_for
from model.plugin.state import Choice
from tests.helpers_close import same_logits

VOCABULARY = 50

#: Gating and depths of the tiny T5s; gated ones have a head of their own, as T5 v1.1 has.
BACKBONES: dict[str, dict[str, Any]] = {
    "relu": {"feed_forward_proj": "relu", "num_layers": 2, "num_decoder_layers": 2},
    "gated_deep_decoder": {"feed_forward_proj": "gated-gelu", "num_layers": 2, "num_decoder_layers": 3},
    "gated_deep_encoder": {"feed_forward_proj": "gated-gelu", "num_layers": 3, "num_decoder_layers": 1},
}


@dataclass(frozen=True)
class Case:
    """One edit and what the contract needs to know of it.

    Attributes:
        edit: the edit under test.
        freeze: leaves exactly its parameters to be trained.
        identity: the edit at the setting that changes nothing (default: `edit`, switched off or as initialised).
        reversible: whether it can be undone.
        structural: whether it takes away from the backbone instead of adding to it: what is left is what is trained,
            and there is no delta.
        refused: settings that may not be built, with a word of the message.
    """

    edit: EditConfig
    freeze: Callable[[Any], None]
    identity: EditConfig | Callable[[Any], EditConfig] | None = None
    reversible: bool = True
    structural: bool = False
    refused: tuple[tuple[dict[str, Any], str], ...] = ()

    def identity_for(self, model: Any) -> EditConfig:
        """The edit that changes nothing of `model`."""
        return self.identity(model) if callable(self.identity) else self.identity or self.edit


def _train_plugins(model: Any) -> None:
    freeze_for(model, "hidden", delta_tuning=False)


def _train_lora(model: Any) -> None:
    freeze_for(model, "no", delta_tuning=True)


def _train_all(model: Any) -> None:
    model.requires_grad_(True)


CASES: dict[str, Case] = {
    "plugin": Case(
        PluginConfig(ratios=(2,), bottleneck=5, residual_scale=1.0),
        _train_plugins,
        refused=(
            ({"ratios": ()}, "ratios"),
            ({"ratios": (1,)}, "at least 2"),
            ({"ratios": (2.5,)}, "whole numbers"),
            ({"ratios": 4}, "whole numbers"),
            ({"ratios": (True,)}, "whole numbers"),
            ({"ratios": (4, 2, 4)}, "once"),
            ({"bottleneck": 0}, "bottleneck"),
            ({"bottleneck": 2.0}, "bottleneck"),
            ({"residual_scale": 0.0}, "residual scale"),
            ({"residual_scale": float("nan")}, "residual scale"),
            ({"residual_scale": "100"}, "residual scale"),
            ({"tasks": ()}, "Task names"),
            ({"tasks": "sst2"}, "Task names"),
            ({"tasks": ("mnli-mm",)}, "Task names"),
            ({"tasks": ("a.b",)}, "Task names"),
            ({"tasks": (4,)}, "Task names"),
            ({"compat": "orignal"}, "native, grouping, original"),
        ),
    ),
    "plugin_bank": Case(PluginConfig((4, 2, 3), 7, 100.0), _train_plugins),
    "plugin_tasks": Case(PluginConfig((2, 4), 5, 100.0, ("sst2", "mrpc")), _train_plugins),
    "plugin_original": Case(
        PluginConfig((4,), residual_scale=100.0, compat="original"),
        _train_plugins,
        identity=PluginConfig(ratios=(4,), compat="grouping"),  # the original's epsilon changes the dense model too
    ),
    "lora": Case(
        LoraConfig(rank=3, alpha=6.0),
        _train_lora,
        refused=(
            ({"rank": 0}, "rank"),
            ({"rank": 2.0}, "rank"),
            ({"alpha": 0.0}, "alpha"),
            ({"alpha": float("inf")}, "alpha"),
        ),
    ),
    "pruning": Case(
        # Rows for the largest of the backbones; a smaller one reads the first.
        PruningConfig(0.5, ((1,), (1, 0), (0,), (0,), (0, 1), (1,), (0,), (0, 1)), (12, 20, 3, 8, 16)),
        _train_all,
        identity=PruningConfig(),
        reversible=False,
        structural=True,
        refused=(
            ({"sparsity": 1.0}, "below 1"),
            ({"sparsity": 90}, "below 1"),
            ({"sparsity": "0.5"}, "below 1"),
            ({"sparsity": 0.5}, "names the heads and neurons"),
            ({"round_to": 0}, "round_to"),
            ({"round_to": 8.0}, "round_to"),
            ({"heads": (0, 1)}, "heads"),
            ({"heads": ((0, 0),)}, "distinct"),
            ({"heads": ((-1,),)}, "heads"),
            ({"neurons": (8.5,)}, "neurons"),
            ({"neurons": 8}, "neurons"),
        ),
    ),
    "layer_drop": Case(
        LayerDropConfig((1,)),
        _train_all,
        identity=lambda model: first_layers(len(spec_for(model).encoder_layers(model))),
        reversible=False,
        structural=True,
        refused=(
            ({"layers": ()}, "layers"),
            ({"layers": 4}, "layers"),
            ({"layers": (0, True)}, "layers"),
            ({"layers": (-1,)}, "layers"),
            ({"layers": (2, 1)}, "rise"),
            ({"layers": (1, 1)}, "rise"),
        ),
    ),
}
# Field values survive JSON whatever the entry says, so the stack is tested with two of the entries above.
STACK = ("lora", "plugin_bank")

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
_DELTAS = {name: case for name, case in CASES.items() if not case.structural}
each_delta_case = pytest.mark.parametrize("case", _DELTAS.values(), ids=_DELTAS.keys())
each_backbone = pytest.mark.parametrize("backbone", BACKBONES)
some_backbone = "gated_deep_decoder"


def build_t5(backbone: str, seed: int = 0, **sizes: int) -> Any:
    """A random T5 of one of `BACKBONES`; the same seed gives the same bits."""
    torch.manual_seed(seed)
    gated = "gated" in backbone
    config = T5Config(
        **{
            **{"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 6, "num_heads": 2, "d_ff": 20, "dropout_rate": 0.0},
            **BACKBONES[backbone],
            **sizes,
        },
        tie_word_embeddings=not gated,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).eval()
    if gated:
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model


def inputs() -> dict[str, Tensor]:
    """Two rows of unlike length; 7 is a multiple of no ratio in use."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    ids = torch.randint(3, VOCABULARY, (2, 7), generator=generator) * mask
    decoder = torch.randint(3, VOCABULARY, (2, 3), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder}


@torch.no_grad()
def logits(model: Any) -> Tensor:
    """Logits of `inputs()`."""
    return model(**inputs()).logits


def choices(model: Any) -> list[Choice]:
    """The dense model and every ratio of every task."""
    edit = find_edit(model, PluginConfig)
    return [Choice(1), *(edit.choices if edit else [])]


def logits_by_choice(model: Any) -> dict[str, Tensor]:
    """Logits of the dense model and of every plugin, by its name in the bank."""
    found = {}
    for choice in choices(model):
        with use_ratio(model, *choice):
            found[choice.key] = logits(model).contiguous()
    return found


def own_parameters(model: Any, edit: EditConfig) -> dict[int, nn.Parameter]:
    """The edit's parameters by identity."""
    return {id(p): p for module in edit.own_modules(model).values() for p in module.parameters()}


def trained_parameters(model: Any, case: Case) -> dict[int, nn.Parameter]:
    """What training a model with the case's edit trains: the edit's parameters, or all that it left."""
    return {id(p): p for p in model.parameters()} if case.structural else own_parameters(model, case.edit)


def scramble(model: Any, edit: EditConfig, seed: int = 7) -> None:
    """Give the edit's own parameters values at which it shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in own_parameters(model, edit).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def edited(case: Case, backbone: str = some_backbone, seed: int = 7) -> Any:
    """A T5 with the case's edit, far from doing nothing."""
    model = build_t5(backbone)
    apply_edit(model, case.edit)
    scramble(model, case.edit, seed)
    return model


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """The same names and bits."""
    return one.keys() == other.keys() and all(same_logits(one[key], other[key]) for key in one)
