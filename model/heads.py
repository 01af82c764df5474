"""What turns a T5's output into task predictions: verbalizer scores and generated answers.

Shapes: B batch, L length, T target length, V vocabulary, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from model.inputs import model_inputs

Batch = dict[str, Tensor]


class HeadOutput(NamedTuple):
    """`scores`: (B, C) for classification, (B, L, C) for tagged words, (B, T, V) for sequence to sequence; the last
    hidden states of the encoder and, where there is one, of the decoder."""

    scores: Tensor
    encoder_hidden: Tensor
    decoder_hidden: Tensor | None = None


@dataclass(frozen=True)
class VerbalizerHead:
    """Classification by the words that fill the answer slot (Variator, section 4.1).

    The decoder reads [start, `<extra_id_0>`]; the scores are its last logits at the verbalizers' token ids.

    Attributes:
        token_ids: one id per class, in label order.
        sentinel_id: id of `<extra_id_0>`.
        decoder_start: 0 (`<pad>`, as T5 was pre-trained) or 2 (`<unk>`, as the original fine-tuned).
        logit_scale: temperature; see `model.plugin.published.original_logit_scale`.
    """

    token_ids: Sequence[int]
    sentinel_id: int
    decoder_start: int = 0
    logit_scale: float = 1.0

    def __call__(self, model: PreTrainedModel, batch: Batch) -> HeadOutput:
        """Scores (B, C) and hidden states."""
        ids = batch["input_ids"]
        start = torch.tensor([self.decoder_start, self.sentinel_id], device=ids.device).expand(ids.shape[0], 2)
        encoder, decoder = encode_decode(model, ids, batch["attention_mask"], start, None)
        logits = lm_logits(model, decoder[:, -1], self.token_ids)
        return HeadOutput(logits * self.logit_scale, encoder, decoder)


class ClassifierHead:
    """The classifier that a BERT or an EncT5 has of its own, of whole rows or of words."""

    def __call__(self, model: Any, batch: Batch) -> HeadOutput:
        """Scores (B, C) or (B, L, C), and the encoder's hidden states."""
        output = model(**model_inputs(model, batch), output_hidden_states=True)
        return HeadOutput(output.logits, output.hidden_states[-1])


@dataclass(frozen=True)
class Seq2SeqHead:
    """Teacher-forced language modelling: logits of every target position.

    Attributes:
        logit_scale: temperature; see `model.plugin.published.original_logit_scale`.
    """

    logit_scale: float = 1.0

    def __call__(self, model: PreTrainedModel, batch: Batch) -> HeadOutput:
        """Logits (B, T, V) and hidden states."""
        encoder, decoder = encode_decode(
            model,
            batch["input_ids"],
            batch["attention_mask"],
            batch["decoder_input_ids"],
            batch["decoder_attention_mask"],
        )
        return HeadOutput(lm_logits(model, decoder) * self.logit_scale, encoder, decoder)


def encode_decode(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    decoder_input_ids: Tensor,
    decoder_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Last hidden states of encoder (B, L, D) and decoder (B, T, D), both after their final layer norm."""
    encoder = model.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    decoder = model.decoder(
        input_ids=decoder_input_ids,
        attention_mask=decoder_mask,
        encoder_hidden_states=encoder,
        encoder_attention_mask=attention_mask,
        use_cache=False,
    ).last_hidden_state
    return encoder, decoder


def lm_logits(model: Any, decoder_hidden: Tensor, token_ids: Sequence[int] | None = None) -> Tensor:
    """Logits as Hugging Face's T5 gives them, of all tokens or of the few in `token_ids` only."""
    if model.config.scale_decoder_outputs:
        decoder_hidden = decoder_hidden * model.config.d_model**-0.5
    if token_ids is None:
        return model.lm_head(decoder_hidden)
    return torch.nn.functional.linear(decoder_hidden, model.lm_head.weight[list(token_ids)])


def generate_answers(
    model: Any,
    batch: Batch,
    sentinel_ids: Sequence[int],
    eos_id: int,
    decoder_start: int = 0,
    max_new_tokens: int = 32,
) -> Tensor:
    """Greedy answers for SQuAD: (B, ≤ max_new_tokens) token ids behind [start, `<extra_id_0>`].

    Generation ends at `<extra_id_1>` or EOS, neither of which may come first; other sentinels never come.
    The original searched on with the runner-up after an end token; this is plain greedy search.
    """
    ids = batch["input_ids"]
    start = torch.tensor([decoder_start, sentinel_ids[0]], device=ids.device).expand(ids.shape[0], 2)
    output = model.generate(
        input_ids=ids,
        attention_mask=batch["attention_mask"],
        decoder_input_ids=start,
        max_new_tokens=max_new_tokens,
        min_new_tokens=1,
        do_sample=False,
        num_beams=1,
        eos_token_id=[eos_id, sentinel_ids[1]],
        suppress_tokens=[sentinel_ids[0], *sentinel_ids[2:]],
    )
    return output[:, 2:]
