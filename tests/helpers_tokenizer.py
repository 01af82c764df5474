"""A tiny T5-like tokenizer: pad 0, end 1, unknown 2, and ``<extra_id_0>`` as the highest id."""

import string
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

NUM_SENTINELS = 100
_TEXT = """
Yes No Maybe negative positive Sentence Question Context Answer Does sentence entails Are the two paraphrase
of each other this express or emotions contains answer to question a good bad film and is it
"""
WORDS = tuple(_TEXT.split())


def tiny_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """A unigram tokenizer: whole ``words``, and single characters for the rest of printable ASCII."""
    letters = [f"{mark}{letter}" for mark in ("▁", "") for letter in string.ascii_letters + string.digits]
    marks = [mark for mark in string.punctuation if mark != "▁"]
    pieces = dict.fromkeys(["▁", *letters, *marks], -10.0)
    pieces |= {f"▁{word}": -2.0 for word in words}
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(NUM_SENTINELS))]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary = [*special, *pieces.items(), *((token, 0.0) for token in sentinels)]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    core.normalizer = normalizers.Sequence([normalizers.NFKC()])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    core.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    core.add_special_tokens([AddedToken(token, special=True) for token in sentinels])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
