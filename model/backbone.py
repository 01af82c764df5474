"""Where a pretrained Transformer keeps the parts that the edits replace, and their sizes.

An edit never names a module of a concrete class. It asks the `BackboneSpec` of the model's family for the
slots it needs, so a new family (BERT, RoBERTa, …) is one more entry of `SPECS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn

from model.errors import ModelError

#: Prefix of `config.model_type` once a model carries edits (see `model.compression`).
COMPRESSED_PREFIX = "compressed_"


@dataclass(frozen=True)
class Slot:
    """The place where a module hangs: `parent.name`. Reading and replacing go through here."""

    parent: nn.Module
    name: str

    @property
    def module(self) -> nn.Module:
        """The module that hangs there now."""
        return self.parent.get_submodule(self.name)

    def replace(self, module: nn.Module) -> None:
        """Hang `module` in the slot."""
        setattr(self.parent, self.name, module)


@dataclass(frozen=True)
class AttentionSlots:
    """The four projections of one attention block, and the block itself."""

    block: Slot
    query: Slot
    key: Slot
    value: Slot
    output: Slot


@dataclass(frozen=True)
class LayerSlots:
    """One Transformer layer: its self-attention and its feed-forward network.

    Attributes:
        attention: the self-attention.
        ffn: the whole feed-forward network, None where the family keeps it in no module of its own (BERT).
        ffn_in: its input projections, two where it is gated.
        ffn_out: its output projection.
    """

    attention: AttentionSlots
    ffn: Slot | None
    ffn_in: tuple[Slot, ...]
    ffn_out: Slot


@dataclass(frozen=True)
class BackboneSizes:
    """Sizes of a stack, read from the config. `inner` is heads x head size; `gated` FFNs have three matrices."""

    width: int
    inner: int
    ffn: int
    heads: int
    layers: int
    gated: bool


@dataclass(frozen=True)
class BackboneSpec:
    """How to find one model family's parts.

    Attributes:
        family: `config.model_type` of the unedited model.
        encoder: gives the encoder stack, whose forward takes `input_ids` or `inputs_embeds` and `attention_mask`.
        encoder_layers: gives the slots of every encoder layer.
        decoder_layers: the same for the decoder, empty where there is none.
        sizes: gives the encoder's sizes.
        embeddings: gives the slot of the word embedding.
    """

    family: str
    encoder: Callable[[Any], nn.Module]
    encoder_layers: Callable[[Any], list[LayerSlots]]
    decoder_layers: Callable[[Any], list[LayerSlots]]
    sizes: Callable[[Any], BackboneSizes]
    embeddings: Callable[[Any], Slot]


def _t5_layers(stack: Any) -> list[LayerSlots]:
    layers = []
    for block in stack.block:
        self_attention = block.layer[0].SelfAttention
        attention = AttentionSlots(
            Slot(block.layer[0], "SelfAttention"), *(Slot(self_attention, name) for name in "qkvo")
        )
        whole = block.layer[-1].DenseReluDense
        ffn = getattr(whole, "base_layer", whole)  # with plugins, the dense one is inside
        ffn_in = tuple(Slot(ffn, name) for name in ("wi", "wi_0", "wi_1") if hasattr(ffn, name))
        slot = Slot(block.layer[-1], "DenseReluDense")
        layers.append(LayerSlots(attention=attention, ffn=slot, ffn_in=ffn_in, ffn_out=Slot(ffn, "wo")))
    return layers


def _t5_sizes(config: Any) -> BackboneSizes:
    return BackboneSizes(
        width=config.d_model,
        inner=config.num_heads * config.d_kv,
        ffn=config.d_ff,
        heads=config.num_heads,
        layers=config.num_layers,
        gated=bool(config.is_gated_act),
    )


T5 = BackboneSpec(
    family="t5",
    encoder=lambda model: model.get_encoder(),
    encoder_layers=lambda model: _t5_layers(model.get_encoder()),
    decoder_layers=lambda model: _t5_layers(model.decoder) if hasattr(model, "decoder") else [],
    sizes=_t5_sizes,
    embeddings=lambda model: Slot(model, "shared"),
)


def _bert_base(model: Any) -> Any:
    """The `BertModel` of a head, or the model itself where it is one."""
    return getattr(model, "bert", model)


def _bert_layers(model: Any) -> list[LayerSlots]:
    layers = []
    for layer in _bert_base(model).encoder.layer:
        block = layer.attention.self
        attention = AttentionSlots(
            Slot(layer.attention, "self"),
            query=Slot(block, "query"),
            key=Slot(block, "key"),
            value=Slot(block, "value"),
            output=Slot(layer.attention.output, "dense"),
        )
        ffn_in = (Slot(layer.intermediate, "dense"),)
        layers.append(LayerSlots(attention=attention, ffn=None, ffn_in=ffn_in, ffn_out=Slot(layer.output, "dense")))
    return layers


def _bert_sizes(config: Any) -> BackboneSizes:
    return BackboneSizes(
        width=config.hidden_size,
        inner=config.hidden_size,
        ffn=config.intermediate_size,
        heads=config.num_attention_heads,
        layers=config.num_hidden_layers,
        gated=False,
    )


BERT = BackboneSpec(
    family="bert",
    encoder=_bert_base,
    encoder_layers=_bert_layers,
    decoder_layers=lambda model: [],
    sizes=_bert_sizes,
    embeddings=lambda model: Slot(_bert_base(model).embeddings, "word_embeddings"),
)

SPECS: Mapping[str, BackboneSpec] = MappingProxyType({T5.family: T5, BERT.family: BERT})


def describe_stacks(model: Any) -> str:
    """What an edit that matched nothing found instead, for its error."""
    spec = spec_for(model)
    return (
        f"{type(model).__name__} has {len(spec.encoder_layers(model))} encoder and "
        f"{len(spec.decoder_layers(model))} decoder layers"
    )


def family_of(config: Any) -> str:
    """The family of a config, edited or not (`compressed_t5` is `t5`)."""
    return str(getattr(config, "model_type", "")).removeprefix(COMPRESSED_PREFIX)


def spec_for(model: Any) -> BackboneSpec:
    """The spec of `model`'s family.

    Raises:
        ModelError: the family has no spec.
    """
    family = family_of(getattr(model, "config", None))
    if family not in SPECS:
        raise ModelError(
            f"No backbone of family {family or type(model).__name__!r} is known; there are: {', '.join(SPECS)}."
        )
    return SPECS[family]
