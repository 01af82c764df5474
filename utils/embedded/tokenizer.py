"""A small T5 tokenizer, trained on the spot.

Layout of the ids, as in T5: 0 `<pad>`, 1 `</s>`, 2 `<unk>`, then the pieces, and last the sentinels counted
downwards, so that `<extra_id_0>` has the highest id.
"""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from tokenizers.trainers import UnigramTrainer
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
NUM_SENTINELS = 100
SPACE = "\u2581"
# Answers of the prompts: each must be told apart by its first piece, hence each is one piece.
WHOLE_WORDS = ("Yes", "No", "Maybe", "negative", "positive")
# Words of the prompts, which no training text has to contain.
PROMPT_WORDS = (
    "Sentence", "Question", "Context", "Answer", "Does", "Are", "this", "sentence", "express", "or",
    "emotions", "the", "two", "sentences", "questions", "paraphrase", "of", "each", "other", "entails",
    "contains", "answer", "to", "question", "1", "2",
)  # fmt: skip
# Log-probability given to those words: a split of one has two pieces or more, together far less likely.
_WORD_SCORE = -5.0
# Share of the pieces kept for the most frequent words of the text. Unigram training alone prefers to cut them
# ("although" into three), which makes the sentences of so small a model nearly twice as long.
_FREQUENT_SHARE = 0.6
# Most occurrences of a character are inside of longer pieces.
_CHARACTER_PENALTY = 2.0
_PRINTABLE_ASCII = [chr(code) for code in range(33, 127)]


def _lines(files: Sequence[Path]) -> Iterator[str]:
    for file in files:
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                if line.strip():
                    yield line.strip()


def _skeleton(pieces: list[tuple[str, float]] | None = None) -> Tokenizer:
    """T5's text handling around a Unigram model: NFKC, single spaces, words marked by U+2581."""
    model = Unigram(pieces, unk_id=2, byte_fallback=False) if pieces else Unigram()
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    return tokenizer


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads would add up floats in any order; with one the same text gives the same pieces."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _frequent_words(files: Sequence[Path], count: int) -> dict[str, float]:
    """The `count` most frequent words, as pieces with their log-probabilities."""
    counts: Counter[str] = Counter()
    for line in _lines(files):
        counts.update(unicodedata.normalize("NFKC", line).split())
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {SPACE + word: math.log(number / total) for word, number in ranked[:count]}


def _character_scores(files: Sequence[Path], found: set[str]) -> dict[str, float]:
    """Log-probabilities of the characters of the text and of ASCII as pieces of their own.

    The trainer scores the rare ones in an order that changes from run to run, hence this simple estimate.
    """
    counts: Counter[str] = Counter()
    for line in _lines(files):
        counts.update(unicodedata.normalize("NFKC", line))
    total = sum(counts.values())
    return {
        character: math.log((counts[character] + 1) / total) - _CHARACTER_PENALTY
        for character in sorted(found.union(_PRINTABLE_ASCII))
    }


def _train_pieces(files: Sequence[Path], count: int) -> list[tuple[str, float]]:
    """`count` pieces with their log-probabilities, best first, frequent and prompts' words among them."""
    tokenizer = _skeleton()
    trainer = UnigramTrainer(
        vocab_size=count,
        special_tokens=[],
        unk_token=None,
        show_progress=False,
    )
    with _one_thread():
        tokenizer.train_from_iterator(_lines(files), trainer)
    scores = {piece: float(score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]}
    scores.update(_character_scores(files, {piece for piece in scores if len(piece) == 1 and piece != SPACE}))
    wanted = _frequent_words(files, int(count * _FREQUENT_SHARE))
    for word in (*WHOLE_WORDS, *PROMPT_WORDS):
        wanted[SPACE + word] = max(wanted.get(SPACE + word, _WORD_SCORE), _WORD_SCORE)
    for piece, score in wanted.items():
        scores[piece] = max(scores.get(piece, score), score)
    # Room for the words: the least likely pieces go, but no single characters (they keep text free of <unk>).
    droppable = sorted(
        (piece for piece in scores if len(piece) > 1 and piece not in wanted), key=lambda p: (scores[p], p)
    )
    for piece in droppable[: max(0, len(scores) - count)]:
        del scores[piece]
    return sorted(((piece, round(score, 4)) for piece, score in scores.items()), key=lambda item: (-item[1], item[0]))


def train_tokenizer(
    files: Sequence[Path], vocab_size: int, *, extra_files: Sequence[Path] = ()
) -> PreTrainedTokenizerFast:
    """A fast T5 tokenizer of at most `vocab_size` tokens, special ones included, trained on text files.

    Args:
        files: UTF-8 text, one document per line.
        vocab_size: number of ids; a small corpus may not have as many pieces, the sentinels still come last.
        extra_files: further text files to train on.
    """
    pieces = _train_pieces([*files, *extra_files], vocab_size - 3 - NUM_SENTINELS)
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(NUM_SENTINELS))]
    vocabulary = [(PAD, 0.0), (EOS, 0.0), (UNK, 0.0), *pieces, *((sentinel, 0.0) for sentinel in sentinels)]
    tokenizer = _skeleton(vocabulary)
    tokenizer.add_special_tokens([PAD, EOS, UNK, *sentinels])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
