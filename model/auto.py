"""Registration with Transformers' `Auto…` classes: what lets a saved compressed model load by its directory.

`import model` registers one `compressed_…` config type per family and, per head, a class that builds the
edits right after the dense structure, so that `from_pretrained` finds every key of the checkpoint in place.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5Model,
    T5TokenizerFast,
)

from model.backbone import COMPRESSED_PREFIX
from model.compression import build_edits
from model.enct5 import EncT5Config, EncT5ForSequenceClassification, EncT5ForTokenClassification


class CompressedT5Config(T5Config):
    """A T5 config with the list of edits (`compression`), in stacking order."""

    model_type = COMPRESSED_PREFIX + "t5"

    compression: list[dict[str, Any]] | None = None


class _BuildsEdits:
    """Mixin before a Hugging Face class: after the dense structure, the structure of the edits."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]  # the next class is a PreTrainedModel
        build_edits(self, config.compression or [])


class CompressedT5ForConditionalGeneration(_BuildsEdits, T5ForConditionalGeneration):
    """T5 with its language-model head and the edits of its config."""

    config_class = CompressedT5Config


class CompressedT5Model(_BuildsEdits, T5Model):
    """T5 without a head, with the edits of its config."""

    config_class = CompressedT5Config


class CompressedT5EncoderModel(_BuildsEdits, T5EncoderModel):
    """T5's encoder alone, with the edits of its config."""

    config_class = CompressedT5Config


class CompressedBertConfig(BertConfig):
    """A BERT config with the list of edits (`compression`), in stacking order."""

    model_type = COMPRESSED_PREFIX + "bert"

    compression: list[dict[str, Any]] | None = None


class CompressedBertModel(_BuildsEdits, BertModel):
    """BERT without a head, with the edits of its config."""

    config_class = CompressedBertConfig


class CompressedBertForMaskedLM(_BuildsEdits, BertForMaskedLM):
    """BERT with its masked-language-model head and the edits of its config."""

    config_class = CompressedBertConfig


class CompressedBertForPreTraining(_BuildsEdits, BertForPreTraining):
    """BERT with the two heads of its pre-training and the edits of its config."""

    config_class = CompressedBertConfig


class CompressedBertForSequenceClassification(_BuildsEdits, BertForSequenceClassification):
    """BERT with a classifier of whole sequences and the edits of its config."""

    config_class = CompressedBertConfig


class CompressedBertForTokenClassification(_BuildsEdits, BertForTokenClassification):
    """BERT with a classifier of tokens and the edits of its config."""

    config_class = CompressedBertConfig


class CompressedBertForQuestionAnswering(_BuildsEdits, BertForQuestionAnswering):
    """BERT with a head for answer spans and the edits of its config."""

    config_class = CompressedBertConfig


class CompressedEncT5Config(EncT5Config):
    """An EncT5 config with the list of edits (`compression`), in stacking order."""

    model_type = COMPRESSED_PREFIX + "enct5"

    compression: list[dict[str, Any]] | None = None


class CompressedEncT5ForSequenceClassification(_BuildsEdits, EncT5ForSequenceClassification):
    """EncT5 for whole sequences with the edits of its config."""

    config_class = CompressedEncT5Config


class CompressedEncT5ForTokenClassification(_BuildsEdits, EncT5ForTokenClassification):
    """EncT5 for tokens with the edits of its config."""

    config_class = CompressedEncT5Config


_BERT_HEADS = (
    (AutoModel, CompressedBertModel),
    (AutoModelForMaskedLM, CompressedBertForMaskedLM),
    (AutoModelForPreTraining, CompressedBertForPreTraining),
    (AutoModelForSequenceClassification, CompressedBertForSequenceClassification),
    (AutoModelForTokenClassification, CompressedBertForTokenClassification),
    (AutoModelForQuestionAnswering, CompressedBertForQuestionAnswering),
)

_ENCT5_HEADS = (
    (EncT5Config, EncT5ForSequenceClassification, EncT5ForTokenClassification),
    (CompressedEncT5Config, CompressedEncT5ForSequenceClassification, CompressedEncT5ForTokenClassification),
)


def register() -> None:
    """Make EncT5 and the compressed classes known to Transformers; repeating it changes nothing."""
    AutoConfig.register(CompressedT5Config.model_type, CompressedT5Config, exist_ok=True)
    AutoModelForSeq2SeqLM.register(CompressedT5Config, CompressedT5ForConditionalGeneration, exist_ok=True)
    AutoModel.register(CompressedT5Config, CompressedT5Model, exist_ok=True)
    AutoModelForTextEncoding.register(CompressedT5Config, CompressedT5EncoderModel, exist_ok=True)
    AutoConfig.register(CompressedBertConfig.model_type, CompressedBertConfig, exist_ok=True)
    for auto_class, head in _BERT_HEADS:
        auto_class.register(CompressedBertConfig, head, exist_ok=True)
    for config, sequence, token in _ENCT5_HEADS:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForSequenceClassification.register(config, sequence, exist_ok=True)
        AutoModelForTokenClassification.register(config, token, exist_ok=True)
        AutoTokenizer.register(config, fast_tokenizer_class=T5TokenizerFast, exist_ok=True)
    # A directory with nothing but a vocab.txt, as old BERTs have: the model type names the tokenizer.
    AutoTokenizer.register(CompressedBertConfig, fast_tokenizer_class=BertTokenizerFast, exist_ok=True)
