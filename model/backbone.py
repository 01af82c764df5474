"""Where a pretrained Transformer keeps the parts that the edits replace, and their sizes.

An edit never names a module of a concrete class. It asks the `BackboneSpec` of the model's family for the
slots it needs, so a new family (BERT, RoBERTa, …) is one more entry of `SPECS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from torch import nn

from model.errors import ModelError
from model.feed_forward import BertFeedForward, join, split

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
    """One Transformer layer: its self-attention, its feed-forward network, and in a decoder its cross-attention.

    Attributes:
        attention: the self-attention.
        ffn: the whole feed-forward network, None while the family keeps it in no module of its own (BERT; see
            `BackboneSpec.join_ffns`).
        ffn_in: its input projections, two where it is gated.
        ffn_out: its output projection.
        activation: what stands between them, where it is a module that takes the result of `ffn_in` and nothing else.
        cross_attention: the attention to the encoder's states, None in an encoder.
    """

    attention: AttentionSlots
    ffn: Slot | None
    ffn_in: tuple[Slot, ...]
    ffn_out: Slot
    activation: Slot | None = None
    cross_attention: AttentionSlots | None = None


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
        layer_list: gives the slot of the list of the encoder's layers.
        relative_bias: whether the first layer of a stack holds a table of position biases, one column per head, that
            all its layers add to their attention scores.
        stream_scale: size of the residual stream, by the rule of thumb that plugins begin with: 1 where every
            sub-layer's result is normalised (BERT), 100 where it only grows (T5).
        join_ffns: makes the feed-forward network of every encoder layer one module (`LayerSlots.ffn`) where it is not.
        split_ffns: its inverse, once nothing wraps them any more.
    """

    family: str
    encoder: Callable[[Any], nn.Module]
    encoder_layers: Callable[[Any], list[LayerSlots]]
    decoder_layers: Callable[[Any], list[LayerSlots]]
    sizes: Callable[[Any], BackboneSizes]
    embeddings: Callable[[Any], Slot]
    layer_list: Callable[[Any], Slot]
    relative_bias: bool = False
    stream_scale: float = 1.0
    join_ffns: Callable[[Any], None] = lambda model: None
    split_ffns: Callable[[Any], None] = lambda model: None

    def layer_lists(self, model: Any) -> list[nn.Module]:
        """The list of the encoder's layers, and that of the decoder's where there is one."""
        encoder = self.layer_list(model)
        decoder = getattr(model, "decoder", None)
        return [encoder.module, *([] if decoder is None else [decoder.get_submodule(encoder.name)])]


def _t5_attention(layer: Any, name: str) -> AttentionSlots:
    block = getattr(layer, name)
    return AttentionSlots(Slot(layer, name), *(Slot(block, letter) for letter in "qkvo"))


def _t5_layers(stack: Any) -> list[LayerSlots]:
    layers = []
    for block in stack.block:
        whole = block.layer[-1].DenseReluDense
        ffn = getattr(whole, "base_layer", whole)  # with plugins, the dense one is inside
        layers.append(
            LayerSlots(
                attention=_t5_attention(block.layer[0], "SelfAttention"),
                ffn=Slot(block.layer[-1], "DenseReluDense"),
                ffn_in=tuple(Slot(ffn, name) for name in ("wi", "wi_0", "wi_1") if hasattr(ffn, name)),
                ffn_out=Slot(ffn, "wo"),
                cross_attention=_t5_attention(block.layer[1], "EncDecAttention") if len(block.layer) == 3 else None,
            )
        )
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
    layer_list=lambda model: Slot(model.get_encoder(), "block"),
    relative_bias=True,
    stream_scale=100.0,
)

#: T5's encoder with a classifier (`model.enct5`): the same parts by the same names.
ENCT5 = replace(T5, family="enct5")


def _bert_base(model: Any) -> Any:
    """The `BertModel` of a head, or the model itself where it is one."""
    return getattr(model, "bert", model)


def _bert_layers(model: Any) -> list[LayerSlots]:
    layers = []
    for layer in _bert_base(model).encoder.layer:
        whole = layer.attention.self
        block = getattr(whole, "base_layer", whole)  # with nested widths, the attention itself is inside
        attention = AttentionSlots(
            Slot(layer.attention, "self"),
            query=Slot(block, "query"),
            key=Slot(block, "key"),
            value=Slot(block, "value"),
            output=Slot(layer.attention.output, "dense"),
        )
        whole = getattr(layer.intermediate, "base_layer", layer.intermediate)  # with plugins, the dense one is inside
        joined = isinstance(whole, BertFeedForward)
        first = whole.intermediate if joined else whole
        layers.append(
            LayerSlots(
                attention,
                ffn=Slot(layer, "intermediate") if joined else None,
                ffn_in=(Slot(first, "dense"),),
                ffn_out=Slot(whole if joined else layer.output, "dense"),
                activation=Slot(first, "intermediate_act_fn"),
            )
        )
    return layers


def _bert_join_ffns(model: Any) -> None:
    for layer in _bert_base(model).encoder.layer:
        join(layer)


def _bert_split_ffns(model: Any) -> None:
    for layer in _bert_base(model).encoder.layer:
        split(layer)


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
    layer_list=lambda model: Slot(_bert_base(model).encoder, "layer"),
    join_ffns=_bert_join_ffns,
    split_ffns=_bert_split_ffns,
)

SPECS: Mapping[str, BackboneSpec] = MappingProxyType({T5.family: T5, ENCT5.family: ENCT5, BERT.family: BERT})


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
