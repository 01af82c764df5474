"""Registration with Transformers' `Auto…` classes: what lets a saved compressed model load by its directory.

`import model` registers one `compressed_…` config type per family and, per head, a class that builds the
edits right after the dense structure, so that `from_pretrained` finds every key of the checkpoint in place.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForTextEncoding,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5Model,
)

from model.backbone import COMPRESSED_PREFIX
from model.compression import build_edits


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


def register() -> None:
    """Make the compressed classes known to Transformers; repeating it changes nothing."""
    AutoConfig.register(CompressedT5Config.model_type, CompressedT5Config, exist_ok=True)
    AutoModelForSeq2SeqLM.register(CompressedT5Config, CompressedT5ForConditionalGeneration, exist_ok=True)
    AutoModel.register(CompressedT5Config, CompressedT5Model, exist_ok=True)
    AutoModelForTextEncoding.register(CompressedT5Config, CompressedT5EncoderModel, exist_ok=True)
