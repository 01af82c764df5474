"""The table of stacks: which edits go on which backbone, in which order. A new stack joins by an entry in `STACKS`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model import (
    DecompositionConfig,
    EmbeddingConfig,
    LayerDropConfig,
    LoraConfig,
    PluginConfig,
    PruningConfig,
    QuantizationConfig,
    apply_edit,
    available_ratios,
    use_ratio,
)
from tests import helpers_decomposition, helpers_edits, helpers_enct5


def _pruning(*heads_and_neurons: tuple[tuple[int, ...], int], decoders: int = 0) -> PruningConfig:
    """Uneven: these for the encoder's layers; a decoder's keep a head and four neurons each."""
    heads = [heads for heads, _ in heads_and_neurons] + [(1,)] * 2 * decoders
    neurons = [count for _, count in heads_and_neurons] + [4] * decoders
    return PruningConfig(0.5, tuple(heads), tuple(neurons))


#: Edits by name, per backbone.
_BERT: dict[str, Any] = {
    "layer_drop": LayerDropConfig((1,)),
    "pruning": _pruning(((2, 0), 20), ((1,), 0)),
    "pruning_one": _pruning(((2, 0), 20)),
    "decomposition": DecompositionConfig("IV", "san_ffn", rank_layer=3, rank_condim=4, rank_dim=7),
    "san": DecompositionConfig("III", "san", rank_condim=7, rank_dim=4),
    "ffn": DecompositionConfig("II", "ffn", rank_dim=5),
    "embedding": EmbeddingConfig("ket", 2, 3),
    "lora": LoraConfig(rank=2, alpha=4.0),
    "plugin": PluginConfig((2, 3), bottleneck=4),
    "int8": QuantizationConfig(),
    "int8_activations": QuantizationConfig("int8"),
}
_T5: dict[str, Any] = {
    **_BERT,
    "layer_drop": LayerDropConfig((1,)),
    "pruning": _pruning(((1,), 12), ((1, 0), 0), decoders=2),
    "pruning_one": _pruning(((1,), 12), decoders=2),
}
_ENCT5: dict[str, Any] = {**_T5, "pruning": _pruning(((1,), 12), ((1, 0), 0), ((2,), 4), decoders=1)}
_EDITS = {"bert": _BERT, "t5": _T5, "enct5": _ENCT5}

_ANYWHERE = (
    *("layer_drop", "pruning", "lora", "plugin", "int8", "int8_activations"),
    *("layer_drop+plugin", "layer_drop+lora", "layer_drop+int8", "layer_drop+lora+plugin+int8"),
    *("pruning+plugin", "pruning+int8_activations", "pruning+plugin+int8", "lora+plugin", "lora+int8", "plugin+int8"),
)
_ON_BERT = (
    *("decomposition", "embedding", "layer_drop+decomposition", "layer_drop+pruning_one+plugin"),
    *("decomposition+plugin", "decomposition+embedding+plugin", "pruning+embedding+plugin", "embedding+lora"),
    *("ffn+lora+plugin", "san+int8", "san+plugin+int8", "ffn+embedding+lora+plugin+int8_activations"),
    "layer_drop+san+embedding+plugin+int8",
)
#: Backbone and edits, as `bert-decomposition+plugin`.
STACKS = (
    *(f"bert-{stack}" for stack in _ANYWHERE + _ON_BERT),
    *(f"t5-{stack}" for stack in (*_ANYWHERE, "layer_drop+pruning_one+plugin")),
    *(f"enct5-{stack}" for stack in _ANYWHERE if "+" in stack),
)


def build(stack: str) -> Any:
    """A tiny model with the stack; what an edit adds and would start from nothing has values at which it shows."""
    family, _, names = stack.partition("-")
    model = {
        "bert": helpers_decomposition.tiny_bert,
        "t5": lambda: helpers_edits.build_t5("relu"),
        "enct5": helpers_enct5.tiny_enct5,
    }[family]()
    for name in names.split("+"):
        edit = _EDITS[family][name]
        apply_edit(model, edit)
        if edit.kind in ("lora", "plugin"):
            helpers_edits.scramble(model, edit)
    return model


def edit_of(family: str, name: str) -> Any:
    """One of the table's edits."""
    return _EDITS[family][name]


def inputs_of(family: str) -> dict[str, Tensor]:
    """Two rows of unlike length."""
    helper: Any = {
        "bert": helpers_decomposition.tiny_inputs,
        "t5": helpers_edits.inputs,
        "enct5": helpers_enct5.tiny_inputs,
    }[family]
    made: dict[str, Tensor] = helper()
    return made


@torch.no_grad()
def outputs(model: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits at every ratio."""
    found = {}
    for ratio in available_ratios(model):
        with use_ratio(model, ratio):
            found[str(ratio)] = model(**given).logits.contiguous()
    return found


def save_inputs(root: Path) -> None:
    """For the fresh process."""
    for family in _EDITS:
        save_file(inputs_of(family), root / f"{family}.safetensors")


def main(root: Path) -> None:
    """What the fresh process does: load every stack through its `Auto…` class, and write its logits into its folder."""
    from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    torch.set_num_threads(1)
    for directory in sorted(path for path in root.iterdir() if path.is_dir()):
        family = directory.name.partition("-")[0]
        kind = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForSequenceClassification
        loaded: nn.Module = kind.from_pretrained(directory).eval()
        save_file(outputs(loaded, load_file(root / f"{family}.safetensors")), directory / "found.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
