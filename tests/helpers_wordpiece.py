"""A tiny BERT tokenizer, and text whose every word is another one, so that a token tells where it stood."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_tokenizer(folder: Path, words: Sequence[str]) -> Path:
    """A directory with a `vocab.txt`: the special tokens, then `words`."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *words]) + "\n", encoding="utf-8")
    return folder


class NumberedText:
    """Documents of lines of words `x0`, `x1`, … in order; each word has two pieces, `x7` and `##a`.

    Args:
        documents: for each document, the number of words of each line.
    """

    def __init__(self, documents: Sequence[Sequence[int]]) -> None:
        self.documents: list[list[list[int]]] = []
        number = 0
        for lines in documents:
            self.documents.append([])
            for words in lines:
                self.documents[-1].append(list(range(number, number + words)))
                number += words
        self.num_words = number

    @property
    def vocabulary(self) -> list[str]:
        """For `write_tokenizer`."""
        return [*(f"x{number}" for number in range(self.num_words)), "##a"]

    def write(self, path: Path) -> Path:
        """As plain text, blank lines between documents."""
        texts = ["\n".join(" ".join(f"x{n}a" for n in line) for line in lines) for lines in self.documents]
        path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
        return path

    def document_of(self, number: int) -> int:
        """The document that word `number` is in."""
        return next(at for at, lines in enumerate(self.documents) if number <= lines[-1][-1])
