"""Which lines of a text corpus are prose, and what is repaired in them (Xcompression's rules for Wikipedia text).

The rules are inferred from golden lines. These leave the smallest share of letters open between 0.858 and 0.955;
the lower end is taken, which keeps sentences with numbers and names.
"""

import re

MIN_CHARACTERS = 50
MIN_PROSE = 0.86  # share of ASCII letters and spaces

_NOT_PROSE = re.compile(r"[^A-Za-z ]+")
_DOTS = re.compile(r"\.{4,}")
_ASTERISK = re.compile(r" \*(?=\S)")
_REPLACED = (("<<", "«"), (">>", "»"), (",,", ","), (",.", "."))

# A sentence ends at . ! or ?, perhaps closed by a quote or bracket, before a word that can begin one.
_BREAK = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"'”’)\]]))\s+(?=[\"'“‘(\[]?[A-Z0-9])")
_NO_END = re.compile(r"(?:^|[\s(.])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Gen|Col|Capt|Lt|Sgt|No|Vol|vs|ca|cf|approx)\.$")


def is_valid(line: str) -> bool:
    """Whether ``line`` is prose: long enough, not a row of a table, and nearly all English letters and spaces."""
    if len(line) < MIN_CHARACTERS or line.startswith("|"):
        return False
    return len(_NOT_PROSE.sub("", line)) >= MIN_PROSE * len(line)


def pre_cleanup(line: str) -> str:
    """One space between words; runs of dots, doubled commas and brackets and leading asterisks repaired."""
    line = _DOTS.sub("...", " ".join(line.split()))
    for found, better in _REPLACED:
        line = line.replace(found, better)
    return " ".join(_ASTERISK.sub(" ", line).split())


def post_cleanup(line: str) -> str:
    """No backslashes; one space between words."""
    return " ".join(line.replace("\\", " ").split())


def clean(line: str) -> str:
    """Both cleanups, in their order."""
    return post_cleanup(pre_cleanup(line))


def split_sentences(text: str) -> list[str]:
    """The sentences of a paragraph, by punctuation: a few abbreviations and initials end none.

    A wrong cut does no harm here: sentences only decide where training examples may begin and end.
    """
    sentences: list[str] = []
    for piece in _BREAK.split(text):
        if sentences and _NO_END.search(sentences[-1]):
            sentences[-1] += f" {piece}"
        else:
            sentences.append(piece)
    return sentences
