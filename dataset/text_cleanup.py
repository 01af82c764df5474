"""Which lines of a text corpus are prose, and what is repaired in them (Xcompression's rules for Wikipedia text)."""

import re

#: Of a valid line: its length, and how many ASCII letters it has at least, by number and as a share.
MIN_CHARACTERS, MAX_CHARACTERS = 50, 1_000_000
MIN_LETTERS, MIN_LETTER_SHARE = 50, 0.7
#: Marks of tables and paths, and the largest share of a valid line that each may have.
TABLE_MARKS, MAX_MARK_SHARE = "/\\|", 0.05

_NOT_LETTERS = re.compile(r"[^A-Za-z]+")
_DOTS = re.compile(r"\.{4,}")
_ASTERISK = re.compile(r" \*(?=\S)")
_REPLACED = (("<<", "«"), (">>", "»"), (",,", ","), (",.", "."))

# A sentence ends at . ! or ?, perhaps closed by a quote or bracket, before a word that can begin one.
_BREAK = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"'”’)\]]))\s+(?=[\"'“‘(\[]?[A-Z0-9])")
_NO_END = re.compile(r"(?:^|[\s(.])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Gen|Col|Capt|Lt|Sgt|No|Vol|vs|ca|cf|approx)\.$")


def is_valid(line: str) -> bool:
    """Whether ``line`` is prose: not too short or long, mostly English letters, and no row of a table."""
    length = len(line)
    if not MIN_CHARACTERS <= length <= MAX_CHARACTERS or line.startswith("|"):
        return False
    if any(line.count(mark) > MAX_MARK_SHARE * length for mark in TABLE_MARKS):
        return False
    return len(_NOT_LETTERS.sub("", line)) >= max(MIN_LETTERS, MIN_LETTER_SHARE * length)


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
