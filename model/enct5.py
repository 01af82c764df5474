"""EncT5: classification with a T5 encoder, in one pass and without generating words.

Sequences: the encoder, then a decoder of one layer that reads one learned vector (the prompt) and looks at the
encoder's states, then a linear classifier. Tokens: the classifier on the encoder's states, without a decoder.

    model = enct5_from_t5("t5-small", num_labels=2)
    model.save_pretrained("classifier")
    # in any process that did `import model`
    AutoModelForSequenceClassification.from_pretrained("classifier", trust_remote_code=False)

Source: Liu et al. 2021, "EncT5" (arXiv:2110.08426); checkpoints and names of the MiniDisc release.
Shapes: B batch, L length, D width, C classes, H heads, d head size.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput
from transformers.models.t5.modeling_t5 import T5PreTrainedModel, T5Stack

from model.errors import ModelError
from model.pretrained import open_pretrained

Head = Literal["sequence", "token"]

#: Original names that hold no weight: the order in which a block's heads stand now.
_HEAD_ORDER = ".head_indices.indices"
_CLASSIFIER = ("cls.", "classifier.")
#: Settings of a T5 that do not go with it into an EncT5.
_NOT_T5S = (
    *("model_type", "architectures", "num_decoder_layers", "is_encoder_decoder"),
    *("use_cache", "id2label", "label2id"),
)


class EncT5Config(T5Config):
    """A T5 config whose decoder has one layer, and which generates nothing."""

    model_type = "enct5"

    num_decoder_layers: int | None = 1
    is_encoder_decoder: bool = False
    use_cache: bool = False


class EncT5PreTrainedModel(T5PreTrainedModel):
    """What the two heads share: embedding, encoder, initialisation."""

    config_class = EncT5Config
    _tied_weights_keys: ClassVar[dict[str, str]] = {"encoder.embed_tokens.weight": "shared.weight"}

    def __init__(self, config: EncT5Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(_stack_config(config, is_decoder=False))

    def get_input_embeddings(self) -> nn.Module:
        """The word embedding."""
        return self.shared

    def set_input_embeddings(self, new_embeddings: nn.Embedding) -> None:
        """Hang another word embedding into the model and its encoder."""
        self.shared = new_embeddings
        self.encoder.set_input_embeddings(new_embeddings)

    def get_encoder(self, *_: Any, **__: Any) -> nn.Module:
        """The encoder stack."""
        return self.encoder

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EncT5PreTrainedModel):
            factor = self.config.initializer_factor
            nn.init.normal_(module.shared.weight, std=factor)
            nn.init.normal_(module.classifier.weight, std=factor * self.config.d_model**-0.5)
            nn.init.zeros_(module.classifier.bias)
            if isinstance(prompt := getattr(module, "prompt", None), nn.Parameter):
                nn.init.normal_(prompt, std=factor)


class EncT5ForSequenceClassification(EncT5PreTrainedModel):
    """T5's encoder, one decoder layer on a learned vector, and a classifier of whole sequences (B, C)."""

    def __init__(self, config: EncT5Config) -> None:
        super().__init__(config)
        self.prompt = nn.Parameter(torch.empty(1, config.d_model))
        self.decoder = T5Stack(_stack_config(config, is_decoder=True))
        self.decoder.embed_tokens = None  # it reads the prompt only
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits (B, C) of `input_ids` (B, L) or `inputs_embeds` (B, L, D).

        Args:
            attention_mask: (B, L), 0 where a position is padding.
            token_type_ids: ignored; T5 has no segments.
            labels: (B,), classes or (with one output) values; they give `loss`.
            kwargs: for the encoder: `output_hidden_states` gives its hidden states, the last after the final norm.
        """
        encoded = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )
        states = encoded.last_hidden_state
        decoded = self.decoder(
            inputs_embeds=self.prompt.expand(states.shape[0], *self.prompt.shape),
            encoder_hidden_states=states,
            encoder_attention_mask=attention_mask,
            use_cache=False,
        )
        logits = self.classifier(self.dropout(decoded.last_hidden_state[:, -1]))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )


class EncT5ForTokenClassification(EncT5PreTrainedModel):
    """T5's encoder and a classifier of tokens (B, L, C); no decoder."""

    def __init__(self, config: EncT5Config) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Logits (B, L, C) of `input_ids` (B, L) or `inputs_embeds` (B, L, D).

        Args:
            attention_mask: (B, L), 0 where a position is padding.
            token_type_ids: ignored; T5 has no segments.
            labels: (B, L), -100 where a position does not count; they give `loss`.
            kwargs: for the encoder: `output_hidden_states` gives its hidden states, the last after the final norm.
        """
        encoded = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )
        logits = self.classifier(self.dropout(encoded.last_hidden_state))
        loss = None if labels is None else self.loss_function(logits, labels, self.config)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )


_HEADS: dict[str, type[EncT5PreTrainedModel]] = {
    "sequence": EncT5ForSequenceClassification,
    "token": EncT5ForTokenClassification,
}


def enct5_from_t5(
    source: PreTrainedModel | str | Path, num_labels: int, head: Head = "sequence", decoder_layers: int = 1
) -> Any:
    """An EncT5 that begins from a pretrained T5, in evaluation mode; the classifier is drawn.

    The decoder is the first layers of T5's; the prompt begins as the embedding of the token that T5's decoder
    starts with. A T5 without a decoder leaves both drawn, with a warning.

    Args:
        source: a T5 with or without its language-model head, or a directory of one. It is not changed.
        num_labels: C; 1 for a regression.
        head: what is classified.
        decoder_layers: how many of T5's decoder layers stay, in a head for sequences.

    Raises:
        ModelError: `source` is no T5 or carries edits, its decoder is too shallow, or a directory lacks tensors.
    """
    t5, lacking = _load_t5(source) if isinstance(source, str | Path) else (source, frozenset())
    config = getattr(t5, "config", None)
    if getattr(config, "model_type", None) != "t5":
        what = getattr(config, "model_type", type(t5).__name__)
        raise ModelError(f"EncT5 begins from a plain T5, found a model of type {what!r}.")
    assert config is not None
    has_decoder = hasattr(t5, "decoder")
    if head == "sequence" and has_decoder and not 1 <= decoder_layers <= config.num_decoder_layers:
        raise ModelError(
            f"The decoder keeps {decoder_layers} layers, the T5 has {config.num_decoder_layers}; expected 1 or more."
        )
    model = _HEADS[head](_config_from_t5(config, num_labels, decoder_layers)).eval()
    wanted = model.state_dict()
    if absent := sorted(lacking & wanted.keys()):
        raise ModelError(f"{source} lacks {len(absent)} tensors that an EncT5 begins from, {absent[0]} for one.")
    found = {name: tensor for name, tensor in t5.state_dict().items() if name in wanted}
    if head == "sequence" and has_decoder:
        start = getattr(config, "decoder_start_token_id", None)
        start = config.pad_token_id if start is None else start
        found["prompt"] = found["shared.weight"][start : start + 1]
    elif head == "sequence":
        warnings.warn("The T5 has no decoder: EncT5's decoder layer and prompt are drawn anew.", stacklevel=2)
    model.load_state_dict(found, strict=False)
    return model


def enct5_from_original(state: dict[str, Tensor], config: T5Config, head: Head = "sequence") -> Any:
    """An EncT5 with the weights of an original checkpoint, in evaluation mode.

    A checkpoint whose heads were reordered by importance gets them back in the order of its position biases.

    Args:
        state: tensors by their original names (`prompt`, `encoder.*`, `decoder.*`, `cls.*`).
        config: sizes of its backbone; the number of classes is read from the tensors.
        head: what it classifies.

    Raises:
        ModelError: tensors are missing, superfluous, or of another shape (the checkpoint is pruned).
    """
    named = {_modern_name(name): tensor for name, tensor in _heads_in_order(state, config.d_kv).items()}
    if "classifier.weight" not in named:
        raise ModelError("The checkpoint is no EncT5 in the original's format: it has no cls.weight.")
    model = _HEADS[head](_config_from_t5(config, named["classifier.weight"].shape[0], _depth(named))).eval()
    expected = model.state_dict()
    named.setdefault("shared.weight", named.get("encoder.embed_tokens.weight", torch.empty(0)))
    named.setdefault("encoder.embed_tokens.weight", named["shared.weight"])
    for name in sorted(expected.keys() ^ named.keys()):
        what = "lacks" if name in expected else "has no place for"
        raise ModelError(f"The original EncT5 checkpoint {what} {name}, for a head of kind {head!r}.")
    for name, tensor in named.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{name} has shape {tuple(tensor.shape)}, the config gives {tuple(expected[name].shape)}: "
                "only checkpoints that are not pruned are read."
            )
    model.load_state_dict(named)
    return model


def _stack_config(config: EncT5Config, is_decoder: bool) -> EncT5Config:
    stack = copy.deepcopy(config)
    stack.is_decoder = is_decoder
    if is_decoder:
        stack.num_layers = config.num_decoder_layers
    return stack


def _load_t5(directory: str | Path) -> tuple[PreTrainedModel, frozenset[str]]:
    """The T5 of a directory, and the names of the tensors that it lacks."""
    config = open_pretrained(AutoConfig, directory)
    if config.model_type != "t5":
        raise ModelError(f"EncT5 begins from a plain T5, but {directory} holds a model of type {config.model_type!r}.")
    model, info = open_pretrained(T5ForConditionalGeneration, directory, config=config, output_loading_info=True)
    return model, frozenset(info["missing_keys"])


def _config_from_t5(config: T5Config, num_labels: int, decoder_layers: int) -> EncT5Config:
    own = (
        "model_type",
        "architectures",
        "num_decoder_layers",
        "is_encoder_decoder",
        "use_cache",
        "id2label",
        "label2id",
    )
    values = {name: value for name, value in config.to_dict().items() if name not in own}
    return EncT5Config.from_dict({**values, "num_decoder_layers": decoder_layers, "num_labels": num_labels})


def _depth(state: dict[str, Tensor]) -> int:
    """Number of decoder layers among the tensors, at least 1."""
    found = {name.split(".")[2] for name in state if name.startswith("decoder.block.")}
    return max(1, len(found))


def _modern_name(name: str) -> str:
    old, new = _CLASSIFIER
    return new + name.removeprefix(old) if name.startswith(old) else name


def _heads_in_order(state: dict[str, Tensor], head_size: int) -> dict[str, Tensor]:
    """The tensors with every block's heads as its position bias counts them, without the orders themselves."""
    ordered = {name: tensor for name, tensor in state.items() if not name.endswith(_HEAD_ORDER)}
    for name, order in state.items():
        if name.endswith(_HEAD_ORDER):
            block = name.removesuffix(_HEAD_ORDER)
            back = torch.argsort(order)
            rows = (back[:, None] * head_size + torch.arange(head_size)).flatten()
            for letter in "qkvo":
                key = f"{block}.{letter}.weight"
                if key in ordered and len(rows) == ordered[key].shape[1 if letter == "o" else 0]:
                    ordered[key] = ordered[key][:, rows] if letter == "o" else ordered[key][rows]
    return ordered
