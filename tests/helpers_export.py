"""Models of every kind that can be exported, each as a saved directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import BertForMaskedLM, BertForQuestionAnswering

from model import EmbeddingConfig, LayerDropConfig, LoraConfig, PluginConfig, apply_edit, committed, sparsify
from tests.helpers_decomposition import decomposed, decompositions, tiny_bert
from tests.helpers_edits import scramble
from tests.helpers_enct5 import tiny_enct5
from tests.helpers_plugin import with_plugins
from tests.helpers_pruning import random_importance
from utils.export.source import Source, load_source

_SMALL_T5: dict[str, Any] = {"num_layers": 1, "num_decoder_layers": 1}


def _edited(model: Any, edit: Any) -> Any:
    apply_edit(model, edit)
    return model


def _pruned(model: Any, sparsity: float) -> Any:
    sparsify(model, random_importance(model))
    return committed(model, sparsity).eval()


def _wide_bert() -> Any:
    return tiny_bert(hidden_size=24, num_attention_heads=3, intermediate_size=40)


def _bert_with_plugins() -> Any:
    """Ratio 3 does not divide its 16 positions."""
    edit = PluginConfig((3,), 5, 30.0)
    model = _edited(tiny_bert(num_hidden_layers=1, max_position_embeddings=16), edit)
    scramble(model, edit)
    return model.eval()


#: Name -> the model and the ratio of its plugins.
KINDS: dict[str, tuple[Callable[[], Any], int | None]] = {
    "dense": (lambda: tiny_bert(num_hidden_layers=1), None),
    "answers": (lambda: tiny_bert(BertForQuestionAnswering, num_hidden_layers=1), None),
    "pairs": (lambda: decomposed(decompositions()["II"]), None),
    "tucker": (lambda: decomposed(decompositions()["IV"], num_hidden_layers=1), None),
    "expanded": (lambda: decomposed(decompositions()["expanded"]), None),
    "pruned": (lambda: _pruned(_wide_bert(), 0.8), None),
    "vanished": (lambda: _pruned(_wide_bert(), 0.97), None),
    "layers": (lambda: _edited(tiny_bert(), LayerDropConfig((1,))), None),
    "embedding": (lambda: _edited(tiny_bert(BertForMaskedLM), EmbeddingConfig("tt", rank=4)), None),
    "lora": (lambda: _edited(tiny_bert(), LoraConfig(rank=2)), None),
    "enct5": (lambda: tiny_enct5(num_layers=2), None),
    "pruned_enct5": (lambda: _pruned(tiny_enct5(d_kv=8, num_heads=4, d_ff=32), 0.8), None),
    "plugin": (lambda: with_plugins((2, 4), **_SMALL_T5), 4),
    "plugin_off": (lambda: with_plugins((2, 4), **_SMALL_T5), 1),
    "plugin_enct5": (lambda: _edited(tiny_enct5(num_layers=1), PluginConfig((3,), 5)), 3),
    "plugin_bert": (_bert_with_plugins, 3),
    "plugin_original": (lambda: with_plugins((4,), compat="original", **_SMALL_T5), 4),
}


def saved(kind: str, root: Path) -> Path:
    """The directory of a saved model of this kind."""
    KINDS[kind][0]().save_pretrained(root / kind)
    return root / kind


def source_of(kind: str, root: Path) -> Source:
    """The same, loaded as the tool loads it."""
    return load_source(str(saved(kind, root)), KINDS[kind][1], "", None, needs_ratio=True)
