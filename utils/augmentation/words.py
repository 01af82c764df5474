"""Text as words and what stands between them, and which of the words may be replaced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

_WORD = re.compile(r"\w+|[^\w\s]")

_STOP_TEXT = """
a an the this that these those such same other another each every either neither both all any some few many much
more most several own one ones no none not nor only just even also too very so quite rather
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
herself it its itself they them their theirs themselves who whom whose which what whoever whatever
someone somebody something anyone anybody anything everyone everybody everything nobody nothing
and or but if then else than because as while until although though since unless whereas whether
of at by for with without within about against between among into onto through throughout during before after
above below over under to from up upon down in out on off across along around behind beside beyond near per via
toward towards again further once here there where when why how now ever never always
am is are was were be been being have has had having do does did doing done can could may might must shall should
will would ought need let
s t d m o y ll re ve ain aren couldn didn doesn don hadn hasn haven isn mightn mustn needn shan shouldn wasn weren
won wouldn
"""
#: English words without meaning of their own: replacing them breaks a sentence and teaches nothing. The last lines
#: are what tokenisers leave of contractions (don't -> don ' t).
STOP_WORDS = frozenset(_STOP_TEXT.split())


@dataclass(frozen=True)
class Sentence:
    """Words with the text around them: gaps[0] + words[0] + gaps[1] + … + gaps[-1]."""

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Cut into words and single marks; `joined` of the same words gives the text back."""
        words, gaps, end = [], [], 0
        for match in _WORD.finditer(text):
            words.append(match.group())
            gaps.append(text[end : match.start()])
            end = match.end()
        return cls(tuple(words), (*gaps, text[end:]))

    @classmethod
    def of_tokens(cls, tokens: Sequence[str]) -> Self:
        """Tokens as they are, one space between two."""
        return cls(tuple(tokens), ("", *[" "] * (len(tokens) - 1), "") if tokens else ("",))

    def joined(self, words: Sequence[str]) -> str:
        """The text with other words in the places of its own."""
        parts = [part for pair in zip(self.gaps, words, strict=False) for part in pair]
        return "".join([*parts, self.gaps[-1]])


def may_be_replaced(word: str) -> bool:
    """Whether a word has letters only and is no stop word: numbers, marks and mixtures of them stay."""
    return word.isalpha() and word.lower() not in STOP_WORDS


def is_candidate(word: str) -> bool:
    """Whether a word may stand in another's place: as `may_be_replaced`, and no single letter."""
    return len(word) > 1 and may_be_replaced(word)


def match_case(candidate: str, word: str) -> str:
    """`candidate` in capitals where `word` is, so that lower-case vocabularies can write any text."""
    if word.isupper() and len(word) > 1:
        return candidate.upper()
    return candidate[:1].upper() + candidate[1:] if word[:1].isupper() else candidate
